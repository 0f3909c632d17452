"""Rehearsal set: answers are read back bit for bit; seed and step determine their order."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trajectories.rehearsal import RehearsalSet, read, write
from trajectories.trajectory import Grade, Trajectory


def answer(number: int) -> Trajectory:
    random = np.random.default_rng(number)
    length = 4 + number % 5
    mask = np.arange(length) >= 2
    return Trajectory(
        prompt_id=f"countdown/train/{number // 2}",
        sample_index=number % 2,
        tokens=random.integers(0, 2**31 - 1, length, dtype=np.int32),
        mask=mask,
        logp_sampler=np.where(mask, np.log(random.random(length, dtype=np.float32)), 0).astype(np.float32),
        first_version=3,
        last_version=4,
        finish_reason="stop",
        seed=2**31 - 1 - number,
        text=f"{number} + ½ \n\x00",
        grade=Grade(reward=1.0, status="correct"),
    )


ANSWERS = [answer(number) for number in range(7)]


def numbers(trajectories: list[Trajectory]) -> list[int]:
    return [2**31 - 1 - t.seed for t in trajectories]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "rehearsal.parquet"
    write(path, ANSWERS)
    return path


def test_answers_are_read_back_bit_for_bit_with_the_log_probs_of_the_sampler_as_those_of_the_reference(
    stored: Path,
) -> None:
    back = read(stored, batch=3, seed=0).trajectories
    assert [p.name for p in stored.parent.iterdir()] == ["rehearsal.parquet"], "no temporary file is left"
    assert len(back) == len(ANSWERS)
    for was, now in zip(ANSWERS, back, strict=True):
        for name, dtype in (("tokens", np.int32), ("mask", np.bool_), ("logp_sampler", np.float32)):
            assert getattr(now, name).dtype == dtype
            assert getattr(now, name).tobytes() == getattr(was, name).tobytes()
        assert now.logp_reference is not None
        assert now.logp_reference.tobytes() == was.logp_sampler.tobytes()
        assert (now.key, now.seed, now.text, now.reward) == (was.key, was.seed, was.text, was.reward)
        assert now.route == "rehearse"


@pytest.mark.parametrize("batch", [1, 3, 7, 10, 20])
def test_every_pass_returns_every_answer_exactly_once(batch: int) -> None:
    returned: list[int] = []
    answers = RehearsalSet(tuple(ANSWERS), batch, seed=5)
    for step in range(30):
        drawn = numbers(answers.at(step))
        assert len(drawn) == batch
        returned += drawn
    passes = [returned[start : start + 7] for start in range(0, len(returned) - 6, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1, "passes have different orders"
    assert set(Counter(returned).values()) <= {len(returned) // 7, len(returned) // 7 + 1}


def test_the_answers_of_a_step_depend_on_seed_and_step_alone(stored: Path) -> None:
    def order(seed: int, steps: Any) -> dict[int, list[int]]:
        answers = read(stored, batch=3, seed=seed)
        return {step: numbers(answers.at(step)) for step in steps}

    forwards = order(1, range(12))
    assert order(1, reversed(range(12))) == forwards, "a resumed run may begin at any step"
    assert order(2, range(12)) != forwards


def test_prompts_with_a_stored_answer_are_mastered() -> None:
    mastered = RehearsalSet(tuple(ANSWERS[:3]), 1, 0).prompt_ids
    assert mastered == {"countdown/train/0", "countdown/train/1"}


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "none.parquet", [])
    with pytest.raises(ValueError, match=r"^rehearsal: must hold at least one answer, got none"):
        read(tmp_path / "none.parquet", 1, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^rehearsal\.path: must be a parquet file made by `breadth presample`, got "):
        read(tmp_path / "gone.parquet", 1, 0)


@pytest.mark.parametrize("damage", ["not parquet", "cut short", "a hole in the data"])
def test_a_file_that_cannot_be_read_is_named(damage: str, stored: Path) -> None:
    data = stored.read_bytes()
    broken = {
        "not parquet": b"prompt,answer\n",
        "cut short": data[: len(data) // 2],
        "a hole in the data": data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :],
    }
    stored.write_bytes(broken[damage])
    with pytest.raises(ValueError, match=r"^rehearsal\.path: .*rehearsal\.parquet"):
        read(stored, 1, 0)


def test_missing_columns_are_named(stored: Path) -> None:
    pq.write_table(pq.read_table(stored).drop_columns(["mask", "seed"]), stored)
    with pytest.raises(ValueError, match=r"rehearsal\.parquet must have the columns .*\['mask', 'seed'\]$"):
        read(stored, 1, 0)


@pytest.mark.parametrize(
    ("column", "values"),
    [("tokens", ["1 2"]), ("sample_index", ["first"]), ("logp_reference", [{"a": 1.0}]), ("tokens", [[2**40]])],
)
def test_a_column_of_the_wrong_type_is_named(column: str, values: list[Any], stored: Path) -> None:
    table = pq.read_table(stored).slice(0, 1)
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), stored)
    with pytest.raises(ValueError, match=rf"rehearsal\.parquet, column {column}: must hold "):
        read(stored, 1, 0)


@pytest.mark.parametrize(
    "fault",
    [
        {"mask": [False, True]},
        {"mask": [False] * 5},
        {"mask": [True] * 5},
        {"mask": [False, False, None, True, True]},
        {"logp_reference": [0.0, 0.0, float("nan"), -1.0, -1.0]},
        {"logp_reference": [0.0, 0.0, None, -1.0, -1.0]},
        {"logp_reference": [0.0, 0.0, float("-inf"), -1.0, -1.0]},
        {"tokens": [], "mask": [], "logp_reference": []},
        {"tokens": None},
        {"prompt_id": None},
        {"reward": None},
    ],
)
def test_a_malformed_row_is_named_with_its_file(fault: dict[str, Any], stored: Path) -> None:
    table = pq.read_table(stored)
    rows = table.to_pylist()
    assert len(rows[1]["tokens"]) == 5
    rows[1] |= fault
    pq.write_table(pa.Table.from_pylist(rows, table.schema), stored)
    with pytest.raises(ValueError, match=r"^rehearsal\.path: .*rehearsal\.parquet, row 1: "):
        read(stored, 1, 0)


def test_a_file_of_another_writer_with_wider_types_is_read(stored: Path) -> None:
    rows = pq.read_table(stored).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows), stored)
    assert pq.read_table(stored).schema.field("tokens").type == pa.list_(pa.int64())
    back = read(stored, 1, 0).trajectories
    assert [t.tokens.tolist() for t in back] == [t.tokens.tolist() for t in ANSWERS]
    assert back[0].tokens.dtype == np.int32


def test_writing_replaces_the_whole_file(stored: Path) -> None:
    write(stored, [replace(ANSWERS[0], text="new")])
    assert [t.text for t in read(stored, 1, 0).trajectories] == ["new"]
