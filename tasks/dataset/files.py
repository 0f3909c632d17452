"""Find and read files of rows: jsonl, json, csv and parquet, and folders written by `save_to_disk` of `datasets`.

Files are read row by row or batch by batch, except that a .json file is loaded whole. A folder
written by `save_to_disk` holds Arrow streams, so the library `datasets` is not needed. All values are JSON: what JSON
lacks, such as a date, becomes text.
"""

import base64
import csv
import gzip
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet

from configs.checks import require

BATCH = 1024
"""Rows of a parquet file that are loaded at a time."""
SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}
"""First words of file names that name a split. A folder with files of several splits is refused, to prevent
accidental training on test rows."""


def data_files(path: str, field: str) -> list[Path]:
    """Return the files that `path` names, sorted by name.

    Args:
        path: a file, a folder, or a pattern of files in a folder, such as `data/train-*`.
        field: the option that holds `path`, for errors.

    Raises:
        ValueError: there are no files, their type is unknown, or a folder holds several splits; names `field`.
    """
    given = Path(path)
    if given.is_file():
        files = [given]
    elif given.is_dir():
        files = _of_folder(given, field)
    else:
        files = sorted(found for found in given.parent.glob(given.name) if found.is_file()) if given.name else []
        require(bool(files), field, "must be an existing file or folder, or a pattern that matches files", path)
    for file in files:
        require(kind(file) in READERS, field, f"must end in one of {', '.join(READERS)}", str(file))
    return files


def rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and value of every row.

    The number is the line of a jsonl file, and in other files the index of the row; both count from 1.

    Raises:
        ValueError: the file or a row cannot be read; names the file, and the line of a bad row.
    """
    return READERS[kind(file)](file)


def kind(file: Path) -> str:
    """Return the ending of a file's name that says how its rows are written; `.gz` after it says it is compressed."""
    text = file.suffix == ".gz" and Path(file.stem).suffix in (".jsonl", ".json", ".csv")
    return Path(file.stem).suffix if text else file.suffix


def _opened(file: Path) -> Any:
    return gzip.GzipFile(file) if file.suffix == ".gz" else file.open("rb")


def _of_folder(folder: Path, field: str) -> list[Path]:
    state = folder / "state.json"
    if state.is_file():
        return [folder / name for name in _saved_files(state, field)]
    saved = sorted(inner.parent.name for inner in folder.glob("*/state.json"))
    rule = f"must be one of the folders saved in it ({', '.join(saved)})"
    require(not saved, field, rule, str(folder))
    files = sorted(file for file in folder.iterdir() if _is_data(file))
    require(
        bool(files), field, "must hold .jsonl, .csv or .parquet files, or be written by `save_to_disk`", str(folder)
    )
    splits = sorted(SPLITS & {re.split("[^a-z]", file.stem)[0] for file in files})
    if len(splits) > 1:
        likely = max(splits, key=lambda name: name.startswith("train"))
        rule = f"must be of one split, not of {', '.join(splits)}: give a pattern such as {folder / likely}*"
        raise ValueError(f"{field}: {rule}, got {str(folder)!r}")
    return files


def _is_data(file: Path) -> bool:
    return kind(file) in (".jsonl", ".parquet", ".csv") and not file.name.startswith(".") and file.is_file()


def _saved_files(state: Path, field: str) -> list[str]:
    """Return the names of the Arrow files of one saved split, in their order."""
    try:
        names = [entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{state}: must list the saved files, got {type(error).__name__}: {error}") from None
    for name in names:
        plain = isinstance(name, str) and Path(name).name == name
        require(plain, field, f"must list names of files in its own folder ({state})", name)
    return names


def _jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    with _opened(file) as lines:
        for line, raw in enumerate(_whole(lines, file), start=1):
            if not raw.strip():
                continue
            try:
                yield line, json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {line}: is not JSON ({error})") from None


def _whole(lines: Iterable[bytes], file: Path) -> Iterator[bytes]:
    """Yield the lines of a file. Raise ValueError if it is compressed and was cut short."""
    try:
        yield from lines
    except (EOFError, OSError) as error:
        raise ValueError(f"{file}: cannot be read ({error})") from None


def _json(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        with _opened(file) as opened:
            values = json.loads(opened.read().decode("utf-8-sig"))
    except (ValueError, RecursionError, OSError, EOFError) as error:
        raise ValueError(f"{file}: is not JSON ({error})") from None
    if not isinstance(values, list):
        raise ValueError(f"{file}: must hold an array of rows, got {type(values).__name__}")
    yield from enumerate(values, start=1)


def _csv(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        with _opened(file) as opened:
            text = opened.read().decode("utf-8-sig")
        for number, row in enumerate(csv.DictReader(text.splitlines(keepends=True), strict=True), start=1):
            yield number, {name: value for name, value in row.items() if name is not None}
    except (csv.Error, OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: is not CSV ({error})") from None


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
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: is not a readable {kind} file ({error})") from None
        if batch is None:
            return
        columns = [_json_values(batch.column(name), f"{file}: field {name!r}") for name in batch.schema.names]
        for values in zip(*columns, strict=True):
            read += 1
            yield read, dict(zip(batch.schema.names, values, strict=True))


def _json_values(column: arrow.Array, where: str) -> list[Any]:
    """Return the values of a column as JSON values. Raise ValueError, with `where`, if they cannot be read."""
    try:
        return [_as_json(value) for value in column.to_pylist()]
    except Exception:  # A time zone, year or fraction of a second that Python does not have, or text that is not UTF-8.
        try:
            return list(column.cast(arrow.string()).to_pylist())
        except (arrow.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"{where} cannot be read ({error})") from None


def _as_json(value: Any) -> Any:
    """Return a value as JSON. A date, decimal number or any other value that JSON lacks becomes text; bytes that are
    not UTF-8 become base64."""
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {str(name): _as_json(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_as_json(inner) for inner in value]
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return base64.b64encode(value).decode()
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
