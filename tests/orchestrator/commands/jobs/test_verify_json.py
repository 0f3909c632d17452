"""`breadth verify --json`: one JSON object per line on standard output, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.cli import main

PROBLEM = {"numbers": [3, 7, 12], "target": 22}


def verified(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> list[dict[str, Any]]:
    assert main(["verify", "--json", "--workers", "1", *words]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "in.jsonl")


def test_the_counts_of_a_file_and_of_an_audit_are_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = (("3+7+12", True), ("3+7", False), ("</script>\u0000\ud800", True))
    source = write(
        tmp_path, *({"id": answer, **PROBLEM, "answer": answer, "correct": label} for answer, label in answers)
    )
    counts, end = verified(capsys, 0, "--verifier", "countdown", "--input", source, "--audit")
    assert (counts["event"], counts["rows"], counts["statuses"]) == ("verified", 3, {"correct": 1, "wrong": 2})
    assert (counts["recorded"], counts["labelled"], counts["findings"]) == (0, 3, {"false negative": 1})
    assert (end["event"], end["error"]) == ("end", "")


def test_the_rows_of_a_run_that_get_another_verdict_are_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = {"prompt_id": "p", "verifier": "countdown", "problem": PROBLEM, "status": "wrong", "reward": 0.0}
    source = write(tmp_path, {**recorded, "answer": "3+7+12"}, {**recorded, "answer": "3"})
    counts, line, end = verified(capsys, 0, "--input", source)
    assert (counts["recorded"], counts["changed"], end["error"]) == (2, 1, "")
    assert line["event"] == "line" and "wrong 0.0 -> correct 1.0" in line["text"]


def test_the_right_answers_of_a_task_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    counts, end = verified(capsys, 0, "--task", "countdown", "--count", "3")
    assert (counts["task"], counts["rows"], counts["statuses"], counts["faulty"]) == ("countdown", 3, {"correct": 3}, 0)
    assert end["event"] == "end"


def test_a_wrong_option_ends_with_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [end] = verified(capsys, 2, "--input", str(tmp_path / "absent"), "--verifier", "countdown", "--audit")
    assert end["event"] == "end" and end["error"].startswith("ValueError: --input: must be an existing file")
