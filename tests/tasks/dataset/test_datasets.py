"""Source of dataset rows: jsonl and parquet files, train stream, held-out rows and options."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from configs.task import TaskConfig
from tasks.registry import build
from tasks.source import Source
from tests.tasks.dataset.format_rows import all_heldout


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def source(path: Path | str, seed: int = 0, verifier: str = "", **options: Any) -> Source:
    return build(TaskConfig(name="dataset", options={"path": str(path)} | options, verifier=verifier), seed)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(
        tmp_path / "rows.jsonl", [{"prompt": f"What is {i}?", "answer": str(i), "level": 1} for i in range(200)]
    )


def test_rows_become_prompts_whose_problem_has_every_column(rows: Path) -> None:
    prompt = source(rows).prompt(5)
    line = int(prompt.problem["answer"]) + 1
    assert prompt.id == f"dataset/train/line-{line}", "the id of a row is the same in every epoch"
    assert prompt.verifier == "math"
    assert prompt.text == f"What is {prompt.problem['answer']}?"
    assert prompt.problem == {"prompt": prompt.text, "answer": prompt.problem["answer"], "level": 1}


def test_columns_may_have_other_names_and_the_verifier_gets_the_answer_as_answer_too(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm.jsonl", [{"question": f"{i}+1?", "solution": f"so\n#### {i + 1}"} for i in range(50)])
    prompt = source(path, prompt_field="question", answer_field="solution").prompt(0)
    assert prompt.text == prompt.problem["question"]
    assert prompt.problem["answer"] == prompt.problem["solution"]


def test_every_epoch_holds_every_train_row_once_in_a_different_order(rows: Path) -> None:
    one = source(rows)
    size = 200 - len(all_heldout(one))
    first, second = ([one.prompt(e * size + i).text for i in range(size)] for e in range(2))
    assert Counter(first) == Counter(second)
    assert len(set(first)) == size
    assert first != second


def test_a_prompt_depends_on_seed_and_position_only(rows: Path) -> None:
    positions = [3, 999, 3, 0, 500]
    assert [source(rows).prompt(p) for p in positions] == list(map(source(rows).prompt, positions))
    assert [source(rows, seed=1).prompt(p) for p in range(20)] != [source(rows).prompt(p) for p in range(20)]


def test_a_fraction_is_held_out_disjoint_and_the_same_for_every_seed(rows: Path) -> None:
    one = source(rows, heldout_fraction=0.3)
    held = all_heldout(one)
    train = {one.prompt(i).text for i in range(200)}
    assert 35 <= len(held) <= 85
    assert len(train) + len(held) == 200
    assert not train & {prompt.text for prompt in held}
    assert source(rows, seed=5, heldout_fraction=0.3).heldout(10) == held[:10]
    assert held[0].id.startswith("dataset/heldout/line-")


def test_copies_of_a_prompt_are_all_held_out_or_all_trained_on(tmp_path: Path) -> None:
    copies = [{"prompt": f"Q{i % 20} {' ' * (i // 20)}", "answer": str(i)} for i in range(80)]
    one = source(write(tmp_path / "copies.jsonl", copies), heldout_fraction=0.5)
    held = {prompt.text.strip() for prompt in all_heldout(one)}
    train = {one.prompt(i).text.strip() for i in range(80)}
    assert len(held) + len(train) == 20
    assert not held & train


def test_heldout_rows_may_come_from_a_separate_file(rows: Path, tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", [{"prompt": f"Held {i}", "answer": "1"} for i in range(9)])
    one = source(rows, heldout_path=str(held))
    assert len({one.prompt(i).text for i in range(200)}) == 200
    assert {prompt.text for prompt in one.heldout(9)} == {f"Held {i}" for i in range(9)}


def test_a_train_prompt_that_is_also_held_out_is_refused(rows: Path, tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", [{"prompt": "Other", "answer": "1"}, {"prompt": "What is 7?", "answer": "7"}])
    with pytest.raises(ValueError, match=r"rows.jsonl, line 8: the problem is also held out, in .*held.jsonl, line 2"):
        source(rows, heldout_path=str(held))


def test_parquet_rows_give_the_same_prompts_as_jsonl_rows(rows: Path, tmp_path: Path) -> None:
    table = arrow.Table.from_pylist([json.loads(line) for line in rows.read_text().splitlines()])
    parquet.write_table(table, tmp_path / "rows.parquet")
    one, other = source(rows), source(tmp_path / "rows.parquet")
    assert [one.prompt(i) for i in range(30)] == [other.prompt(i) for i in range(30)]
    assert one.heldout(5) == other.heldout(5)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "is not JSON"),
        ("[1, 2]", "must be an object with fields, got list"),
        ("[" * 100_000, "is not JSON"),
        ({"question": "x", "answer": "1"}, "has no field 'prompt'; its fields are 'question', 'answer'"),
        ({"prompt": "x"}, "has no field 'answer'"),
        ({"prompt": "", "answer": "1"}, "field 'prompt' must be a non-empty string"),
        ({"prompt": " \n", "answer": "1"}, "field 'prompt' must be a non-empty string"),
        ({"prompt": 7, "answer": "1"}, "field 'prompt' must be a non-empty string"),
        ({"prompt": [], "answer": "1"}, "field 'prompt' must end in a message of the user, got []"),
        (
            {"prompt": ["x"], "answer": "1"},
            "field 'prompt', message 1 must be an object with role and a text as content",
        ),
        ({"prompt": "x", "answer": []}, "field 'answer' must be a non-empty string or a number, or a list of them"),
        ({"prompt": "x", "answer": ["1", None]}, "field 'answer' must be a non-empty string or a number, or a list"),
        ({"prompt": "x", "answer": ""}, "field 'answer' must be a non-empty string or a number"),
        ({"prompt": "x", "answer": None}, "field 'answer' must be a non-empty string or a number"),
        ({"prompt": "x", "answer": True}, "field 'answer' must be a non-empty string or a number"),
    ],
)
def test_a_malformed_row_is_refused_with_file_line_and_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "bad.jsonl", [{"prompt": "fine", "answer": 1}, "", row])
    with pytest.raises(ValueError) as caught:
        source(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert reason in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"prompt": "a", "answer": 1}\n{"prompt": "\xff", "answer": 1}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2: is not JSON"):
        source(path)


def test_a_malformed_parquet_row_or_file_is_refused(tmp_path: Path) -> None:
    table = arrow.table({"prompt": ["a", "b"], "answer": ["1", None]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet, line 2: field 'answer'"):
        source(tmp_path / "rows.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"broken.parquet: is not a readable parquet file"):
        source(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"prompt": "a \\ud800", "answer": 1}', "'prompt'"),
        ('{"prompt": "a", "answer": "\\udc00"}', "'answer'"),
        ('{"prompt": "a", "answer": 1, "seen": {"by": ["\\ud83d!"]}}', "'seen'"),
        ('{"prompt": "a", "answer": 1, "\\ud800": 1}', r"'\ud800'"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_with_file_line_and_field(tmp_path: Path, line: str, field: str) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "whole \U0001f600", "answer": 1}, line])
    with pytest.raises(ValueError) as caught:
        source(path)
    assert str(caught.value).startswith(f"{path}, line 2: field {field} must be Unicode text, got the lone \\ud")


def test_half_of_a_surrogate_pair_in_a_column_that_is_not_used_is_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ['{"question": "1 + 1?", "answer": "#### 2", "seen": "\\ud800"}'] * 2)
    assert source(path, format="gsm8k", heldout_fraction=0.001).prompt(0).problem == {
        "answer": "2",
        "question": "1 + 1?",
    }


def test_values_that_json_lacks_become_text(tmp_path: Path) -> None:
    columns = {
        "moment": [datetime(2020, 1, 2, 3, tzinfo=UTC)],
        "nanoseconds": arrow.array([1_700_000_000_123_456_789], arrow.timestamp("ns")),
        "day": [date(2020, 1, 2)],
        "span": [timedelta(seconds=3)],
        "price": [Decimal("1.50")],
        "raw": [b"\xff\x00"],
        "utf8": ["\u00e9".encode()],
        "inside": [[{"at": datetime(2020, 1, 2)}]],
        "measure": [float("nan")],
    }
    path = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table({"prompt": ["a"], "answer": ["1"], **columns}), path)
    problem = dict(source(path, heldout_fraction=0.001).prompt(0).problem)
    assert problem.pop("nanoseconds").replace("T", " ") == "2023-11-14 22:13:20.123456789"
    assert {name: problem[name] for name in problem if name in columns} == {
        "moment": "2020-01-02T03:00:00+00:00",
        "day": "2020-01-02",
        "span": "0:00:03",
        "price": "1.50",
        "raw": "/wA=",
        "utf8": "\u00e9",
        "inside": [{"at": "2020-01-02T00:00:00"}],
        "measure": "nan",
    }


def test_a_column_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    moments = arrow.array([1_700_000_000], arrow.timestamp("s", "Mars/Base"))
    parquet.write_table(arrow.table({"prompt": ["a"], "answer": ["1"], "moment": moments}), path)
    with pytest.raises(ValueError, match=r"rows.parquet: field 'moment' cannot be read \(.*Mars/Base"):
        source(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "task.options.path: must not be empty"),
        ({"path": "/nowhere.jsonl"}, "task.options.path: must be an existing file"),
        ({"heldout_path": "/nowhere.jsonl"}, "task.options.heldout_path: must be an existing file"),
        ({"heldout_fraction": 1.0}, "task.options.heldout_fraction: must be between 0 and 1"),
        ({"format": "gsm8"}, "task.options.format: must be one of plain, gsm8k"),
        ({"format": "gsm8"}, "(did you mean 'gsm8k'?), got 'gsm8'"),
        ({"format": "math", "answer_field": "x"}, "task.options.answer_field: must be left out with"),
        ({"answer_field": ""}, "task.options.answer_field: must not be empty"),
        ({"format": "spider"}, "task.options.database_dir: must be the folder of the databases"),
        ({"format": "bird", "database_dir": "/nowhere"}, "task.options.database_dir: must be the folder of"),
        ({"database_dir": "/"}, "task.options.database_dir: must be left out unless"),
        (
            {"gold_seconds": 9},
            "task.options.gold_seconds: must be left out unless task.options.format is",
        ),
        ({"format": "sql", "gold_rows": 0}, "task.options.gold_rows: must be above 0, got 0"),
        ({"prompt_template": "{promt}"}, "(did you mean 'prompt'?), got {promt}"),
        ({"prompt_template": "no field"}, "task.options.prompt_template: must show at least one of {prompt}"),
        ({"prompt_template": "{prompt} \\boxed{}"}, "task.options.prompt_template: must show at least one of"),
        ({"prompt_template": "{prompt} {"}, "task.options.prompt_template: must show at least one of"),
        ({"prompt_template": "{prompt!r}"}, "task.options.prompt_template: must show at least one of"),
        ({"prompt_template": "{prompt.__class__}"}, "task.options.prompt_template: must show at least one of"),
        ({"pormpt_field": "x"}, "task.options.pormpt_field: unknown option (did you mean 'prompt_field'?)"),
    ],
)
def test_bad_options_of_a_dataset_are_refused_by_name(rows: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        source(**{"path": rows} | options)
    assert message in str(caught.value)


def test_a_file_of_another_type_or_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"options.path: must end in one of .jsonl, .json, .csv, .parquet, .arrow"):
        source(write(tmp_path / "rows.tsv", ["a\tb"]))
    with pytest.raises(ValueError, match=r"task.options.path: must hold at least one row"):
        source(write(tmp_path / "empty.jsonl", []))


def test_too_few_heldout_rows_are_refused_by_setting(rows: Path) -> None:
    with pytest.raises(ValueError, match=r"task.heldout_prompts: must be at most the \d+ held-out rows"):
        source(rows).heldout(190)


def test_the_right_answer_of_a_row_is_its_demonstration(rows: Path) -> None:
    one = source(rows)
    for position in (0, 7, 300):
        prompt, answer = one.demonstration(position)
        assert prompt == one.prompt(position)
        assert answer == prompt.problem["answer"]


def test_the_configured_verifier_replaces_that_of_the_task(rows: Path) -> None:
    one = source(rows, verifier="my.module:reward")
    assert {p.verifier for p in (one.prompt(0), *one.heldout(3))} == {"my.module:reward"}
    countdown = build(TaskConfig(verifier="other"), seed=0)
    assert countdown.demonstration(0)[0].verifier == "other"
    assert source(rows, verifier="").prompt(0).verifier == "math"


def test_the_error_about_an_unknown_task_suggests_the_nearest_name() -> None:
    with pytest.raises(
        ValueError, match=r"task.name: must be one of countdown, .*dataset.* \(did you mean 'countdown'\?\)"
    ):
        build(TaskConfig(name="countdwn"), seed=0)
