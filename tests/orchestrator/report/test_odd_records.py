"""The report of a run whose records or settings have what no figure can show."""

from pathlib import Path

import pytest

from orchestrator.report.write import write_report
from tests.orchestrator.report.test_report import Page


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e308", "1" + "0" * 400])
def test_a_number_that_no_figure_can_show_is_left_out(tmp_path: Path, number: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    odd = f'"reward": {number}, "seconds/step": {number}, "tokens": {number}, "heldout/pass@\u00b2": 0.1'
    lines = ('"step": 1, "reward": 0.5', f'"step": 2, {odd}', f'"step": {"9" * 400}, "reward": 0.5')
    (run / "metrics.jsonl").write_text("".join(f"{{{line}}}\n" for line in (*lines, '"step": 3, "reward": -1e308')))
    (run / "config.yaml").write_bytes(b"\xff\xfe name: 1")
    page = Page(write_report(tmp_path / "report.html", runs={"run": run}, evaluation=None, title="t"))
    assert page.figures == ["Reward: mean reward against step"]
