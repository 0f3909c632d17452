"""The results of runs that were not evaluated, from their own held-out measurements."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load, to_yaml
from orchestrator.report.monitored import monitored
from orchestrator.report.write import write_report
from tests.orchestrator.report.test_report import Page, measured

SETTINGS = ("monitor.answers=8", "monitor.ks=[1,8]", "monitor.frontier=[0.0]", "policy.path=/models/start")


def run(folder: Path, name: str, *settings: str, corrects: tuple[int, ...] = (8, 0)) -> Path:
    """A run directory with a measurement of the base, of the base decoded greedily, and of steps 2 and 4."""
    (folder / name).mkdir()
    (folder / name / "config.yaml").write_text(to_yaml(load([*SETTINGS, f"name={name}", *settings])))
    for step, rights in ((0, [4, 2]), (2, [5, 1]), (4, list(corrects))):
        found = replace(measured(name, rights), step=step)
        found.write(folder / name / "measurements" / f"step-{step:06d}.json")
    measured("base", [8, 0], temperature=0.0).write(folder / name / "measurements" / "base@0.0.json")
    return folder / name


def test_the_last_measurement_of_each_run_is_compared_with_its_base(tmp_path: Path) -> None:
    runs = {name: run(tmp_path, name, corrects=c) for name, c in (("one", (8, 0)), ("two", (8, 8)))}
    [found] = monitored(runs)
    assert (found.names, found.ks, found.temperatures) == (["base", "one", "two"], [1, 8], [1.0])
    assert list(found.measurements["base"]) == [1.0, 0.0], "the frontier of the base is there"
    changes = {name: found.summaries[name][1.0]["change/pass@8"].value for name in runs}
    assert changes == {"one": pytest.approx(-0.5), "two": pytest.approx(0.0)}
    page = Page(write_report(tmp_path / "report.html", runs=runs, evaluation=None, title="t"))
    for words in (
        "Did Pass@k survive?",
        "held-out measurements that the runs made",
        "one at step 4",
        "1 lost",
    ):
        assert words in page.text


@pytest.mark.parametrize("other", ["policy.path=/models/other", "monitor.sampling.max_new_tokens=7"])
def test_a_run_from_another_base_or_with_another_sampling_stands_apart(tmp_path: Path, other: str) -> None:
    found = monitored({"one": run(tmp_path, "one"), "two": run(tmp_path, "two", other)})
    assert [each.names for each in found] == [["base", "one"], ["base", "two"]]


def test_a_run_named_base_is_not_mistaken_for_the_base(tmp_path: Path) -> None:
    [found] = monitored({"base": run(tmp_path, "base")})
    assert found.names == ["start of the runs", "base"]


def test_a_run_without_a_later_measurement_or_with_a_broken_one_has_no_results(tmp_path: Path) -> None:
    early, broken = run(tmp_path, "early"), run(tmp_path, "broken")
    for step in (2, 4):
        (early / "measurements" / f"step-{step:06d}.json").unlink()
    (broken / "measurements" / "step-000004.json").write_text("{")
    assert monitored({"early": early, "broken": broken, "absent": tmp_path / "absent"}) == []
