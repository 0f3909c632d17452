"""What a reader of a report sees at a glance: short names, what a run has done, and labels that can be read."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.report.curves import Sources, over_checkpoints
from orchestrator.report.inputs import place_words, run_facts
from orchestrator.report.plots import Curve, Panel, _look, panel_svg
from orchestrator.report.verdicts import beyond_sharpening
from orchestrator.report.write import write_report
from tests.orchestrator.report.test_report import Page, evaluation, measured

SETTINGS = "{method: grpo, steps: 400, groups_per_step: 16, sampling: {group_size: 8}}"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/tmp/ray/session_1/_ray_pkg_2/tasks/base_policies/countdown", "countdown"),
        ("/runs/first/checkpoints/step-000200/policy", "first step-000200"),
        ("/runs/first/evaluations/2026-01-31", "first 2026-01-31"),
        ("/runs/first/evaluations/one/tasks/sums", "first one tasks sums"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
    ],
)
def test_a_path_is_shown_as_a_short_name(path: str, words: str) -> None:
    assert place_words(path) == words


def test_the_page_shows_the_name_of_the_base_and_its_path_where_the_pointer_is(tmp_path: Path) -> None:
    told = evaluation([1, 8], measured("base", [4, 2]), measured("p", [4, 2]))
    told = replace(told, about=told.about | {"paths": {"base": "/models/a/start", "p": "/p"}})
    page = Page(write_report(tmp_path / "r.html", runs={}, evaluation=told, title="t"))
    assert "base: start" in page.text and "/models/a/start" not in page.text
    assert ("title", "/models/a/start") in page.attributes


def test_a_run_that_ended_early_shows_the_steps_done_of_those_planned(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SETTINGS)
    assert run_facts("third", tmp_path, 219) == "third: method grpo, 219 of 400 steps of 16 x 8 answers"
    assert run_facts("third", tmp_path, 400) == run_facts("third", tmp_path, None)


@pytest.mark.parametrize("apart", [0.0, 0.002])
def test_labels_of_points_that_lie_on_each_other_are_parted_or_left_out(apart: float) -> None:
    names = ["step-000200", "step-000300", "step-000400", "the last one", "one more", "another"]
    x = [apart * i for i in range(len(names))]
    curve = Curve(name="a", style=1, x=[*x, 1.0], y=[*x, 1.0], labels=[*names, "far"], joined=False)
    svg = panel_svg(Panel(title="t", x_label="x", y_label="y", curves=[curve], whole_x=False))
    shown = [name for name in names if name in svg]
    assert shown == names[:4] and "far" in svg, "each of the four sides of the points has one"
    assert len(set(re.findall(r"<text [^>]*>(?=step-|the last)", svg))) == 4


def test_a_policy_right_of_the_whole_curve_may_not_be_beyond_it_and_the_caption_says_why(tmp_path: Path) -> None:
    told = evaluation([1, 8], measured("base", [4, 4, 4, 4]), measured("p", [8, 2, 5, 3]))
    assert "Not shown in p" in beyond_sharpening(told)
    assert told.summaries["p"][1.0]["pass@1"].value > told.summaries["base"][1.0]["pass@1"].value
    page = Page(write_report(tmp_path / "r.html", runs={}, evaluation=told, title="t"))
    assert "whose interval holds 0 is not shown to be beyond it" in page.text


def test_the_tables_of_several_evaluations_have_titles_that_differ_and_the_answers_above_them(tmp_path: Path) -> None:
    small = evaluation([1, 8], measured("base", [4, 2]), measured("second", [0, 2]))
    large = evaluation([1, 8], measured("base", [4, 2, 0, 1]), measured("first", [4, 2, 0, 0]))
    output = write_report(tmp_path / "r.html", runs={}, evaluation=large, title="t", samplings=[small])
    text = output.read_text()
    titles = re.findall(r"<h2>(Results.*?)</h2>", text)
    assert titles == [
        f"Results of {name}: {prompts} prompts, 8 answers each, at most 32 tokens"
        for name, prompts in (("first", 4), ("second", 2))
    ]
    after = text[text.index(titles[1]) :]
    assert after.index("Did Pass@k survive?") < after.index("<table"), "the answers belong to the table below them"


def test_the_curves_of_checkpoints_have_the_colour_of_their_run(tmp_path: Path) -> None:
    folder = tmp_path / "second" / "evaluations" / "one"
    folder.mkdir(parents=True)
    values = {"pass@1": [0.5, 0.4, 0.6], "pass@8": [0.7, 0.6, 0.8]}
    points = [{"step": step, "policy": str(step), "values": values} for step in (0, 2, 4)]
    (folder / "series.json").write_text(json.dumps({"points": points}))
    told = replace(evaluation([1, 8], measured("base", [4, 2]), measured("p", [4, 2])), folder=folder)
    runs = {"first": tmp_path, "second": tmp_path}
    sources = Sources(runs=runs, records={"first": [], "second": []}, evaluation=told)
    [panel] = over_checkpoints(sources)
    drawn = [_look(curve) for curve in panel.curves]
    of_run = _look(Curve(name="second", style=sources.style("second"), x=[], y=[]))
    assert [look["color"] for look in drawn] == [of_run["color"]] * 2
    assert drawn[0]["marker"] != drawn[1]["marker"]
    assert panel.title == "Checkpoints of second"


def test_the_page_has_links_to_the_reports_on_the_prompts_of_its_tasks_while_they_are_there(
    tmp_path: Path,
) -> None:
    plain, told = evaluation([1, 8], measured("base", [4, 1])), []
    for name in ("a", "b: <i>", "gone"):
        report = tmp_path / name / "task.html"
        told.append(replace(plain, about=plain.about | {"task": "sums", "task_report": str(report)}))
        if name != "gone":
            report.parent.mkdir()
            report.write_text("")
    output = tmp_path / "a" / "report.html"
    page = Page(write_report(output, runs={}, evaluation=told[0], title="t", samplings=[*told[1:], told[0], plain]))
    links = [value for name, value in page.attributes if name == "href"]
    assert links == ["task.html", "../b%3A%20%3Ci%3E/task.html"]
    assert page.text.count("Prompts of sums: task.html") == 2
