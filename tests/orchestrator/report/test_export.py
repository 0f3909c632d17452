"""`breadth export`: the policy of a checkpoint with its model card."""

import asyncio
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.commands.cli import main
from orchestrator.start import run_training
from orchestrator.watch.monitor import read_measurement
from orchestrator.watch.passk import summary
from tests.orchestrator.in_process import config

SETTINGS = (
    "name=run",
    "steps=2",
    "groups_per_step=2",
    "sampling.group_size=2",
    "checkpoint.every=1",
    "monitor.every=2",
    "monitor.answers=4",
    "monitor.ks=[1,4]",
    "monitor.frontier=[]",
)


@pytest.fixture(scope="module")
def run_dir(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = config(tiny_policy, tmp_path_factory.mktemp("runs"), *SETTINGS)
    return asyncio.run(run_training(cfg, resume=False, log=lambda text: None))


def test_an_exported_policy_is_the_checkpoints_in_bfloat16_and_loads(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    assert main(["export", str(run_dir), "--output", str(output)]) == 0
    trained = load_file(run_dir / "checkpoints" / "step-000002" / "policy" / "model.safetensors")
    assert {weight.dtype for weight in load_file(output / "model.safetensors").values()} == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert model.dtype == torch.bfloat16
    found = model.state_dict()
    assert all(torch.equal(found[name], weight.bfloat16()) for name, weight in trained.items())
    assert AutoTokenizer.from_pretrained(output)("3,7=10:")["input_ids"]
    assert (output / "breadth.yaml").read_text() == (run_dir / "config.yaml").read_text()


def test_the_model_card_has_method_steps_and_pass_at_k_before_and_after(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    assert main(["export", str(run_dir), "--output", str(output), "--dtype", "float32"]) == 0
    _, front, body = (output / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"][-1] == "grpo"
    assert "2 steps of 2 prompts x 2\nanswers with the method `grpo` of Breadth. Weights are in float32." in body
    for label, step in (("base", 0), ("this policy", 2)):
        measured = read_measurement(run_dir / "measurements" / f"step-{step:06d}.json")
        assert measured is not None
        values = summary(measured, [1, 4], None)
        assert f"| {label} | {values['pass@1'].value:.3f} | {values['pass@4'].value:.3f} |" in body


def test_the_checkpoint_of_a_step_without_a_measurement_is_exported_too(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    assert main(["export", str(run_dir), "--output", str(output), "--step", "1"]) == 0
    assert "did not measure its held-out prompts at this step" in (output / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["{run}", "--output", "{run}"], "--output: must be a new or empty directory"),
        (["{run}/checkpoints", "--output", "{new}"], "RUN: must be a run directory with checkpoints"),
        (["{run}", "--output", "{new}", "--step", "7"], "--step: must be a whole checkpoint (there are [1, 2]), got 7"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(
    run_dir: Path, tmp_path: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert main(["export", *(word.format(run=run_dir, new=new) for word in arguments)]) == 2
    assert error in capsys.readouterr().err
    assert not new.exists()
