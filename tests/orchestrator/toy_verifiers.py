"""Verifiers that find random answers right about as often as wrong, for policies that never solve anything."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def even(answer: str, problem: Mapping[str, Any]) -> float:
    return float(sum(map(ord, answer)) % 2 == 0)


def even_letter(answer: str, problem: Mapping[str, Any]) -> dict[str, Any]:
    """Answers vote for their first letter, of which every second one is right."""
    return {"reward": float(bool(answer) and ord(answer[0]) % 2 == 0), "vote": answer[:1]}


def even_or_fails(answer: str, problem: Mapping[str, Any]) -> float:
    """Fails on every third answer with other than ASCII letters, which only random policies write."""
    if sum(map(ord, answer)) % 3 == 0 and not (answer.isascii() and answer.isprintable()):
        raise RuntimeError("no verdict on this one")
    return even(answer, problem)


def never(answer: str, problem: Mapping[str, Any]) -> float:
    return 0.0


def away_from_step_one(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
    """Fails on every answer of weights that have been trained, while the file JUDGE_AWAY exists."""
    if trainer_state.global_step and Path(os.environ["JUDGE_AWAY"]).exists():
        raise ConnectionError("the judge is away")
    return [even(text, {}) for text in completions]


def both(answer: str, problem: Mapping[str, Any]) -> dict[str, float]:
    return {"reward": even(answer, problem), "low": starts_low(answer, problem)}


def starts_low(answer: str, problem: Mapping[str, Any]) -> float:
    return float(answer[:1] < "P")
