"""`breadth view`: exports and prints what the options choose, and refuses what is no run."""

import json
import re
from pathlib import Path

import pytest

from orchestrator.commands.cli import main


def run_directory(tmp_path: Path) -> Path:
    (tmp_path / "first").mkdir()
    rows = [
        {"step": step, "prompt_id": f"sums/{step}", "prompt": "How many?", "answer": "3", "reward": reward, "status": s}
        for step, reward, s in ((1, 1.0, "correct"), (2, 0.0, "wrong"), (3, None, "grader_error"), (3, 0.5, "wrong"))
    ]
    (tmp_path / "first" / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "first"


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ([], [1, 2, 3, 3]),
        (["--step", "3"], [3, 3]),
        (["--status", "wrong"], [2, 3]),
        (["--min-reward", "0.5"], [1, 3]),
        (["--max-reward", "0"], [2]),
        (["--problem", "SUMS/1"], [1]),
        (["--problem", "how many", "--step", "2"], [2]),
        (["--route", "replay"], []),
    ],
)
def test_the_options_choose_the_answers_of_the_page(tmp_path: Path, words: list[str], steps: list[int]) -> None:
    page = tmp_path / "page.html"
    assert main(["view", str(run_directory(tmp_path)), "--export", str(page), *words]) == 0
    [data] = re.findall(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert [row["step"] for row in json.loads(data)["rows"]] == steps


def test_the_newest_answers_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(run_directory(tmp_path)), "--terminal", "--last", "2"]) == 0
    out = capsys.readouterr().out
    assert "step 3  sums/3" in out and "step 2" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "RUN: must be the directory of a run"),
        (["first", "--port", "70000"], "--port: must be between 0"),
        (["first", "--terminal", "--last", "0"], "--last: must be positive"),
    ],
)
def test_wrong_options_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    run_directory(tmp_path)
    assert main(["view", str(tmp_path / words[0]), *words[1:]]) == 2
    assert message in capsys.readouterr().err
