"""Answers in a terminal: coloured tokens there, plain lines elsewhere, and no control character from an answer."""

import io
import re
from pathlib import Path

import pytest
from answer_lines import HOSTILE, row, write
from rich.console import Console

from orchestrator.viewer.answer_file import AnswerFile
from orchestrator.viewer.terminal import show


def printed(path: Path, colour: str = "entropy", *, terminal: bool = False) -> str:
    answers, out = AnswerFile(path), io.StringIO()
    answers.refresh()
    console = Console(file=out, force_terminal=terminal, color_system="256" if terminal else None, width=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rich.pager.SystemPager.show", lambda pager, content: out.write(content))
        show(console, answers, range(answers.first, answers.end), colour)
    return out.getvalue()


def test_outside_a_terminal_answers_are_plain_lines_by_step_and_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(1), row(1, 1, reward=0.0, status="wrong", reason="is 4"), row(2))
    lines = printed(path).splitlines()
    assert [line for line in lines if line.startswith("step")] == ["step 1  sums/train/1", "step 2  sums/train/2"]
    assert lines.count("  1+2") == 3 and "\x1b" not in "".join(lines)
    assert "  wrong  reward 0  3 tokens  weights 0  explore  sample 1  is 4" in lines


def test_in_a_terminal_tokens_are_coloured_by_their_value(tmp_path: Path) -> None:
    out = printed(write(tmp_path / "a.jsonl", row(1)), terminal=True)
    assert re.findall(r"48;5;(\d+)m([^\x1b])", out) == [("31", "1"), ("38", "+"), ("117", "2")]
    assert "no values of divergence" in printed(tmp_path / "a.jsonl", "divergence", terminal=True)


def test_values_that_are_all_0_give_no_colour_and_are_said_to_be_0(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(1, first_version=0, last_version=0))
    out = printed(path, "staleness", terminal=True)
    assert "all values of staleness are 0" in out and "48;5" not in out


def test_hostile_texts_send_nothing_to_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(1, texts=HOSTILE, status="\x1b[2J", reason="\u202e", prompt="\x07"))
    out = printed(path)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", out)
    assert "[31m" in out and len(out) < 30_000


def test_each_group_shows_how_many_of_its_answers_are_here(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(1, group_size=16), row(2, 0, group_size=2), row(2, 1, group_size=2), row(3))
    lines = [line for line in printed(path).splitlines() if line.startswith("step")]
    assert [line.partition("  ")[2] for line in lines] == [
        "sums/train/1  1 of 16 answers",
        "sums/train/2  2 of 2 answers",
        "sums/train/3",
    ]
