"""The table of held-out answers: its columns, its rows, and its parquet file, which is written and read in parts."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trajectories.atomic_write import replace_file
from trajectories.trajectory import Group, Trajectory

Row = dict[str, Any]
SCORED = 16
"""Answers to each prompt whose tokens the rows keep, so that other policies can score them."""
COLUMNS: dict[str, pa.DataType] = {
    "temperature": pa.float64(),
    "prompt_id": pa.string(),
    "prompt": pa.string(),
    "sample_index": pa.int64(),
    "seed": pa.int64(),
    "answer": pa.string(),
    "reward": pa.float64(),
    "status": pa.string(),
    "reason": pa.string(),
    "vote": pa.string(),
    "tokens": pa.int64(),
    "log_prob": pa.float64(),
    "finish_reason": pa.string(),
    "token_ids": pa.list_(pa.int32()),
    "generated": pa.list_(pa.bool_()),
}
SCHEMA = pa.schema(COLUMNS)
READ_ROWS = 1_024
"""Rows that are read at a time."""


def rows_of(group: Group, temperature: float) -> list[Row]:
    """Return the rows of the answers to one prompt, as JSON data."""
    return [_row(group, t, temperature) for t in group.trajectories]


def _row(group: Group, t: Trajectory, temperature: float) -> Row:
    kept = t.sample_index < SCORED
    return {
        "temperature": temperature,
        "prompt_id": group.prompt.id,
        "prompt": _utf8(group.prompt.text),
        "sample_index": t.sample_index,
        "seed": t.seed,
        "answer": _utf8(t.text),
        "reward": t.reward,
        "status": t.grade.status if t.grade else None,
        "reason": _utf8(t.grade.reason) if t.grade else None,
        "vote": _utf8(t.grade.vote) if t.grade else None,
        "tokens": t.answer_length,
        "log_prob": float(t.logp_sampler[t.mask].sum()),
        "finish_reason": t.finish_reason,
        "token_ids": t.tokens.tolist() if kept else None,
        "generated": t.mask.tolist() if kept else None,
    }


def _utf8(text: str) -> str:
    """Return the text without lone surrogates, which parquet does not store."""
    return text.encode("utf-8", "replace").decode()


def write_table(path: Path, parts: Iterable[Sequence[Row]], measurement: str) -> None:
    """Write rows, a part at a time, atomically, with the JSON of their measurement in the metadata of the file."""
    schema = SCHEMA.with_metadata({"measurement": measurement})
    with replace_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        for rows in parts:
            writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))


def read_measurement_text(path: Path) -> str:
    """Return the JSON of the measurement in a table. Raises KeyError, OSError or pa.ArrowException."""
    text: bytes = (pq.read_schema(path).metadata or {})[b"measurement"]
    return text.decode()


def scored_rows(path: Path) -> list[Row]:
    """Return the rows of the first SCORED answers to each prompt, with their tokens as arrays."""
    table = pq.read_table(path, filters=[("sample_index", "<", SCORED)])
    # Lists of Python numbers take ten times the memory of arrays.
    tokens, generated = (table.column(name) for name in ("token_ids", "generated"))
    rows: list[Row] = table.drop_columns(["token_ids", "generated"]).to_pylist()
    for i, row in enumerate(rows):
        row["token_ids"] = np.asarray(tokens[i].values, np.int32)
        row["generated"] = np.asarray(generated[i].values.to_numpy(zero_copy_only=False), np.bool_)
    return rows


def join_tables(path: Path, tables: Iterable[tuple[str, Path]]) -> None:
    """Write the rows of several tables into one, each with the name of its policy, in bounded memory."""
    schema = pa.schema([pa.field("policy", pa.string()), *SCHEMA])
    with replace_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        for name, table in tables:
            for batch in pq.ParquetFile(table).iter_batches(READ_ROWS):
                named = [pa.array([name] * batch.num_rows, pa.string()), *batch.columns]
                writer.write_batch(pa.record_batch(named, schema=schema))


def line_of(result: dict[str, Any], rows: Sequence[Row]) -> bytes:
    """Return the line of one prompt in a file of partial results."""
    return json.dumps({"result": result, "rows": rows}).encode() + b"\n"


def read_lines(path: Path, places: Iterable[tuple[int, int]]) -> Iterator[list[Row]]:
    """Yield the rows of lines of a file of partial results, each given as (first byte, bytes)."""
    with path.open("rb") as file:
        for start, length in places:
            file.seek(start)
            yield json.loads(file.read(length))["rows"]
