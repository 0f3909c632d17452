"""The report in headless Chromium, on a phone, a tablet and a desktop, in light and dark."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.report.write import write_report
from tests.orchestrator.browser import measure
from tests.orchestrator.report.test_report import HOSTILE, evaluation, measured, run_directory

ROWS = ([4, 1, 0, 2], [8, 0, 0, 0], [6, 1, 1, 2])
WIDTHS = (420, 800, 1280)
SCRIPT = """
  const light = ([r, g, b]) => {
    const f = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
  };
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const found = rgb(view.getComputedStyle(node).backgroundColor);
      if (found[3] > 250) return found;
    }
    return [255, 255, 255, 255];
  };
  const texts = [...shown.body.querySelectorAll("*")].filter(node =>
    [...node.childNodes].some(child => child.nodeType == 3 && child.data.trim()));
  const contrasts = texts.map(node => {
    const style = view.getComputedStyle(node), inside = node.closest("svg");
    const [one, two] = [light(rgb(inside ? style.fill : style.color)), light(behind(node))];
    return [(Math.max(one, two) + .05) / (Math.min(one, two) + .05), node.textContent.slice(0, 40)];
  });
  const sizes = texts.map(node => {
    const svg = node.closest("svg"), size = parseFloat(view.getComputedStyle(node).fontSize);
    return [svg ? size * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : size, node.textContent];
  });
  const beyond = texts.filter(node => !node.closest(".scroll")).filter(node => {
    const box = node.getBoundingClientRect();
    return box.width && (box.left < -1 || box.right > view.innerWidth + 1);
  });
  const least = found => found.reduce((one, two) => one[0] <= two[0] ? one : two);
  const plots = [...shown.querySelectorAll(".plots")].map(grid =>
    new Set([...grid.children].map(plot => Math.round(plot.getBoundingClientRect().left))).size);
  return {
    overflow: shown.documentElement.scrollWidth - view.innerWidth,
    beyond: beyond.map(node => node.textContent.slice(0, 60)),
    contrast: least(contrasts), size: least(sizes), columns: Math.max(...plots),
    first: shown.querySelector("svg").getBoundingClientRect().bottom,
    background: rgb(view.getComputedStyle(shown.body).backgroundColor),
    loaded: view.performance.getEntriesByType("resource").length, scripts: shown.scripts.length,
    images: shown.images.length,
    hints: [...shown.querySelectorAll(".scroll")].filter(node => node.scrollWidth > node.clientWidth)
      .map(node => view.getComputedStyle(node).backgroundImage.split("gradient").length - 1), title: document.title,
  };
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = ("base", "a_method_with_a_long_name", HOSTILE)
    policies = [measured(name, corrects, HOSTILE + "x" * 500) for name, corrects in zip(names, ROWS, strict=True)]
    values = np.random.default_rng(0).normal(size=(3, 4, 3, 2))
    scored = Likelihoods(names=names, prompt_ids=("p0", "p1", "p2", "p3"), values=values)
    told = replace(evaluation([1, 4, 8], *policies), likelihoods=scored)
    runs = {name: run_directory(folder / f"run{lag}", 60, lag) for lag, name in enumerate(names[1:])}
    return write_report(folder / "report.html", runs=runs, evaluation=told, title=HOSTILE)


@pytest.fixture(scope="module", params=["light", "dark"])
def found(report: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    dark = request.param == "dark"
    return measure(report, WIDTHS, SCRIPT, tmp_path_factory.mktemp("chromium"), dark=dark) | {"dark": dark}


@pytest.mark.slow
def test_nothing_is_wider_than_the_page_and_no_text_is_small_or_faint(found: dict[str, Any]) -> None:
    for width in map(str, WIDTHS):
        assert found[width]["overflow"] <= 0, width
        assert found[width]["beyond"] == [], width
        assert found[width]["size"][0] >= 10, found[width]["size"]
        assert found[width]["contrast"][0] >= 4.5, found[width]["contrast"]


@pytest.mark.slow
def test_figures_stand_below_each_other_on_a_phone_and_side_by_side_on_a_desktop(found: dict[str, Any]) -> None:
    assert [found[str(width)]["columns"] for width in WIDTHS] == [1, 2, 3]
    assert found["1280"]["first"] < 900, "the two answers and their figure are the first screen"


@pytest.mark.slow
def test_a_table_that_is_wider_than_a_phone_has_a_shadow_at_the_edge_that_hides_columns(found: dict[str, Any]) -> None:
    assert found["420"]["hints"] and set(found["420"]["hints"]) == {4}, "two shadows, and what covers them at the ends"


@pytest.mark.slow
def test_the_page_is_dark_for_a_reader_who_prefers_it(found: dict[str, Any]) -> None:
    assert (sum(found["420"]["background"][:3]) < 150) is found["dark"]


@pytest.mark.slow
def test_the_page_loads_nothing_and_runs_nothing_of_a_hostile_answer(found: dict[str, Any]) -> None:
    for width in map(str, WIDTHS):
        assert [found[width][key] for key in ("loaded", "scripts", "images", "title")] == [0, 0, 0, ""]
