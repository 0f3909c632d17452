"""The viewer's page in headless Chromium, on a phone and a desktop, in light and dark."""

from pathlib import Path

import pytest
from answer_lines import HOSTILE, row, write

from orchestrator.viewer.answer_file import AnswerFile
from orchestrator.viewer.page import exported
from tests.orchestrator.browser import measure

SCRIPT = """
  const light = ([r, g, b]) => {
    const f = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
  };
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const painted = (...colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return light([...canvas.getImageData(0, 0, 1, 1).data]);
  };
  const style = node => view.getComputedStyle(node), paper = style(shown.body).backgroundColor;
  const contrast = (one, two) => (Math.max(one, two) + .05) / (Math.min(one, two) + .05);
  const ground = node => {
    const over = [];
    for (let at = node; at; at = at.parentElement) over.unshift(style(at).backgroundColor);
    return painted("#fff", paper, ...over);
  };
  const texts = [...shown.body.querySelectorAll("h1, h2, h2 span, p, label, summary, .tokens span, .legend, .verdict")];
  const contrasts = texts.map(node => [contrast(painted(style(node).color), ground(node)), node.className]);
  const beyond = [...shown.body.querySelectorAll("*")].filter(node => {
    const box = node.getBoundingClientRect();
    return box.width && (box.left < -1 || box.right > view.innerWidth + 1);
  });
  const strong = [...shown.querySelectorAll(".tokens span")].map(node => style(node).backgroundColor);
  return {
    contrast: contrasts.reduce((one, two) => one[0] <= two[0] ? one : two), coloured: new Set(strong).size,
    overflow: shown.documentElement.scrollWidth - view.innerWidth, beyond: beyond.map(node => node.className),
    answers: shown.querySelectorAll(".sampled").length, title: document.title, dark: painted(paper) < .2,
    legend: shown.querySelector(".legend").textContent,
  };
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_and_a_desktop_every_token_can_be_read_on_its_colour(tmp_path: Path, dark: bool) -> None:
    columns = {"count": 3, "texts": ["one", "two", "three"], "advantage": [2.0, -2.0, 0.1]}
    path = write(tmp_path / "a.jsonl", row(1, tokens={**columns, "entropy": [2.0, 1.9, 0.1]}), row(2, texts=HOSTILE))
    answers = AnswerFile(path)
    answers.refresh()
    page = exported("a run", answers, [0, 1])
    for colour in ("entropy", "advantage"):
        # A page in a frame has no address of its own.
        chosen = page.replace("readAddress();\ndraw();", f'controls.colour.value = "{colour}";\ndraw();')
        assert chosen != page
        (tmp_path / "page.html").write_text(_without_policy(chosen))
        found = measure(tmp_path / "page.html", (420, 1280), SCRIPT, tmp_path, dark=dark)
        for width, seen in found.items():
            assert (seen["overflow"], seen["beyond"], seen["answers"], seen["dark"]) == (0, [], 2, dark), (width, seen)
            assert seen["contrast"][0] >= 4.5, (width, colour, seen["contrast"])
            assert seen["coloured"] > 2 and seen["title"] != "OWNED"


def _without_policy(page: str) -> str:
    """Return the page without the policy that allows its own script alone, which the test changes."""
    start = page.index('<meta http-equiv="Content-Security-Policy"')
    return page[:start] + page[page.index(">", start) + 1 :]
