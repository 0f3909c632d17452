"""Evaluations of several runs in one report: those of one base under the same conditions are compared."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.commands.cli import main
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.report.compared import read_compared
from tests.orchestrator.report.test_monitored import run as measured_run
from tests.orchestrator.report.test_report import Page, evaluation, measured, run_directory

LEVELS = {"field": "level", "bins": {"easy": ["p0", "p1"], "hard": ["p2", "p3"]}}
BASE = measured("base", [4, 2, 0, 1])


def evaluated(
    run: Path, *corrects: list[int], date: str = "2026-01-31", base: list[int] | None = None, name: str = "one"
) -> Path:
    """The folder of an evaluation of a run's checkpoints, of the same base unless it has other right answers."""
    start = measured("base", base) if base else BASE
    told = evaluation([1, 8], start, *(measured(f"step-{step}", found) for step, found in enumerate(corrects)))
    about = told.about | {"date": date, "levels": LEVELS, "paths": told.about["paths"] | {"base": "/models/start"}}
    folder = run / "evaluations" / name
    replace(told, about=about).write(folder, [])
    return folder


def test_runs_that_were_evaluated_apart_from_one_base_are_compared_under_their_own_names(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "grpo", [8, 8, 8, 8]), evaluated(tmp_path / "dph_f", [0, 0, 0, 0])]
    [joined], _ = read_compared(folders)
    assert joined.names == ["base", "grpo", "dph_f"]
    changes = [joined.summaries[name][1.0]["change/pass@8"].value for name in joined.names[1:]]
    assert changes == [0.25, -0.75]
    assert list(joined.measurements["base"]) == [1.0, 0.0]


def test_checkpoints_of_one_run_keep_their_names_beside_that_of_the_run(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "grpo", [8, 8, 8, 8], [4, 4, 4, 4]), evaluated(tmp_path / "dph_f", [0, 0, 0, 0])]
    [joined], _ = read_compared(folders)
    assert joined.names == ["base", "grpo step-0", "grpo step-1", "dph_f"]


def test_evaluations_of_other_bases_stand_apart(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "grpo", [8] * 4), evaluated(tmp_path / "other", [8] * 4, base=[4, 2, 0, 0])]
    assert [each.names for each in read_compared(folders)[0]] == [["base", "grpo"], ["base", "other"]]


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


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "results.json": (truncated, "JSONDecodeError"),
    "measurements/step-0@1.0.json": (truncated, "step-0@1.0.json: measurement: must be the JSON of a Measurement"),
    "measurements/base@0.0.json": (Path.unlink, "FileNotFoundError"),
}
"""What happens to a file of an evaluation, and what the user reads of it."""


@pytest.mark.parametrize("file", DAMAGES)
def test_a_damaged_evaluation_is_left_out_and_the_page_and_the_console_say_which_one_and_why(
    tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_directory(tmp_path / "first"), measured_run(tmp_path, "second"), run_directory(tmp_path / "third")]
    (runs[1] / "metrics.jsonl").write_bytes((runs[0] / "metrics.jsonl").read_bytes())
    folders = [evaluated(run, [8, 8, 8, 8]) for run in runs]
    damage, reason = DAMAGES[file]
    damage(folders[1] / file)
    output = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    page, told = Page(output), capsys.readouterr()
    line = f"Evaluation {folders[1]} is damaged and left out: "
    assert f"evaluation {folders[0]}, {folders[2]}\n" in told.out + told.err
    for text in (page.text, told.out + told.err):
        assert line in text and reason in text.partition(line)[2].partition("\n")[0]
    for name in ("first", "third", "second"):
        assert f"<td><b>{name}</b>" in output.read_text(), name
    assert "Not evaluated: second." in page.text


def test_an_evaluation_whose_results_cannot_be_read_is_named_beside_the_latest_one_that_can(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "first")
    whole = evaluated(run, [8, 8, 8, 8])
    later = evaluated(run, [8, 8, 8, 8], name="two")
    (later / "results.json").write_text("")
    output = tmp_path / "page.html"
    assert main(["report", str(run), "--output", str(output)]) == 0
    text = Page(output).text
    assert f"Evaluation {later} is damaged and left out: JSONDecodeError" in text
    assert "evaluation: first one" in text and str(whole) in output.read_text()
    assert "<td><b>step-0</b>" in output.read_text(), "policies of one run have their own names"


@pytest.mark.parametrize("damage", [truncated, Path.unlink])
def test_a_damaged_sampling_or_task_of_an_evaluation_is_left_out_alone(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = evaluated(tmp_path / "grpo", [8, 8, 8, 8])
    [own], _ = read_compared([folder])
    for place in ("samplings/cold", "tasks/sums"):
        replace(own, about=own.about | {"name": place}).write(folder / place, [])
    damage(folder / "samplings" / "cold" / "results.json")
    found, damaged = read_compared([folder])
    assert [each.about.get("name", "") for each in found] == ["", "tasks/sums"]
    [(place, reason)] = damaged.items()
    assert place == folder / "samplings" / "cold"
    assert reason.startswith("JSONDecodeError" if damage is truncated else "it has no results.json")


def test_a_report_all_of_whose_evaluations_are_damaged_is_refused_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_directory(tmp_path / name) for name in ("first", "second")]
    folders = [evaluated(run, [8, 8, 8, 8]) for run in runs]
    for folder in folders:
        truncated(folder / "results.json")
    output = tmp_path / "page.html"
    for given, count in ((list(map(str, runs)), 2), (["--evaluation", str(folders[0])], 1)):
        assert main(["report", *given, "--output", str(output)]) == 2
        told = capsys.readouterr().err
        assert "--evaluation: must hold the results.json and measurements of `breadth evaluate`, got " in told
        assert told.count("JSONDecodeError") == count
        assert not output.exists()


@pytest.mark.parametrize(("run", "name"), [("measured", "step-0"), ("first", "first step-0")])
def test_beside_two_runs_the_policies_of_an_evaluation_of_its_own_keep_their_names(
    run: str, name: str, tmp_path: Path
) -> None:
    runs = [str(run_directory(tmp_path / each)) for each in ("first", "second")]
    folder = evaluated(tmp_path / run, [8, 8, 8, 8], [4, 4, 4, 4])
    assert main(["report", *runs, "--evaluation", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    assert f"in {name} (" in Page(tmp_path / "page.html").text


def test_the_tasks_of_joined_evaluations_are_named_by_their_runs_too(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / name, [8, 8, 8, 8]) for name in ("grpo", "dph_f")]
    for folder in folders:
        [own], _ = read_compared([folder])
        replace(own, about=own.about | {"name": "sums"}).write(folder / "tasks" / "sums", [])
    assert [each.names for each in read_compared(folders)[0]] == [["base", "grpo", "dph_f"]] * 2


def test_the_policies_of_one_run_in_a_page_of_several_have_its_name_also_in_the_map(tmp_path: Path) -> None:
    run = tmp_path / "grpo"
    names = ("base", "step-0", "step-1")
    scored = Likelihoods(names=names, prompt_ids=("p0", "p1", "p2", "p3"), values=np.zeros((3, 4, 3, 2)))
    folder = evaluated(run, [8] * 4, [4] * 4)
    replace(read_compared([folder])[0][0], likelihoods=scored).write(folder, [])
    [found], _ = read_compared([folder], several=True)
    assert found.likelihoods is not None and list(found.likelihoods.names) == found.names
    assert found.names == ["base", "grpo step-0", "grpo step-1"] == list(found.about["paths"])
