"""Coverage by difficulty, problems lost beyond chance, and checkpoints over steps, in the report of an evaluation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.evaluation import Evaluation
from orchestrator.report.write import write_report
from tests.orchestrator.report.test_report import Page, evaluation, measured

VALUES = {"pass@1": [0.25, 0.1, 0.4], "pass@8": [0.5, 0.4, 0.6]}
SERIES = {"points": [{"step": step, "policy": "p", "values": VALUES} for step in (0, 10, 20)]}
LEVELS = {"field": "level<b>", "bins": {"easy": ["p0"], "hard": ["p1", "p2"]}}


def told(levels: dict[str, Any] | None, folder: Path | None = None) -> Evaluation:
    found = evaluation([1, 8], measured("base", [8, 4, 0]), measured("p", [8, 0, 0]))
    about = found.about | ({"levels": levels} if levels else {})
    return replace(found, about=about, folder=folder)


def page(folder: Path, shown: Evaluation) -> Page:
    return Page(write_report(folder / "report.html", runs={}, evaluation=shown, title="t"))


def test_difficulty_and_chance_are_shown_of_an_evaluation_that_was_not_read_from_files(tmp_path: Path) -> None:
    text = page(tmp_path, told(LEVELS)).text
    for words in ("Pass@8 by base's pass rate", "Pass@8 by level<b>", "p: 1 lost (0 beyond chance), 0 gained"):
        assert words in text, words
    assert "hard20.5000.000-0.50-1.00 to +0.00" in text, "2 problems, of which the base solves one"
    assert "easy11.0001.000+0.00\n" in text, "one problem has no interval"


def test_a_problem_with_a_clearly_lower_pass_rate_is_lost_beyond_chance(tmp_path: Path) -> None:
    shown = evaluation([1, 8], measured("base", [8, 1]), measured("p", [0, 0]))
    assert "p: 2 lost (1 beyond chance)" in page(tmp_path, shown).text


def test_a_long_level_is_cut_and_one_group_is_not_shown(tmp_path: Path) -> None:
    long = {"field": "level", "bins": {"x" * 10_000: ["p0"], "y": ["p1", "p2"]}}
    text = page(tmp_path, told(long)).text
    assert "x" * 40 + " ..." in text and "x" * 41 not in text
    assert "by level" not in page(tmp_path, told({"field": "level", "bins": {"one": ["p0", "p1", "p2"]}})).text


def test_measurements_of_a_run_itself_have_no_groups(tmp_path: Path) -> None:
    assert "Coverage" not in page(tmp_path, told(None)).text


def test_checkpoints_are_shown_where_the_evaluation_recorded_them(tmp_path: Path) -> None:
    (tmp_path / "series.json").write_text(json.dumps(SERIES))
    assert "Checkpoints of the run: fraction of problems against step" in page(tmp_path, told(LEVELS, tmp_path)).figures


@pytest.mark.parametrize("content", [None, "{", "[]", '"text"'])
def test_without_their_file_or_with_a_broken_one_there_is_no_such_part(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "series.json").write_text(content)
    assert "Checkpoints of the run" not in "".join(page(tmp_path, told(LEVELS, tmp_path)).figures)


def test_maj_at_k_is_explained_only_where_it_is_drawn(tmp_path: Path) -> None:
    shown = told(LEVELS)
    assert "most frequent final answer" in page(tmp_path, shown).text
    for by_temperature in shown.measurements.values():
        for t, found in by_temperature.items():
            silent = tuple(replace(p, votes=(), right_votes=()) for p in found.prompts)
            by_temperature[t] = replace(found, prompts=silent)
    assert "most frequent final answer" not in page(tmp_path, replace(shown)).text
