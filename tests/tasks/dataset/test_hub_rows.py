"""Datasets of the Hugging Face Hub: which files hold a subset and a split, and rows read from a cache."""

import gzip
import json
from pathlib import Path

import pytest
from hub_cache import hub_cache

from configs.hub import HubName, rows_name
from configs.task import TaskConfig
from tasks.dataset.files import rows
from tasks.dataset.hub_rows import choose
from tasks.registry import build

CARD = """---
license: mit
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: socratic
  data_files: socratic/*.parquet
---
# Card
"""
PATHS = ["README.md", "main/train-0.parquet", "main/train-1.parquet", "main/test-0.parquet", "socratic/all.parquet"]


def chosen(path: str, paths: list[str], card: str = "") -> list[str]:
    name = rows_name(path)
    assert isinstance(name, HubName)
    return choose(paths, card, name, "task.options.path")


def test_the_card_says_which_files_a_subset_and_a_split_have() -> None:
    assert chosen("org/set/main:train", PATHS, CARD) == ["main/train-0.parquet", "main/train-1.parquet"]
    assert chosen("org/set/main:test", PATHS, CARD) == ["main/test-0.parquet"]
    assert chosen("org/set/socratic", PATHS, CARD) == ["socratic/all.parquet"]


def test_without_a_card_names_of_files_and_folders_say_the_split() -> None:
    paths = ["data/train-0.jsonl", "data/validation.jsonl", "default/test/0000.parquet", "figures/map.png"]
    assert chosen("org/set:train", paths) == ["data/train-0.jsonl"]
    assert chosen("org/set:validation", paths) == ["data/validation.jsonl"]
    assert chosen("org/set:test", paths) == ["default/test/0000.parquet"]
    assert chosen("org/set", ["deepscaler.json"]) == ["deepscaler.json"] == chosen("org/set:train", ["deepscaler.json"])


def test_files_that_describe_a_dataset_hold_no_rows_of_it() -> None:
    assert chosen("org/set", ["dataset_infos.json", "rows.jsonl"]) == ["rows.jsonl"]


def test_files_and_folders_of_a_repository_can_be_named() -> None:
    paths = ["test.jsonl", "test2.jsonl", "old/test.jsonl", "old/train.jsonl"]
    assert chosen("org/set/test*.jsonl", paths) == ["test.jsonl", "test2.jsonl"]
    assert chosen("org/set/test2.jsonl", paths) == ["test2.jsonl"]
    assert chosen("org/set/old:train", paths) == ["old/train.jsonl"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("org/set", "must name one of the subsets of org/set, as in org/set/main; it has main, socratic"),
        ("org/set/mian:train", "must name a subset, a file or a folder of org/set; it has main, socratic"),
        ("org/set/main", "must end in a split of org/set, which has :train, :test"),
        ("org/set/main:dev", "must end in a split of org/set, which has :train, :test"),
    ],
)
def test_what_a_repository_lacks_is_refused_with_what_it_has(path: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        chosen(path, PATHS, CARD)
    assert f"task.options.path: {words}, got '{path}'" in str(caught.value)


def test_rows_of_a_cached_dataset_are_read_and_its_splits_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = hub_cache(tmp_path, monkeypatch)
    line = '{{"prompt": "{0} + 1?", "answer": "{0}"}}\n'
    cache.add("dataset", "org/sums", {"train.jsonl": line.format(3), "test.jsonl": line.format(4)})
    options = {"path": "org/sums:train", "heldout_path": "org/sums:test"}
    source = build(TaskConfig(name="dataset", options=options), seed=0)
    assert source.prompt(0).text == "3 + 1?"
    assert [prompt.text for prompt in source.heldout(1)] == ["4 + 1?"]
    domain = {"name": "dataset", "options": options}
    mixture = build(TaskConfig(name="mixture", options={"domains": [domain]}), seed=0)
    assert mixture.prompt(0).text == "3 + 1?"


def test_a_file_that_neither_cache_nor_hub_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_cache(tmp_path, monkeypatch)
    rule = r"^task.options.domains\[0\].options.path: must be files, a folder or a Hugging Face repository; no file "
    with pytest.raises(ValueError, match=rule):
        domains = [{"name": "dataset", "options": {"path": "org/gone:train"}}]
        build(TaskConfig(name="mixture", options={"domains": domains}), seed=0)


def test_half_a_cache_of_numbered_files_is_refused_unless_those_it_has_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = hub_cache(tmp_path, monkeypatch)
    file = "data/train-00000-of-00002.jsonl"
    cache.add("dataset", "org/half", {file: '{"prompt": "1 + 1?", "answer": "2"}\n' * 40})
    rule = r"^task.options.path: the Hub does not answer, and its cache lacks data/train-00001-of-00002.jsonl, got "
    for path in ("org/half:train", "org/half/data", "org/half/data/train-*"):
        with pytest.raises(ValueError, match=rule):
            build(TaskConfig(name="dataset", options={"path": path}), seed=0)
    options = {"path": f"org/half/{file}", "heldout_fraction": 1e-9}
    assert build(TaskConfig(name="dataset", options=options), seed=0).prompt(0).text == "1 + 1?"


def test_csv_and_compressed_files_are_read(tmp_path: Path) -> None:
    row = {"prompt": 'What is "2, 3"?\nAnswer.', "answer": "5"}
    table = tmp_path / "rows.csv"
    table.write_text('prompt,answer\n"What is ""2, 3""?\nAnswer.",5\n')
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(row).encode()))
    array = tmp_path / "rows.json.gz"
    array.write_bytes(gzip.compress(json.dumps([row]).encode()))
    assert list(rows(table)) == list(rows(packed)) == list(rows(array)) == [(1, row)]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"rows.jsonl.gz: cannot be read"):
        list(rows(packed))
