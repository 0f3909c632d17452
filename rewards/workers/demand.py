"""Measure calls of a verifier, and choose by them the number of workers, the limit of first calls, and the size of a
batch."""

import os

MOST = 16
"""Workers of a user verifier, unless there are more cores."""
LARGE = 2**30
"""Bytes of resident memory from which a worker is not multiplied: it probably holds a model."""

QUICK_S = 0.005
"""Seconds that a batch of calls may take, by their mean so far."""


def machine_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Demand:
    """Measured calls of one verifier.

    A call that uses a fraction f of a core while it lasts keeps a core busy with 1 / f workers. A function that only
    waits, such as for an answer over the network, therefore gets MOST workers, and one that computes gets one for each
    core.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._cpu_s = 0.0
        self._waiting_s = 0.0
        self._rss = 0
        self._first_s: float | None = None

    def add_first(self, seconds: float) -> None:
        """Add the first call in a worker, which may have loaded a model."""
        self._first_s = max(seconds, self._first_s or 0.0)

    def first_limit_s(self, bound: float) -> float:
        """Return the wall seconds of a first call: `bound`, or twice the longest one so far if that is less."""
        return bound if self._first_s is None else min(bound, 2 * self._first_s)

    def add(self, seconds: float, cpu_seconds: float, starved_seconds: float, rss: int) -> None:
        """Add a call.

        Args:
            seconds: wall time.
            cpu_seconds: time on a core.
            starved_seconds: time in which the process waited for a core, which more workers would not shorten.
            rss: resident memory of the worker, in bytes.
        """
        self._calls += 1
        self._cpu_s += cpu_seconds
        self._waiting_s += max(seconds - cpu_seconds - starved_seconds, 0.0)
        self._rss = max(self._rss, rss)

    def workers(self, cores: int) -> int:
        """Return the number of workers that keeps `cores` cores busy; 1 before the first call."""
        total = self._cpu_s + self._waiting_s
        if not total or self._rss > LARGE:
            return 1
        return min(max(round(cores * total / max(self._cpu_s, 1e-3 * total)), 1), max(cores, MOST))

    def batch(self) -> int:
        """Return the number of calls that take QUICK_S, at least 1; 1 before the first call."""
        seconds = self._cpu_s + self._waiting_s
        return max(int(QUICK_S * self._calls / seconds), 1) if seconds else 1
