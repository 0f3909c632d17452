"""What starts nothing, and the refusal of a wrong setting, loads neither torch nor Ray, which would take seconds."""

import json
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.commands.cli import main

HEAVY = ("torch", "ray", "vllm", "transformers", "scipy", "matplotlib", "wandb")
NOTHING_STARTED = (
    "",
    "--help",
    "train --help",
    "verify --help",
    "methods",
    "methods dph_f",
    "show-config --explain learner",
    "show-config --explain method=gkd steps=3",
)
REFUSED = (
    "train stepz=3",
    "train learner.learning_rate=0",
    "train lag=1 objective.old_policy=learner",
    "train method=dhp_f",
    "train task.name=countdwon",
    "train task.options.numbers=1",
    "train task.name=dataset task.options.path=gone.jsonl",
    "train task.verifier=cuontdown",
    "train policy.path=gone",
    "train references.slow.path=gone",
    "train method=dph_f rehearsal.path=gone.parquet",
    "train --resume name=gone",
    "evaluate evaluate.answerz=3",
    "evaluate evaluate.checkpoints=[a=gone]",
    "evaluate task.verifier=cuontdown",
    "evaluate gone",
    "presample",
    "presample rehearsal.path=x reference_path=gone",
    "warm-start",
    "warm-start warm_start.output=new task.name=countdwon",
    "inspect-task task.name=countdwon",
    "inspect-task inspect_task.others.exam.options.path=gone",
    "inspect-task --output gone.txt",
    "compare stepz=3",
    "report gone",
    "report --evaluation gone",
    "show-config stepz=3",
    "plan gpus=3",
    "plan policy.path=gone",
    "methods dhp_f",
    "verify --verifier cuontdown",
)
CODE = f"""
import json, sys
from configs.load import load, presets
from orchestrator.commands.cli import main
from orchestrator.commands.pages.show_config import plan
found = {{}}
for arguments in json.loads(sys.argv[1]):
    try:
        status = main(arguments.split())
    except SystemExit as left:
        status = left.code
    found[arguments] = [status, [name for name in {HEAVY} if name in sys.modules]]
for method in presets("method"):
    plan(load([f"method={{method}}"]))
found["plan"] = [0, [name for name in {HEAVY} if name in sys.modules]]
print("\\n" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit status of each command, run one after another in a fresh interpreter, and what was loaded until then."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([*NOTHING_STARTED, *REFUSED])],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path_factory.mktemp("nothing"),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("arguments", [*NOTHING_STARTED, "plan"])
def test_a_command_that_starts_nothing_loads_nothing_heavy(arguments: str, outcomes: dict[str, Any]) -> None:
    assert outcomes[arguments] == [0, []]


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_wrong_setting_is_refused_before_anything_heavy_is_loaded(arguments: str, outcomes: dict[str, Any]) -> None:
    assert outcomes[arguments] == [2, []]


def test_breadth_alone_says_what_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out
    for words in (
        "breadth compare",
        "breadth show-config",
        "breadth methods",
        "breadth train policy.path=",
        "breadth --help",
    ):
        assert f"\n  {words}" in lines
