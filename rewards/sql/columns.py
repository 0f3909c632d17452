"""Draw the values of a column of a variant from those of the stored rows and from literals.

The values look like the stored ones, as right answers may rely on this.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NULL_FRACTION = 0.4
"""Probability of NULL in a nullable column, in the style `nulls`."""
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
PART_OF_DATE = re.compile(r"[0-9]{4}(?:-[0-9]{2}(?:-[0-9]{2}.*)?)?")


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    numeric: bool
    nullable: bool
    """Stored rows have NULL; without stored rows, the schema allows it."""
    distinct: bool
    """The stored values are different from each other, and there are at least two."""
    key: bool
    """The column is part of the primary key."""
    reference: tuple[str, str] | None
    """The table and column that a foreign key refers to."""


def candidate_values(
    column: Column, old_values: list[Any], literals: Sequence[str | int | float], rng: random.Random
) -> list[Any]:
    """Return the values that a column of the variant can have. They look like the stored ones: a column that has only
    0 and 1, only two texts, only dates or only positive numbers keeps this, the last unless 0 is a literal."""
    stored = [value for value in old_values if value is not None]
    if column.numeric:
        if set(stored) == {0, 1}:
            return stored
        numbers = [value for value in literals if not isinstance(value, str)]
        near = [value + step for value in numbers for step in (-1, 0, 1)]
        near += [rng.randint(0, 2 * int(value)) for value in numbers for _ in range(2)]
        high = max(stored, default=1)
        pool = [*stored, *(value + rng.choice((-1, 1)) for value in stored), *near, 0, high + 1, 2 * high + 3]
        positive = min(stored, default=0) > 0 and 0 not in numbers
        return [value for value in pool if abs(value) < 2**63 and (value > 0 or not positive)]
    texts = [value for value in literals if isinstance(value, str)]
    if stored and all(isinstance(value, str) and DATE.match(value) for value in stored):
        moved = [
            f"{int(value[:4]) + rng.choice((-1, 1)):04d}{value[4:]}" for value in stored if "0001" < value < "9999"
        ]
        # The rest of a stored value completes a literal that is only a year, or a year and a month.
        whole = [text + stored[0][len(text) :] for text in texts if PART_OF_DATE.fullmatch(text)]
        return [*stored, *moved, *whole]
    if len(set(stored)) == 2 and len(stored) > 3:
        return stored
    return [*stored, *texts, "other"]


def random_values(column: Column, pool: list[Any], count: int, style: str, rng: random.Random) -> list[Any]:
    """Return `count` values, different from each other if the stored ones are and the style allows it."""
    if style == "ties":
        pool = rng.sample(pool, min(2, len(pool)))
    elif style == "shuffled":
        pool = list(dict.fromkeys(pool))
    values: list[Any] = [rng.choice(pool) if pool else None for _ in range(count)]
    if pool and column.distinct and style not in ("duplicates", "ties"):
        values = list(dict.fromkeys(pool))
        for index in range(count - len(values)):
            if column.reference or DATE.match(str(pool[0])):
                values.append(rng.choice(pool))
            else:
                values.append(max(values) + 1 if column.numeric else f"other {index}")
        rng.shuffle(values)
    nulls = NULL_FRACTION if style == "nulls" and column.nullable else 0.0
    return [None if rng.random() < nulls else value for value in values[:count]]
