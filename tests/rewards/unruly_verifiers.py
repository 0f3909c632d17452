"""User verifiers for the tests: some misbehave, the others have every accepted signature."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from rewards.steps import begin_step
from rewards.verdict import Verdict, correct, wrong


def obeys(answer: str, problem: Mapping[str, Any]) -> float:
    """Do what the answer says: sleep, exit, kill, print, raise, or return 1."""
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
    if answer.startswith("daemon"):
        _start_daemon(problem["mark"])
        if answer == "daemon, exit":
            os._exit(7)
        if answer == "daemon, spin":
            while True:
                pass
    if answer == "burn":
        started = time.process_time()
        while time.process_time() < started + 0.5:
            pass
    return 1.0


def _start_daemon(mark: str) -> None:
    """Start a grandchild in a session of its own that ignores SIGTERM and SIGHUP. It writes its id to `mark`."""
    if os.fork():
        while not os.path.exists(mark):
            time.sleep(0.005)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with open(f"{mark}.aside", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{mark}.aside", mark)
    time.sleep(3600)
    os._exit(0)


async def obeys_at_once(answer: str, problem: Mapping[str, Any]) -> float:
    """Do what the answer says: await for long, block the event loop, exit, raise, or return the process id."""
    await asyncio.sleep(3600 if answer == "wait" else 0.05)
    if answer == "block":
        time.sleep(3600)
    if answer == "exit":
        os._exit(7)
    if answer == "raise":
        raise RuntimeError("no reward for you")
    return float(os.getpid())


def waits(answer: str, problem: Mapping[str, Any]) -> float:
    time.sleep(0.05)
    return float(os.getpid())


def computes(answer: str, problem: Mapping[str, Any]) -> float:
    started = time.process_time()
    while time.process_time() < started + 0.02:
        pass
    return float(os.getpid())


def takes_steps(answer: str, problem: Mapping[str, Any]) -> float:
    begin_step(5.0)
    time.sleep(0.7)
    begin_step(0.3)
    if answer == "sleep":
        time.sleep(3600)
    return 1.0


LOADED: list[bool] = []


def loads_first(answer: str, problem: Mapping[str, Any]) -> float:
    """Take long in the first call of a process."""
    if not LOADED:
        time.sleep(0.6)
        LOADED.append(True)
    if answer == "sleep":
        time.sleep(3600)
    return 1.0


def number(answer: str, problem: Mapping[str, Any]) -> float:
    """Return the id of the worker process."""
    return float(os.getpid())


def dozes(answer: str, problem: Mapping[str, Any]) -> bool:
    time.sleep(0.003)
    return answer == problem["said"]


def truth(answer: str, problem: Mapping[str, Any]) -> bool:
    return answer == problem["answer"]


def echoes(answer: str, problem: Mapping[str, Any]) -> bool:
    return answer == problem["said"]


def verdict(answer: str, problem: Mapping[str, Any]) -> Verdict:
    return correct("well said") if answer == "yes" else wrong("badly said")


async def patient(answer: str, problem: Mapping[str, Any]) -> float:
    await asyncio.sleep(0)
    return 0.25


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


def runs_out_of_memory(answer: str, problem: Mapping[str, Any]) -> float:
    raise MemoryError


NOT_CALLABLE = 3
