"""Limits of the boxes that run tests, and the verdict for how the tests or their processes ended."""

import math
import signal

from rewards.sandbox.box import Box, Exit, Limits
from rewards.verdict import Status, Verdict

START_TIMEOUT_S = 10.0
"""Timeout for new boxes to be ready, before the program runs."""
REPORT_LIMIT = 65_536
"""Maximum bytes of a report from a box."""
MEMORY_BYTES = 2**30
"""Address space of each process."""


def limits(seconds: float) -> Limits:
    """Return the limits of a box whose tests may take `seconds` of wall time."""
    return Limits(memory_bytes=MEMORY_BYTES, cpu_seconds=math.ceil(seconds) + 1)


def cpu_seconds_of(box: Box) -> float:
    """Return the processor time of a box that has ended."""
    ended = box.ended()
    return ended.cpu_seconds if ended else 0.0


def scored(status: Status, reason: str, passed: int, total: int, fraction: bool) -> Verdict:
    """Return the verdict for a status: the reward is the fraction of tests passed if `fraction`, else 1 if correct."""
    reward = passed / total if fraction and total else float(status == "correct")
    return Verdict(reward=reward, status=status, reason=reason, tests_passed=passed, tests_total=total)


def explain_end(ended: Exit | None, subject: str, timeout_s: float) -> tuple[Status, str]:
    """Return status and reason for a process that the worker did not kill.

    Args:
        subject: grammatical subject of the reason, such as "the program".
        timeout_s: the timeout of the tests.
    """
    if ended is None:
        return "crash", f"{subject} closed its connection"
    if ended.signal in (signal.SIGKILL, signal.SIGXCPU):
        if ended.cpu_seconds > limits(timeout_s).cpu_seconds - 1:
            return "timeout", f"{subject} used up its processor time"
        return "memory", f"{subject} was killed at a resource limit"
    if ended.signal:
        return "crash", f"{subject} was killed by signal {ended.signal}"
    return "crash", f"{subject} ended with exit code {ended.code}"
