"""A recorded step runs again bit for bit, and what differs is found, named, and gives exit status 1."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from in_process import config
from safetensors.torch import load_file, save_file

from orchestrator.commands.cli import main
from orchestrator.start import run_training
from orchestrator.step_again import recording
from orchestrator.step_again.comparison import Difference, differences, why_not_exact
from orchestrator.step_again.folder import read, write
from orchestrator.watch.logbook import read_records

STEPS = ("steps=3", "groups_per_step=4", "sampling.group_size=4", "monitor.every=0", "logbook.dump_steps=[1,3]")
KEPT = ("checkpoint.every=1", "checkpoint.keep_last=1")


def recorded_run(policy: Path, runs: Path, *overrides: str) -> Path:
    cfg = config(policy, runs, *STEPS, *KEPT, *overrides)
    return asyncio.run(run_training(cfg, resume=False, log=lambda text: None))


@pytest.fixture(scope="module")
def run_dir(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_run(tiny_policy, tmp_path_factory.mktemp("runs"), "method=grpo_adaptive_kl", "lag=1")


@pytest.fixture
def step(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the recorded step 3, to be changed."""
    return shutil.copytree(run_dir / "steps" / "step-000003", tmp_path / "step-000003")


def again(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str]:
    status = main(["replay-step", str(folder), *words])
    return status, capsys.readouterr().out


def test_an_update_is_the_same_bit_for_bit_and_its_metrics_are_those_of_the_run(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in (run_dir / "steps").iterdir()) == ["step-000001", "step-000003"]
    records = {record["step"]: record for record in read_records(run_dir / "metrics.jsonl")}
    for number in (1, 3):
        folder = run_dir / "steps" / f"step-{number:06d}"
        status, out = again(capsys, folder)
        assert status == 0 and "all are the same, bit for bit" in out
        stats = read(folder).stats
        assert stats["loss"][0] == records[number]["loss"] and stats["grad_norm"][0] == records[number]["grad_norm"]


def test_the_start_outlives_the_checkpoint_it_came_from(run_dir: Path) -> None:
    """Step 3 starts from the checkpoint of step 2, of which only step 3 is kept."""
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000003"]
    assert (run_dir / "steps" / "step-000003" / "start" / "policy" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=safe_critic",),
        ("method=superhf",),
        ("policy.dtype=bfloat16",),
        ("method=dapo", "learner.updates_per_batch=2", "learner.lora.r=4"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.slow
def test_steps_of_every_kind_of_learner_are_the_same(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: Sequence[str]
) -> None:
    run_dir = recorded_run(tiny_policy, tmp_path, *overrides)
    status, out = again(capsys, run_dir / "steps" / "step-000003")
    assert status == 0 and "bit for bit" in out


def test_another_division_is_compared_with_tolerances(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = again(capsys, step, "learner.token_budget=64")
    assert status == 0 and "settings are changed" in out


def test_a_changed_weight_is_found_and_the_token_that_differs_most_is_named(
    step: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = step / "start" / "policy" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("mlp.down_proj.weight"))
    tensors[name][0, 0] += 0.5
    save_file(tensors, weights, {"format": "pt"})
    status, out = again(capsys, step)
    assert status == 1 and "values differ, bit for bit" in out
    assert "logp_before, token" in " ".join(out.split())


def test_a_changed_learning_rate_changes_only_what_comes_after(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = again(capsys, step, "learner.learning_rate=0.5")
    assert status == 1 and "2 values differ beyond their limits" in out


def test_a_folder_that_is_no_step_is_refused_by_name(
    step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay-step", str(tmp_path)]) == 2
    assert "FOLDER: must be a step that a run recorded" in capsys.readouterr().err
    batch = step / "batch.safetensors"
    batch.write_bytes(batch.read_bytes()[:-100])
    assert main(["replay-step", str(step)]) == 2
    assert "FOLDER: must be a step that a run recorded" in capsys.readouterr().err


def test_a_batch_is_read_as_it_was_written(step: Path, tmp_path: Path) -> None:
    found = read(step)
    first = replace(
        found.batch,
        anchors={"slow/one": found.batch.logp_sampler},
        hidden={"teacher": torch.ones(len(found.batch.tokens), 2, dtype=torch.bfloat16)},
        term_factors={"divergence": 0.1},
    )
    write(tmp_path, replace(found, batch=first))
    second = read(tmp_path).batch
    for each in fields(first):
        old, new = getattr(first, each.name), getattr(second, each.name)
        if each.metadata:
            torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)
        else:
            assert new == old


def test_a_full_disk_leaves_the_run_going_with_an_alert(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, recorded: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "write", full)
    run_dir = recorded_run(tiny_policy, tmp_path, "steps=1", "logbook.dump_steps=[1]")
    assert read_records(run_dir / "metrics.jsonl")[-1]["step"] == 1
    assert not list((run_dir / "steps").iterdir())
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert any(event["title"] == "dump_steps" and "No space" in event["text"] for event in events)


def test_numbers_that_are_not_finite_are_the_same_only_as_themselves() -> None:
    nan, inf = float("nan"), float("inf")
    assert Difference("a", nan, nan, 0.0).within and Difference("a", inf, inf, 0.0).within
    assert not Difference("a", nan, 1.0, 1.0).within and not Difference("a", inf, 1.0, 1.0).within


def test_a_score_of_one_token_is_compared_only_where_it_is_trained_on(step: Path) -> None:
    recorded = read(step)
    token = int(recorded.batch.mask.nonzero()[3])
    prompt = int((~recorded.batch.mask).nonzero()[0])
    changed = recorded.scores["logp_after"].clone()
    changed[prompt] = 7.0
    found = replace(recorded, scores={**recorded.scores, "logp_after": changed})
    assert all(row.within for row in differences(recorded, found, "float32", exact=True))
    changed[token] -= 0.01
    first, *others = differences(recorded, found, "float32", exact=False)
    assert not first.within and first.name.startswith("logp_after, token") and all(row.within for row in others)


def test_only_the_same_machine_and_division_on_a_cpu_is_exact() -> None:
    here = {"device": "cpu", "processor": "x", "torch": "2", "threads": 1, "ranks": 1}
    assert why_not_exact(here, here, changed=False) == ""
    assert why_not_exact(here, here, changed=True) == "settings are changed"
    assert why_not_exact({**here, "ranks": 2}, here, changed=False) == "ranks 1, not 2"
    gpu = {**here, "device": "gpu"}
    assert "no fixed order" in why_not_exact(gpu, gpu, changed=False)
