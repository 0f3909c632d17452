"""Where rows come from: jsonl, json and parquet files, folders of them, and what `datasets` saves to disk.

Nothing is ever downloaded. A file is read row by row or batch by batch; only a .json file is in memory whole while it
is read. Folders written by `save_to_disk` are Arrow streams, so reading them needs no further library.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet

from configs.checks import require

BATCH = 1024
"""Rows of a parquet file in memory as columns at a time."""
SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}
"""First words of file names that tell splits apart; training on test rows by accident is refused."""


def data_files(path: str, field: str) -> list[Path]:
    """The files that `path` names: itself, a folder's, or those that fit a pattern in a folder (`data/train-*`).

    Sorted by name. Raises ValueError naming `field` where there are none, they are of an unknown kind, or a folder
    holds several splits.
    """
    place = Path(path)
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = _of_folder(place, field)
    else:
        files = sorted(found for found in place.parent.glob(place.name) if found.is_file()) if place.name else []
        require(bool(files), field, "must be an existing file or folder, or a pattern that fits files", path)
    for file in files:
        require(file.suffix in READERS, field, f"must end in one of {', '.join(READERS)}", str(file))
    return files


def rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and value of every row: the line of a jsonl file, else the row's place in its file.

    Raises ValueError naming the file, and the line where one is to blame, on what cannot be read.
    """
    return READERS[file.suffix](file)


def _of_folder(folder: Path, field: str) -> list[Path]:
    state = folder / "state.json"
    if state.is_file():
        return [folder / name for name in _saved_files(state, field)]
    saved = sorted(inner.parent.name for inner in folder.glob("*/state.json"))
    rule = f"must be one of the folders saved in it ({', '.join(saved)})"
    require(not saved, field, rule, str(folder))
    files = sorted(file for file in folder.iterdir() if _is_data(file))
    require(bool(files), field, "must hold .jsonl or .parquet files, or what `save_to_disk` writes", str(folder))
    splits = sorted(SPLITS & {re.split("[^a-z]", file.stem)[0] for file in files})
    if len(splits) > 1:
        likely = max(splits, key=lambda name: name.startswith("train"))
        rule = f"must be of one split, not of {', '.join(splits)}: give a pattern such as {folder / likely}*"
        raise ValueError(f"{field}: {rule}, got {str(folder)!r}")
    return files


def _is_data(file: Path) -> bool:
    return file.suffix in (".jsonl", ".parquet") and not file.name.startswith(".") and file.is_file()


def _saved_files(state: Path, field: str) -> list[str]:
    """Names of the Arrow files of one saved split, in their order."""
    try:
        names = [entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{state}: does not list the saved files ({type(error).__name__}: {error})") from None
    for name in names:
        plain = isinstance(name, str) and Path(name).name == name
        require(plain, field, f"must list names of files in its own folder ({state})", name)
    return names


def _jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as lines:
        for line, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                yield line, json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {line}: is not JSON ({error})") from None


def _json(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        values = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not JSON ({error})") from None
    if not isinstance(values, list):
        raise ValueError(f"{file}: must hold an array of rows, got {type(values).__name__}")
    yield from enumerate(values, start=1)


def _parquet(file: Path) -> Iterator[tuple[int, Any]]:
    def batches() -> Iterator[arrow.RecordBatch]:
        with parquet.ParquetFile(file) as opened:
            yield from opened.iter_batches(batch_size=BATCH)

    return _numbered(file, "parquet", batches())


def _arrow(file: Path) -> Iterator[tuple[int, Any]]:
    def batches() -> Iterator[arrow.RecordBatch]:
        with arrow.memory_map(str(file)) as mapped, arrow.ipc.open_stream(mapped) as opened:
            yield from opened

    return _numbered(file, "Arrow", batches())


def _numbered(file: Path, kind: str, batches: Iterator[arrow.RecordBatch]) -> Iterator[tuple[int, Any]]:
    read = 0
    while True:
        try:
            batch = next(batches, None)
            values = [] if batch is None else batch.to_pylist()
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: is not a readable {kind} file ({error})") from None
        if batch is None:
            return
        yield from enumerate(values, start=read + 1)
        read += len(values)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
