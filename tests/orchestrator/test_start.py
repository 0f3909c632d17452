"""The start of a run: its phases in order, and that nothing is left where it is refused."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import BloomConfig, BloomForCausalLM

from configs.config import Config
from configs.load import load
from orchestrator import cluster
from orchestrator.commands.options import load_modules
from orchestrator.commands.paths import absolute
from orchestrator.connection import OWN_CLUSTER
from orchestrator.console.record import CONSOLE_LOG, Record
from orchestrator.console.screen import Screen
from orchestrator.placement import bundles, needed_roles, reservations
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tasks.characters import VOCABULARY_SIZE, save_tokenizer
from tests.orchestrator.in_process import config

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("steps=1", "groups_per_step=2", "sampling.group_size=2", "monitor.answers=4", "monitor.ks=[1,4]")
SECONDS = re.compile(r" in \d+\.\d s")


def test_the_phases_of_a_start_are_reported_in_order_with_their_seconds(tiny_policy: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    cfg = config(tiny_policy, tmp_path, *SMALL)
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lines.append))
    lines = [SECONDS.split(line)[0] for line in lines if SECONDS.search(line)]
    assert lines == [
        "checked settings, data and policy",
        "started the roles",
        "published the first weights",
        "measured the held-out prompts",
    ]
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    started = [SECONDS.split(event["text"])[0] for event in events if event["title"] == "start"]
    assert started == ["published the first weights", "measured the held-out prompts"]


def test_a_refused_check_ends_before_any_role_is_built_in_process(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr("orchestrator.in_process.build", lambda roles: built.append("roles"))
    cfg = config(tiny_policy, tmp_path, *SMALL, "sampling.max_prompt_tokens=1")
    with pytest.raises(ValueError, match=r"^sampling.max_prompt_tokens: "):
        asyncio.run(run_training(cfg, resume=False, log=lambda line: None))
    assert not built and not list(tmp_path.iterdir())


def test_loading_modules_for_a_run_in_one_process_starts_no_ray(tmp_path: Path, tiny_policy: Path) -> None:
    ray.shutdown()  # of a test before, in this process
    lines: list[str] = []
    [module] = load_modules(config(tiny_policy, tmp_path), "orchestrator.start", report=lines.append)
    assert module.run_training is run_training
    assert not ray.is_initialized() and not any("Ray" in line for line in lines)


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Screen]:
    """A cluster that Breadth starts itself, and the screen that gets what its workers print."""
    screen = Screen(Record())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", *OWN_CLUSTER):
            patch.delenv(name, raising=False)
        load_modules(over_ray(Path("unused")), "orchestrator.start", report=screen)
        yield screen
        ray.shutdown()


@pytest.mark.ray
def test_what_a_worker_prints_goes_to_the_file_of_the_run_and_not_to_the_terminal(
    tmp_path: Path, own_cluster: Screen, capfd: pytest.CaptureFixture[str]
) -> None:
    own_cluster.keep(tmp_path)
    ray.get(ray.remote(lambda: os.write(1, b"said by a worker\n")).remote(), timeout=60)
    kept, deadline = tmp_path / CONSOLE_LOG, time.monotonic() + 60
    while time.monotonic() < deadline and "said by a worker" not in kept.read_text():
        time.sleep(0.1)
    assert re.search(r"\(worker pid=\d+ ip=\S+\) said by a worker\n", kept.read_text())
    assert "said by a worker" not in "".join(capfd.readouterr())


def over_ray(runs: Path, *overrides: str) -> Config:
    settings = ("generator.engine=transformers", "task.heldout_prompts=4", "logbook.console=false", *SMALL)
    return absolute(load([*settings, f"runs={runs}", "name=run", *overrides]))


def living() -> list[Any]:
    """Every actor that is not dead, and every placement group that is not removed."""
    groups = ray.util.placement_group_table().values()
    actors = ray._private.state.actors().values()
    return [actor["ActorID"] for actor in actors if actor["State"] != "DEAD"] + [
        group["placement_group_id"] for group in groups if group["state"] != "REMOVED"
    ]


def wait_until_nothing_lives() -> None:
    for _ in range(100):
        if not living():
            return
        asyncio.run(asyncio.sleep(0.1))
    pytest.fail(f"left behind: {living()}")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.max_prompt_tokens=1", "sampling.max_prompt_tokens: the first 64 prompts"),
        ("placement.graders=400", "placement: must fit the cluster"),
    ],
)
def test_a_run_that_is_refused_while_its_roles_start_leaves_no_actor_no_reservation_and_no_folder(
    setting: str, message: str, tmp_path: Path, own_cluster: None
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        asyncio.run(run_training(over_ray(tmp_path, setting), resume=False, log=lambda line: None))
    wait_until_nothing_lives()
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_a_run_whose_role_refuses_the_policy_leaves_nothing(tmp_path: Path, own_cluster: None) -> None:
    """The layout is checked by the learner itself, when it has loaded the model."""
    path = str(positionless(tmp_path / "policy"))
    cfg = over_ray(tmp_path, "learner.layout=pack", "learner.token_budget=4096", f"policy.path={path}")
    with pytest.raises(ValueError, match=r"^learner.layout: must be 'pad'"):
        asyncio.run(run_training(cfg, resume=False, log=lambda line: None))
    wait_until_nothing_lives()
    assert not (tmp_path / "run").exists()


def positionless(folder: Path) -> Path:
    """A policy that ignores position ids, so that packed trajectories attend to each other."""
    torch.manual_seed(0)
    shape = BloomConfig(vocab_size=VOCABULARY_SIZE, hidden_size=32, n_layer=1, n_head=2, eos_token_id=1, pad_token_id=0)
    BloomForCausalLM(shape).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.ray
def test_roles_start_beside_the_driver_and_have_its_priority(tmp_path: Path, own_cluster: None) -> None:
    cfg = over_ray(tmp_path, "monitor.kl_to_base=true")

    async def niceness() -> tuple[set[str], set[int]]:
        roles = cluster.create(cfg, needed_roles(cfg))
        try:
            seconds = await roles.ready()
            await roles.complete()
            pids = {actor["Pid"] for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"}
            return set(seconds), {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids}
        finally:
            await roles.close()

    names, priorities = asyncio.run(niceness())
    assert names == {"generator 0", "learner 0", "grader 0"}, "references are awaited when they are needed"
    assert priorities == {os.getpriority(os.PRIO_PROCESS, 0)}
    wait_until_nothing_lives()


@pytest.mark.ray
@pytest.mark.parametrize("settings", ["method=grpo monitor.every=1", "method=grpo_adaptive_kl monitor.every=0"])
def test_a_reference_that_cannot_be_loaded_ends_the_run_before_its_first_record(
    settings: str, tmp_path: Path, own_cluster: None
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "tasks" / "base_policies" / "countdown", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    cfg = over_ray(tmp_path, f"reference_path={broken}", *settings.split())
    with pytest.raises(ValueError, match=r"broken/model\.safetensors must be a whole safetensors file"):
        asyncio.run(run_training(cfg, resume=False, log=lambda line: None))
    wait_until_nothing_lives()
    records = tmp_path / "run" / "metrics.jsonl"
    assert not (records.exists() and records.read_bytes())


@pytest.mark.ray
def test_the_chosen_number_of_threads_reaches_the_process_of_a_role(
    tmp_path: Path, own_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = over_ray(tmp_path, "placement.threads_per_learner=2")
    [reservation] = reservations(cfg, ["learner"])
    roles = cluster.Roles(cfg, ["learner"], cfg.policy.path)

    async def counted() -> int:
        group = ray.util.placement_group(bundles([reservation]))
        actor = cluster._create_actor(roles, reservation, group, 0)
        try:
            await actor.start.remote({})
            return int(await actor.call.remote("get_num_threads"))
        finally:
            ray.util.remove_placement_group(group)

    # The "role" is the module torch, whose functions are then called in the actor.
    torch_itself = ("importlib", "import_module", {"name": "torch"})
    monkeypatch.setattr(cluster, "constructor", lambda *arguments, **more: torch_itself)
    assert asyncio.run(counted()) == 2, "this process has one"


def same(record: dict[str, Any]) -> dict[str, Any]:
    """A step's record without its times, and without the counts of a grader since its start."""
    return {
        name: value
        for name, value in record.items()
        if name not in ("time", "tokens_per_second")
        and "seconds" not in name
        and not name.startswith(("grader/", "system/"))
    }


