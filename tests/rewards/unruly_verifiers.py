"""Verifiers that misbehave, for the pool's worker processes; and well-behaved ones of every signature users have."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from rewards.verdict import Verdict, correct, wrong


def obeys(answer: str, problem: Mapping[str, Any]) -> float:
    """Does what the answer says: sleep, exit, kill, print, raise, or be right."""
    if answer.startswith("sleep"):
        time.sleep(3600)
    if answer == "spin":
        while True:
            pass
    if answer == "exit":
        os._exit(7)
    if answer == "leave":
        sys.exit(3)
    if answer == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if answer == "print":
        sys.stdout.write("garbage " * 100_000)
        sys.stdout.flush()
        os.write(1, b"\x00\x00\x00\x05hello" * 1000)
        os.write(2, b"garbage" * 1000)
    if answer == "raise":
        raise RuntimeError("no reward for you")
    if answer == "pid":
        return float(os.getpid())
    if answer == "once" and not os.path.exists(problem["mark"]):
        with open(problem["mark"], "w"):
            pass
        os._exit(1)
    if answer == "child":
        if os.fork() == 0:
            time.sleep(3600)
        time.sleep(3600)
    return 1.0


def truth(answer: str, problem: Mapping[str, Any]) -> bool:
    return answer == problem["answer"]


def echoes(answer: str, problem: Mapping[str, Any]) -> bool:
    return answer == problem["said"]


def verdict(answer: str, problem: Mapping[str, Any]) -> Verdict:
    return correct("well said") if answer == "yes" else wrong("badly said")


async def patient(answer: str, problem: Mapping[str, Any]) -> float:
    await asyncio.sleep(0)
    return 0.25


def lengths(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) + len(columns) for text in completions]


def named_columns(prompts: list[str], completions: list[str], level: list[int]) -> list[float]:
    return [float(len(p) + len(c) + k) for p, c, k in zip(prompts, completions, level, strict=True)]


async def patient_lengths(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def not_a_number(answer: str, problem: Mapping[str, Any]) -> float:
    return float("nan")


def words(answer: str, problem: Mapping[str, Any]) -> str:
    return "excellent"


def too_many(completions: list[str], **columns: Any) -> list[float]:
    return [1.0, 1.0]


def takes_nothing() -> float:
    return 1.0


NOT_CALLABLE = 3
