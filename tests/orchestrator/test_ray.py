"""Training, evaluation and the comparison of methods over a real Ray cluster and real vLLM engines."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from rich.console import Console

from actors.batch_shells import RemoteWeightReceiver
from actors.contracts import GenerationJob, GradeTask
from actors.weights import watch
from actors.weights.pieces import pieces_of
from actors.weights.watch import watched
from configs.config import Config
from configs.load import load
from orchestrator.cluster import start
from orchestrator.commands.cli import main
from orchestrator.commands.jobs.compare import METHODS, compare
from orchestrator.commands.paths import absolute
from orchestrator.evaluation.job import evaluate
from orchestrator.placement import Reservation, require_capacity
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.conftest import make_mixture_of_experts

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "task.heldout_prompts=4",
    "monitor.every=0",
    "monitor.answers=4",
    "monitor.ks=[1,4]",
    "evaluate.answers=4",
    "evaluate.ks=[1,4]",
    "logbook.console=false",
    "groups_per_step=4",
    "sampling.group_size=4",
    *(f"placement.threads_per_{role}=1" for role in ("generator", "learner", "reference")),
)
BREADTH = str(Path(sys.executable).parent / "breadth")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def config(runs: Path, *overrides: str) -> Config:
    return absolute(load([*SMALL, f"runs={runs}", *overrides]))


def train(cfg: Config, resume: bool = False) -> list[dict[str, Any]]:
    run_dir = asyncio.run(run_training(cfg, resume=resume, log=lambda text: None))
    return read_records(run_dir / "metrics.jsonl")


def test_two_learner_ranks_two_graders_and_references_over_ray_train_as_one_process_does(
    tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ("generator.engine=transformers", "method=grpo_adaptive_kl", "steps=3", "monitor.every=3")
    alone = train(config(tmp_path, "name=alone", "placement.kind=in_process", *shared))
    spread = train(
        config(
            tmp_path, "name=spread", "placement.learners=2", "placement.graders=2", "placement.references=2", *shared
        )
    )
    dumped = "logbook.dump_steps=[3]"
    held = train(
        config(tmp_path, "name=held", "placement.learners=2", "placement.references_on=learners", dumped, *shared)
    )
    assert [record["step"] for record in spread] == [record["step"] for record in alone]
    assert held[-1]["heldout/kl_to_base"] == pytest.approx(alone[-1]["heldout/kl_to_base"], abs=1e-3)
    for mine, theirs in zip([*alone[1:], *alone[1:]], [*spread[1:], *held[1:]], strict=True):
        for name in (
            "reward",
            "policy_loss",
            "grad_norm",
            "terms/divergence/coefficient",
            "entropy",
            "kl_reference_per_trajectory",
        ):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), (name, mine["step"])
    assert not ray.util.list_named_actors(all_namespaces=True)
    assert main(["replay-step", str(tmp_path / "held" / "steps" / "step-000003")]) == 0
    assert "all are within their limits" in " ".join(capsys.readouterr().out.split()), "of two ranks, on one"


EVERYTHING = (
    "method=safe_critic",
    "references.teacher.path=tasks/base_policies/three_domains",
    "references.slow={update: periodic, mixing_weight: 0.5}",
    "objective.terms.taught={name: reverse_kl, anchor: teacher, wiring: vocabulary, estimator: exact, "
    "weights: {importance: soft_or}, coefficient: {value: 0.1}}",
    "objective.terms.near={name: reverse_kl, anchor: slow, estimator: k2, coefficient: {value: 0.1}}",
    "objective.terms.unsure={name: forward_kl, estimator: straight_through, reweight: reward, "
    "weights: {certainty_power: 2.0}, coefficient: {value: 0.1}}",
    "objective.replay_weight=0.1",
    "objective.recap.window=1",
    "replay.batch=4",
)
"""A critic, a teacher, a moving reference, columns, scores before the update, and replay."""


def test_everything_passed_between_roles_is_the_same_over_ray_as_in_one_process(tmp_path: Path, cluster: None) -> None:
    shared = ("generator.engine=transformers", "steps=3", *EVERYTHING)
    alone = train(config(tmp_path, "name=alone", "placement.kind=in_process", *shared))
    spread = train(config(tmp_path, "name=spread", "placement.learners=2", "placement.references=2", *shared))
    for mine, theirs in zip(alone, spread, strict=True):
        of_them = [name for name in mine if name.startswith(("terms/", "value", "replay", "recap", "kl_", "entropy"))]
        assert len(of_them) > 12
        for name in ("reward", "policy_loss", "grad_norm", *of_them):
            assert theirs[name] == pytest.approx(mine[name], rel=5e-3, abs=1e-4), (name, mine["step"])


def test_vllm_trains_ahead_of_the_learner_and_evaluation_answers_with_its_checkpoint(
    tmp_path: Path, cluster: None
) -> None:
    ahead = ("lag=2", "take=any_order", "placement.generators=2", "monitor.every=2")
    cfg = config(tmp_path, "name=v", "steps=4", "generator.engine=vllm", "generator.checksum=true", *ahead)
    assert cfg.binds_late
    records = train(cfg)
    assert 1 <= max(record["staleness_max"] for record in records[1:]) <= 2
    assert [record["step"] for record in records if "heldout/pass@1" in record] == [0, 2, 4]
    on_policy = records[1]
    assert on_policy["mismatch_abs_log_ratio"] < 1e-4, "vLLM's log-probs are those of the published weights"
    trained = str(tmp_path / "v" / "checkpoints" / "step-000004" / "policy")
    # vLLM starts from the checkpoint's own directory, then receives the base's weights as in training.
    policies = {"trained": trained, "base": cfg.policy.path}
    [measured] = asyncio.run(evaluate(cfg, policies, lambda text: None))
    assert measured.names == ["trained", "base"]
    [output] = (tmp_path / "v" / "evaluations").iterdir()
    results = json.loads((output / "results.json").read_text())
    assert set(results["policies"]["base"]["1.0"]) >= {"pass@1", "pass@4", "retention", "intervals", "sharpening"}
    assert list(results["policies"]["trained"]) == ["1.3", "1.0", "0.8", "0.6", "0.4", "0.2", "0.0"]


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_two_generators_load_every_version_from_the_learners_memory_until_one_fails_which_is_named(
    tmp_path: Path, cluster: None, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ALIVE_S", 1.0)
    files, limit = set(os.listdir("/dev/shm")), "placement.publish_timeout_s=5"
    cfg = config(tmp_path, "name=shared", "generator.engine=transformers", "placement.generators=2", limit)
    words = {"dies": "its process died", "hangs": "update_weights did not answer within 5 s"}[fault]

    async def run() -> None:
        roles = await start(cfg, ["generator", "learner"])
        try:
            await roles.learner.connect(roles.generators)
            for version in range(3):
                await roles.learner.publish(version)
            assert roles.learner.shared
            first, second = roles.generators
            await asyncio.gather(*(generator.served(2) for generator in (first, second)))
            await second.alive(60.0)
            pid = await second.actor.__ray_call__.remote(lambda shell: os.getpid())
            os.kill(pid, signal.SIGKILL if fault == "dies" else signal.SIGSTOP)
            with pytest.raises(RuntimeError, match=f"^generator 1: {words}"):
                await roles.learner.publish(3)
            # From GPU to GPU the ranks send, and would wait for the generator for ever.
            with pytest.raises(RuntimeError, match=r"^generator 1: does not answer, and version 4 was not published"):
                await watched([asyncio.sleep(600)], [first, second], 4, 1.0)
            receiver = RemoteWeightReceiver(second.actor, second.name, 1.0)
            with pytest.raises(RuntimeError, match=r"^generator 1: receive "):
                await asyncio.to_thread(receiver.receive, {})
        finally:
            await roles.close()

    asyncio.run(run())
    assert not [name for name in set(os.listdir("/dev/shm")) - files if "breadth" in name]


def test_generators_on_another_node_load_pieces_until_one_dies_between_two_which_is_named(
    tmp_path: Path, cluster: None
) -> None:
    cfg = config(tmp_path, "name=pieces", "generator.engine=transformers", "placement.generators=2")

    def every_layer_is_a_piece(shell: Any) -> int:
        shell.role.outgoing.pieces = pieces_of(shell.role.policy.model, torch.float32, 1)
        return len(shell.role.outgoing.pieces)

    async def run() -> None:
        roles = await start(cfg, ["generator", "learner"])
        try:
            learner = roles.learner
            await learner.connect(roles.generators)
            # Which memory can be mapped is tested elsewhere: here all processes are on one node.
            learner.shared, rank = False, learner.ranks[0]
            learner.pieces = await rank.actor.__ray_call__.remote(every_layer_is_a_piece)
            assert learner.pieces > 3
            for version in range(2):
                await learner.publish(version)
                await asyncio.gather(*(generator.served(version) for generator in roles.generators))
            second, gathered, calls = roles.generators[1], learner._gathered, 0
            pid = await second.actor.__ray_call__.remote(lambda shell: os.getpid())

            async def gathered_and_killed(*arguments: Any, **limit: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == 3:
                    os.kill(pid, signal.SIGKILL)
                return await gathered(*arguments, **limit)

            learner._gathered = gathered_and_killed
            with pytest.raises(RuntimeError, match=r"^generator 1: its process died"):
                await learner.publish(2)
            assert calls == 3
        finally:
            await roles.close()

    asyncio.run(run())


def test_a_generator_sleeps_and_wakes_with_new_weights_over_ray(tmp_path: Path, cluster: None) -> None:
    cfg = config(tmp_path, "name=sleeps", "generator.engine=vllm")
    prompt = np.arange(3, 9, dtype=np.int32)
    job = GenerationJob(key="a", prompt_id="a", prompt_tokens=prompt, seeds=(1, 2), temperature=1.0, max_new_tokens=40)

    async def run() -> None:
        roles = await start(cfg, ["generator", "learner"])
        try:
            [generator], learner = roles.generators, roles.learner
            await learner.connect([generator])
            await learner.publish(0)
            assert await generator.sleep() == 0, "no answer is in flight"
            await generator.submit([job])
            await learner.ranks[0].free_gpu_memory()
            assert not len(await generator.collect(0.3)), "a sleeping engine decodes nothing"
            await generator.wake_up(["weights"])
            await learner.publish(1)
            assert not len(await generator.collect(0.3)), "without a key-value cache nothing is decoded"
            await generator.wake_up(["kv_cache"])
            taken = 0
            while taken < 2:
                taken += len(await generator.collect(60.0))
        finally:
            await roles.close()

    asyncio.run(run())


def test_the_process_of_a_grader_has_its_name_and_loads_no_torch(tmp_path: Path, cluster: None) -> None:
    async def work() -> tuple[float | None, list[str]]:
        started = await start(config(tmp_path, "name=g"), ["grader"])
        try:
            [grader] = started.graders
            problem = {"numbers": [3, 7, 12], "target": 22}
            task = GradeTask(key="a", verifier="countdown", problem=problem, answer="3+7+12")
            grades = await grader.grade([task])
            loaded = grader.actor.__ray_call__.remote(lambda shell: list(sys.modules))  # type: ignore[attr-defined]
            title = psutil.Process(grader.local_pid).cmdline()[0]  # type: ignore[attr-defined]
            assert title.startswith("ray::GraderShell"), title
            return grades["a"].reward, await loaded
        finally:
            await started.close()

    reward, loaded = asyncio.run(work())
    assert reward == 1.0
    assert "actors.grader" in loaded
    assert [name for name in ("torch", "vllm", "transformers") if name in loaded] == []


def test_the_comparison_of_methods_ends_with_results_a_report_and_a_table(tmp_path: Path, cluster: None) -> None:
    small = (
        "generator.engine=transformers",
        "steps=2",
        "rehearsal.prompts=256",
        "rehearsal.batch=8",
        "monitor.every=2",
    )
    small += ("objective.pass_k.k=2",)
    screen = io.StringIO()
    asyncio.run(compare(tmp_path, [*SMALL, *small], Console(file=screen, width=100)))
    results = json.loads((tmp_path / "results.json").read_text())
    policies = results["policies"]
    assert list(policies) == ["base", *METHODS]
    assert all(0 <= policies[name]["1.0"][key] <= 1 for name in policies for key in ("pass@1", "pass@4", "retention"))
    assert "<html" in (tmp_path / "report.html").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"report-frontier.png"}
    assert "Did Pass@k survive?" in screen.getvalue() and "Beyond sharpening?" in screen.getvalue()


def test_a_placement_that_does_not_fit_is_refused_at_start_with_the_arithmetic(tmp_path: Path, cluster: None) -> None:
    with pytest.raises(ValueError, match=r"7 generator x 1 .* = .* CPU where Ray has 4"):
        train(config(tmp_path, "name=big", "steps=1", "placement.generators=7"))
    wanted = [Reservation(role="learner", cpus=1, gpus=1, bundle=i) for i in range(2)]
    with pytest.raises(ValueError, match=r"2 learner x 1 = 2 GPU where Ray has 1"):
        require_capacity(wanted, {"CPU": 8.0, "GPU": 1.0})


def test_a_bad_policy_is_an_error_of_its_setting_not_a_crash_of_an_actor(tmp_path: Path, cluster: None) -> None:
    with pytest.raises(ValueError, match=r"policy\.path"):
        train(config(tmp_path, "name=bad", "steps=1", f"policy.path={tmp_path}"))


def test_a_driver_killed_with_sigkill_resumes_without_a_gap_and_leaves_no_process(tmp_path: Path) -> None:
    # 4 steps done of 8, then kill -9; Ray and every actor end with their driver.
    line = [BREADTH, "train", *SMALL, f"runs={tmp_path}", "name=k", "steps=8", "checkpoint.every=2"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    process = subprocess.Popen([*line, "generator.engine=transformers"], env=environment, cwd=ROOT)
    metrics = tmp_path / "k" / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while not (metrics.exists() and len(read_records(metrics)) >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    done = subprocess.run(
        [BREADTH, "train", "--resume", f"runs={tmp_path}", "name=k"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["step"] for record in read_records(metrics)] == list(range(1, 9))


def test_vllm_serves_the_published_experts_of_a_mixture(tmp_path: Path, cluster: None) -> None:
    policy = make_mixture_of_experts(tmp_path / "policy")
    chosen = ("generator.engine=vllm", "objective.entropy_bonus=0.01")  # the bonus has every answer scored
    for record in train(config(tmp_path, "name=m", "steps=2", f"policy.path={policy}", *chosen)):
        assert record["mismatch_abs_log_ratio"] < 1e-4
