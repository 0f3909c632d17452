"""Rehearsal set: answers of the reference policy and their log-probs, stored in one parquet file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trajectories.atomic_write import replace_file
from trajectories.trajectory import Grade, Trajectory

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample_index", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.bool_())),
        ("logp_reference", pa.list_(pa.float32())),
        ("seed", pa.int64()),
        ("text", pa.string()),
        ("reward", pa.float64()),
        ("status", pa.string()),
    ]
)
KEEP = b"keep"
"""Metadata of the file: the value of `rehearsal.keep` with which it was made."""


@dataclass(frozen=True)
class RehearsalSet:
    """Reference answers in file order. `at` returns those of a step, in an order reshuffled on every pass."""

    trajectories: tuple[Trajectory, ...]
    batch: int
    """Answers per step."""
    seed: int
    keep: str = ""
    """Value of `rehearsal.keep` with which the file was made; empty: it does not say."""

    def __post_init__(self) -> None:
        if not self.trajectories:
            raise ValueError("rehearsal: must hold at least one answer, got none (is rehearsal.threshold too high?)")

    @property
    def prompt_ids(self) -> frozenset[str]:
        """Ids of the prompts with stored answers. DPH-RL explores only the others (arXiv:2509.07430, D_pef, D_exp)."""
        return frozenset(t.prompt_id for t in self.trajectories)

    def at(self, step: int) -> list[Trajectory]:
        """Return the `batch` answers of a step, a function of seed and step.

        Steps take consecutive answers of an endless sequence of passes; each pass is a new permutation of all answers.
        """
        size = len(self.trajectories)
        places = range(step * self.batch, (step + 1) * self.batch)
        orders = {n: np.random.default_rng([self.seed, n]).permutation(size) for n in {p // size for p in places}}
        return [self.trajectories[orders[p // size][p % size]] for p in places]


def write(path: Path, trajectories: Sequence[Trajectory], metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Write answers of the reference policy, whose `logp_sampler` is stored as `logp_reference`.

    The file is written under another name and renamed, so that an interrupted call leaves no partial file at `path`.

    Args:
        metadata: of the file's schema.
    """
    rows = [
        {
            "prompt_id": t.prompt_id,
            "sample_index": t.sample_index,
            "tokens": t.tokens,
            "mask": t.mask,
            "logp_reference": t.logp_sampler,
            "seed": t.seed,
            "text": t.text,
            "reward": t.reward,
            "status": t.grade.status if t.grade else "",
        }
        for t in trajectories
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA.with_metadata(dict(metadata or {}))), file)


def read(path: Path, batch: int, seed: int) -> RehearsalSet:
    """Read a rehearsal set written by `write`.

    Args:
        batch: answers per step.
        seed: of the order in which `RehearsalSet.at` returns them.

    Raises:
        ValueError: as `read_answers`, or the file has no answers.
    """
    answers = read_answers(path)
    metadata = pq.read_schema(path).metadata or {}
    return RehearsalSet(answers, batch, seed, metadata.get(KEEP, b"").decode())


def read_answers(path: Path) -> tuple[Trajectory, ...]:
    """Read the answers written by `write`.

    Raises:
        ValueError: the file is missing or not parquet, or a column or row is malformed; names file, column and row.
    """
    if not path.is_file():
        raise ValueError(f"rehearsal.path: must be a parquet file made by `breadth presample`, got {str(path)!r}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"rehearsal.path: must be a parquet file, got {str(path)!r} ({error})") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"rehearsal.path: {path} must have the columns {SCHEMA.names}, got no {missing}")
    rows = pa.table([_column(path, table, field) for field in SCHEMA], schema=SCHEMA).to_pylist()
    return tuple(_trajectory(path, i, row) for i, row in enumerate(rows))


def _column(path: Path, table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    try:
        return table[field.name].cast(field.type)
    except pa.ArrowException:
        got = table[field.name].type
        raise ValueError(f"rehearsal.path: {path}, column {field.name}: must hold {field.type}, got {got}") from None


def _trajectory(path: Path, number: int, row: dict) -> Trajectory:
    where = f"rehearsal.path: {path}, row {number}"
    nulls = [name for name, value in row.items() if value is None or (isinstance(value, list) and None in value)]
    if nulls:
        raise ValueError(f"{where}: must hold no null, got one in {', '.join(nulls)}")
    tokens, mask, logps = row["tokens"], row["mask"], row["logp_reference"]
    aligned = len(tokens) == len(mask) == len(logps)
    if not aligned or not any(mask) or mask[0] or not np.isfinite(logps).all():
        raise ValueError(
            f"{where}: tokens, mask and logp_reference must have one length, begin with a prompt, hold at least one "
            f"generated token and finite log-probs, got lengths {len(tokens)}, {len(mask)}, {len(logps)}"
        )
    logp_reference = np.asarray(logps, dtype=np.float32)
    return Trajectory(
        prompt_id=row["prompt_id"],
        sample_index=row["sample_index"],
        tokens=np.asarray(tokens, dtype=np.int32),
        mask=np.asarray(mask, dtype=bool),
        logp_sampler=logp_reference,
        logp_reference=logp_reference,
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=row["seed"],
        text=row["text"],
        route="rehearse",
        grade=Grade(reward=row["reward"], status=row["status"]),
    )