def different(left: dict[str, Any], right: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values of both records under each name where they differ."""
    names = left.keys() | right.keys()
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


@pytest.mark.ray
def test_a_run_with_two_threads_per_role_continues_bit_for_bit_over_ray(tmp_path: Path, own_cluster: None) -> None:
    two = [f"placement.threads_per_{role}=2" for role in ("generator", "learner", "reference")]
    settings = (*two, "method=grpo_adaptive_kl", "groups_per_step=8", "sampling.group_size=8", "monitor.every=0")

    def records(name: str, steps: int, resume: bool = False) -> list[dict[str, Any]]:
        cfg = over_ray(tmp_path, *settings, f"steps={steps}", f"name={name}")
        run_dir = asyncio.run(run_training(cfg, resume=resume, log=lambda line: None))
        return list(map(same, read_records(run_dir / "metrics.jsonl")))

    whole = records("whole", 3)
    records("parts", 1)
    resumed = records("parts", 3, resume=True)
    assert [different(*pair) for pair in zip(resumed, whole, strict=True)] == [{}, {}, {}]


@pytest.mark.ray
def test_the_command_shows_its_first_line_before_it_loads_torch_and_then_how_long_ray_took(tmp_path: Path) -> None:
    settings = [f"runs={tmp_path}", "name=run", "sampling.max_prompt_tokens=1", "generator.engine=transformers"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "breadth", "train", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    lines = done.stdout.splitlines()
    first, loaded, ray_started = (
        next(number for number, line in enumerate(lines) if re.search(pattern, line))
        for pattern in (r"^run directory ", r"import time:.* torch$", r"^started Ray in \d+\.\d s$")
    )
    assert first < loaded and first < ray_started
    assert done.returncode == 2 and any(line.startswith("breadth: sampling.max_prompt_tokens") for line in lines)
    assert not (tmp_path / "run").exists()
