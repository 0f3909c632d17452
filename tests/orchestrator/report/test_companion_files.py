"""What an evaluation's further files add to a report: values by difficulty, checkpoints over steps, and problems lost
beyond chance. Without the files, or with broken ones, the report has no such part."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.write import write_report
from tests.orchestrator.report.test_report import Page, evaluation, measured

VALUES = {"pass@1": [0.25, 0.1, 0.4], "pass@8": [0.5, 0.4, 0.6], "change/pass@8": [-0.125, -0.25, -0.0625]}
UNKNOWN = {"pass@8": [None, None, None], "change/pass@8": [None, None, None]}
FILES: dict[str, dict[str, Any]] = {
    "coverage.json": {
        "by_base_rate": [
            {"bin": "0", "prompts": 2, "policies": {"base": VALUES, "p": VALUES}},
            {"bin": "0.9 to 1", "prompts": 1, "policies": {"base": VALUES, "p": UNKNOWN}},
        ],
        "field": "level<b>",
        "by_level": [{"bin": level, "prompts": 1, "policies": {"base": VALUES}} for level in ("easy", "hard")],
    },
    "series.json": {"points": [{"step": step, "policy": "p", "values": VALUES} for step in (0, 10, 20)]},
    "problems.json": {"policies": {"p": {"lost": {"clear": 1}, "gained": {"clear": 0}}}},
}


def page(folder: Path) -> Page:
    told = replace(evaluation([1, 8], measured("base", [4, 4]), measured("p", [0, 0])), folder=folder)
    return Page(write_report(folder / "report.html", runs={}, evaluation=told, title="t"))


def test_difficulty_checkpoints_and_chance_are_shown_where_the_evaluation_recorded_them(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_text(json.dumps(data))
    found = page(tmp_path)
    assert "Checkpoints of the run: fraction of problems against step" in found.figures
    for words in (
        "Pass@8 by base's pass rate",
        "Pass@8 by level<b>",
        "0.500-0.12 (-0.25 to -0.06)",
        "2 lost (1 beyond",
    ):
        assert words in found.text, words


@pytest.mark.parametrize("content", [None, "{", "[]", '"text"'])
def test_without_them_or_with_broken_ones_there_is_no_such_part(tmp_path: Path, content: str | None) -> None:
    for name in FILES if content is not None else []:
        (tmp_path / name).write_text(content or "")
    found = page(tmp_path)
    assert "Coverage" not in found.text and "Checkpoints of the run" not in "".join(found.figures)
    assert "p: 2 lost, 0 gained" in found.text
