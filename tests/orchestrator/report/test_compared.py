"""Evaluations of several runs in one report: those of one base under the same conditions are compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.commands.cli import main
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.report.evaluation import read_compared
from tests.orchestrator.report.test_monitored import run as measured_run
from tests.orchestrator.report.test_report import Page, evaluation, measured, run_directory

LEVELS = {"field": "level", "bins": {"easy": ["p0", "p1"], "hard": ["p2", "p3"]}}
BASE = measured("base", [4, 2, 0, 1])


def evaluated(run: Path, *corrects: list[int], date: str = "2026-01-31", base: list[int] | None = None) -> Path:
    """The folder of an evaluation of a run's checkpoints, of the same base unless it has other right answers."""
    start = measured("base", base) if base else BASE
    told = evaluation([1, 8], start, *(measured(f"step-{step}", found) for step, found in enumerate(corrects)))
    about = told.about | {"date": date, "levels": LEVELS, "paths": told.about["paths"] | {"base": "/models/start"}}
    folder = run / "evaluations" / "one"
    replace(told, about=about).write(folder, [])
    return folder


def test_runs_that_were_evaluated_apart_from_one_base_are_compared_under_their_own_names(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "grpo", [8, 8, 8, 8]), evaluated(tmp_path / "dph_f", [0, 0, 0, 0])]
    [joined] = read_compared(folders)
    assert joined.names == ["base", "grpo", "dph_f"]
    changes = [joined.summaries[name][1.0]["change/pass@8"].value for name in joined.names[1:]]
    assert changes == [0.25, -0.75]
    assert list(joined.measurements["base"]) == [1.0, 0.0]


def test_checkpoints_of_one_run_keep_their_names_beside_that_of_the_run(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "grpo", [8, 8, 8, 8], [4, 4, 4, 4]), evaluated(tmp_path / "dph_f", [0, 0, 0, 0])]
    [joined] = read_compared(folders)
    assert joined.names == ["base", "grpo step-0", "grpo step-1", "dph_f"]


def test_evaluations_of_other_bases_stand_apart(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "grpo", [8] * 4), evaluated(tmp_path / "other", [8] * 4, base=[4, 2, 0, 0])]
    assert [each.names for each in read_compared(folders)] == [["base", "grpo"], ["base", "other"]]


def test_the_command_shows_the_latest_evaluation_of_each_run(tmp_path: Path) -> None:
    runs = [run_directory(tmp_path / name) for name in ("grpo", "dph_f", "never evaluated")]
    for run, date in zip(runs, ("2026-01-30", "2026-01-31"), strict=False):
        evaluated(run, [8, 8, 8, 8], date=date)
    output = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    text = output.read_text()
    told = "Yes in grpo (Pass@8 +0.25, +0.00 to +0.75) and dph_f (Pass@8 +0.25, +0.00 to +0.75)"
    assert told in text, "in the order of the runs"
    assert "Pass@8 by level" in text and "<th>grpo</th><th>dph_f</th>" in text, "coverage of joined evaluations"


def test_runs_without_an_evaluation_show_their_own_last_measurements_beside_one_that_has_it(tmp_path: Path) -> None:
    runs = [run_directory(tmp_path / "first"), measured_run(tmp_path, "second"), measured_run(tmp_path, "third")]
    other = measured_run(tmp_path, "fourth", "policy.path=/models/other")
    evaluated(runs[0], [8, 8, 8, 8], [4, 4, 4, 4])
    (runs[0] / "config.yaml").unlink()
    never = run_directory(tmp_path / "never")
    for run in (*runs[1:], other):
        (run / "metrics.jsonl").write_bytes((never / "metrics.jsonl").read_bytes())
    output = tmp_path / "page.html"
    assert main(["report", *map(str, (*runs, other, never)), "--output", str(output)]) == 0
    page = Page(output)
    assert "Not evaluated: second, third, fourth. Their results are the last held-out" in page.text
    assert "Neither evaluated nor measured during the run, so without results: never." in page.text
    for name in ("first step-0", "first step-1", "second", "third", "fourth"):
        assert f"<td><b>{name}</b>" in output.read_text(), name


def test_the_tasks_of_joined_evaluations_are_named_by_their_runs_too(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / name, [8, 8, 8, 8]) for name in ("grpo", "dph_f")]
    for folder in folders:
        own = read_compared([folder])[0]
        replace(own, about=own.about | {"name": "sums"}).write(folder / "tasks" / "sums", [])
    assert [each.names for each in read_compared(folders)] == [["base", "grpo", "dph_f"]] * 2


def test_the_policies_of_one_run_in_a_page_of_several_have_its_name_also_in_the_map(tmp_path: Path) -> None:
    run = tmp_path / "grpo"
    names = ("base", "step-0", "step-1")
    scored = Likelihoods(names=names, prompt_ids=("p0", "p1", "p2", "p3"), values=np.zeros((3, 4, 3, 2)))
    folder = evaluated(run, [8] * 4, [4] * 4)
    replace(read_compared([folder])[0], likelihoods=scored).write(folder, [])
    [found] = read_compared([folder], several=True)
    assert found.likelihoods is not None and list(found.likelihoods.names) == found.names
    assert found.names == ["base", "grpo step-0", "grpo step-1"] == list(found.about["paths"])
