"""Which checkpoints of a run the items of `evaluate.checkpoints` stand for."""

from pathlib import Path

import pytest

from orchestrator.evaluation.selection import check_places, selected


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (0, 20, 40, 50, 100):
        folder = tmp_path / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (tmp_path / "checkpoints" / "step-000120").mkdir()  # one that was cut short
    return tmp_path


@pytest.mark.parametrize(
    ("items", "steps"),
    [
        (["all"], [0, 20, 40, 50, 100]),
        (["every:20"], [0, 20, 40, 100]),
        (["20..50"], [20, 40, 50]),
        (["50.."], [50, 100]),
        (["..20"], [0, 20]),
        (["every:40", "40..50"], [0, 40, 50]),
    ],
)
def test_an_item_stands_for_several_checkpoints_in_the_order_of_their_steps(
    run: Path, items: list[str], steps: list[int]
) -> None:
    assert selected(items, run) == [f"step-{step:06d}" for step in steps]


def test_other_items_stay_as_they_are(run: Path) -> None:
    items = ["last", "best", "40", "base=/policies/a", "../elsewhere", ".."]
    assert selected(items, run) == items
    assert selected(["all"], None) == ["all"], "without a run it is a directory"
    assert selected(["last", "100.."], run) == ["last", "step-000100"]


def test_an_item_that_selects_nothing_is_refused_with_the_steps_that_there_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: must select .* steps 0, 20, 40.*, got '60\.\.90'"):
        selected(["60..90"], run)
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: must select .* which has none, got 'all'"):
        selected(["all"], tmp_path / "empty")


@pytest.mark.parametrize("item", ["60", "step-000060", "mine=60"])
def test_a_checkpoint_that_the_run_has_removed_is_refused_with_what_removes_it(run: Path, item: str) -> None:
    with pytest.raises(ValueError, match=r"steps 0, 20, 40.* checkpoint\.keep_last removes .*/step-000060/policy'"):
        check_places([item], run)
