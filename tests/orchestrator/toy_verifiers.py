"""Verifiers that find random answers right about as often as wrong, for policies that never solve anything."""

from collections.abc import Mapping
from typing import Any


def even(answer: str, problem: Mapping[str, Any]) -> float:
    return float(sum(map(ord, answer)) % 2 == 0)


def even_or_fails(answer: str, problem: Mapping[str, Any]) -> float:
    """Fails on every third answer: a fault of the grader, not of the answer."""
    if sum(map(ord, answer)) % 3 == 0:
        raise RuntimeError("no verdict on this one")
    return even(answer, problem)


def never(answer: str, problem: Mapping[str, Any]) -> float:
    return 0.0
