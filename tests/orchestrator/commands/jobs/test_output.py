"""What `breadth train` and `breadth evaluate` write: text, or with --json lines of JSON and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.cli import main
from tests.orchestrator.in_process import SMALL

QUICK = (
    *[setting for setting in SMALL if setting != "logbook.console=false"],
    "groups_per_step=2",
    "sampling.group_size=2",
    "steps=2",
    "monitor.every=2",
    "monitor.answers=4",
    "monitor.ks=[1,4]",
    "evaluate.frontier=[]",
    "evaluate.kl_to_base=false",
)


def run(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    """Run a command that succeeds, and return its standard output."""
    assert main([command, *words]) == 0
    return capsys.readouterr().out


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_training_and_evaluation_write_json_and_nothing_else(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (f"policy.path={tiny_policy}", f"runs={tmp_path}", "name=run")
    found = events(run(capsys, "train", "--json", *QUICK, *places))
    shown = [(event["event"], event.get("step")) for event in found if event["event"] in ("step", "measurement")]
    assert shown == [("measurement", 0), ("step", 1), ("step", 2), ("measurement", 2)]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["reward"] for event in found if event["event"] == "step"] == [r["reward"] for r in records[1:]]
    assert found[-1] == {"event": "end", "time": found[-1]["time"], "error": ""}
    measured = events(run(capsys, "evaluate", str(tmp_path / "run"), "--json"))
    values = [event for event in measured if event["event"] == "evaluation"]
    assert [value["policy"] for value in values] == ["base", "run"] and all("pass@4/low" in value for value in values)
    assert measured[-1]["event"] == "end"


def test_the_file_of_a_run_holds_what_was_shown_and_a_resume_continues_it(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (f"policy.path={tiny_policy}", f"runs={tmp_path}", "name=run")
    shown = run(capsys, "train", *QUICK, *places).splitlines()
    kept = (tmp_path / "run" / "console.log").read_text().splitlines()
    assert [line[20:] for line in kept] == shown and any(line.split()[0] == "2/2" for line in shown if line)
    more = run(capsys, "train", "--resume", f"runs={tmp_path}", "name=run", "steps=3").splitlines()
    assert [line[20:] for line in (tmp_path / "run" / "console.log").read_text().splitlines()] == shown + more


def test_a_refused_run_ends_its_json_with_the_error(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*QUICK, f"policy.path={tiny_policy}", f"runs={tmp_path}", "name=run", "sampling.max_prompt_tokens=1")
    assert main(["train", "--json", *words]) == 2
    out, err = capsys.readouterr()
    assert events(out)[-1]["error"].startswith("ValueError: sampling.max_prompt_tokens: ")
    assert err.startswith("breadth: sampling.max_prompt_tokens: ") and not (tmp_path / "run").exists()
