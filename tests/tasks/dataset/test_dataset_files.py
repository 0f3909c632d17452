"""Files of rows: folders, patterns, arrays, and folders written by `save_to_disk` of `datasets`."""

import json
import re
from collections import Counter
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
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path: Path, **options: Any) -> Source:
    return build(TaskConfig(name="dataset", options={"path": str(path)} | options), seed=0)


@pytest.fixture
def table() -> arrow.Table:
    return arrow.Table.from_pylist([{"prompt": f"What is {i}?", "answer": str(i), "level": 1} for i in range(200)])


@pytest.fixture
def rows(tmp_path: Path, table: arrow.Table) -> Path:
    return write(tmp_path / "rows.jsonl", table.to_pylist())


def texts(one: Source, count: int = 200) -> Counter[str]:
    held = [prompt.text for prompt in all_heldout(one)]
    return Counter([one.prompt(i).text for i in range(count - len(held))] + held)


def test_a_folder_of_files_is_one_dataset(tmp_path: Path, rows: Path, table: arrow.Table) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(4):
        parquet.write_table(table.slice(number * 50, 50), folder / f"train-{number:05}-of-00004.parquet")
    (folder / "README.md").write_text("not data")
    (folder / "._train.jsonl").write_text("not data")
    one = source(folder)
    assert texts(one) == texts(source(rows))
    ids = {one.prompt(i).id for i in range(200)}
    assert len(ids) == 200 - len(all_heldout(one))
    assert all(re.fullmatch(r"dataset/train/train-0000\d-of-00004\.parquet/line-\d+", name) for name in ids)


def test_a_pattern_chooses_files_of_a_folder(tmp_path: Path, rows: Path) -> None:
    write(tmp_path / "test-0.jsonl", [{"prompt": f"T{i}", "answer": "1"} for i in range(5)])
    write(tmp_path / "train-0.jsonl", [{"prompt": f"A{i}", "answer": "1"} for i in range(30)])
    write(tmp_path / "train-1.jsonl", [{"prompt": f"B{i}", "answer": "1"} for i in range(30)])
    one = source(tmp_path / "train-*", heldout_path=str(tmp_path / "test-*.jsonl"))
    assert {one.prompt(i).text[0] for i in range(60)} == {"A", "B"}
    assert {prompt.text for prompt in one.heldout(5)} == {f"T{i}" for i in range(5)}
    with pytest.raises(ValueError, match=r"task.options.path: must be .* a pattern that matches files"):
        source(tmp_path / "nothing-*")


def test_a_folder_that_holds_several_splits_is_refused_so_that_nobody_trains_on_test_rows(tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    folder.mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        write(folder / name, [{"prompt": name, "answer": "1"}])
    with pytest.raises(
        ValueError, match=r"must be of one split, not of test, train: give a pattern such as .*/train\*"
    ):
        source(folder)


def test_an_array_of_rows_in_a_json_file_gives_the_same_prompts_as_lines(
    tmp_path: Path, rows: Path, table: arrow.Table
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(table.to_pylist(), indent=1))
    one, other = source(rows), source(tmp_path / "rows.json")
    assert [one.prompt(i) for i in range(30)] == [other.prompt(i) for i in range(30)]
    (tmp_path / "one.json").write_text('{"prompt": "a", "answer": 1}')
    with pytest.raises(ValueError, match=r"one.json: must hold an array of rows, got dict"):
        source(tmp_path / "one.json")


def save_to_disk(table: arrow.Table, folder: Path, shards: int) -> None:
    """Write the files of `datasets.Dataset.save_to_disk`: Arrow streams, and their names in state.json."""
    folder.mkdir(parents=True)
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    for shard, name in enumerate(names):
        size = table.num_rows // shards
        with arrow.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table.slice(shard * size, size), max_chunksize=30)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names], "_split": None}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_folder_saved_by_datasets_is_read_without_that_library(
    tmp_path: Path, rows: Path, table: arrow.Table
) -> None:
    save_to_disk(table, tmp_path / "one", shards=1)
    assert [source(tmp_path / "one").prompt(i) for i in range(9)] == [source(rows).prompt(i) for i in range(9)]
    save_to_disk(table, tmp_path / "four", shards=4)
    assert texts(source(tmp_path / "four")) == texts(source(rows))
    save_to_disk(table, tmp_path / "splits" / "train", shards=1)
    save_to_disk(table, tmp_path / "splits" / "test", shards=1)
    with pytest.raises(ValueError, match=r"task.options.path: must be one of the folders saved in it \(test, train\)"):
        source(tmp_path / "splits")


def test_a_broken_saved_folder_is_refused(tmp_path: Path, table: arrow.Table) -> None:
    save_to_disk(table, tmp_path / "saved", shards=1)
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"ARROW1 but not really")
    with pytest.raises(ValueError, match=r"data-00000-of-00001.arrow: is not a readable Arrow file"):
        source(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": [{"filename": "../rows.jsonl"}]}')
    with pytest.raises(ValueError, match=r"task.options.path: must list names of files in its own folder"):
        source(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("[]")
    with pytest.raises(ValueError, match=r"state.json: must list the saved files, got "):
        source(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"task.options.path: must hold .jsonl, .csv or .parquet files, or be written"):
        source(tmp_path / "empty")
