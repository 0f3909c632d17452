"""Show a command as lines of JSON on standard output, one object each, for machines."""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.console.display import Phase


def encode(record: Mapping[str, Any]) -> bytes:
    """Encode one line of strict JSON. Numbers that JSON does not have (NaN, infinities) become null."""
    safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(safe, allow_nan=False).encode() + b"\n"


class JsonLines:
    """Display of lines such as `{"event": "step", "time": 1764295200.1, "step": 4, "reward": 0.25, ...}`.

    Every line has `time`, in seconds since 1970, and `event`: line, phase, run, step, measurement, alert, run_ended,
    evaluation or end.

    Args:
        write: called with each line, without its end.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        """Write one event."""
        self._write(encode({"event": event, "time": time.time(), **values}).decode().rstrip("\n"))

    def line(self, text: str) -> None:
        self.event("line", {"text": text})

    def phase(self, phase: Phase) -> None:
        values: dict[str, Any] = {"phase": phase.doing, "state": phase.state}
        if phase.progress is not None:
            values |= {"done": phase.progress[0], "total": phase.progress[1]}
        if phase.state != "begins":
            values |= {"seconds": phase.seconds, "details": phase.details}
        self.event("phase", values)

    def run(self, name: str, total_steps: int, first_step: int) -> None:
        self.event("run", {"name": name, "steps": total_steps, "first_step": first_step})

    def step(self, step: int, values: Mapping[str, float], left: str) -> None:
        self.event("step", {"step": step, **values})

    def measurement(self, step: int, values: Mapping[str, float]) -> None:
        self.event("measurement", {"step": step, **values})

    def alert(self, level: str, title: str, text: str) -> None:
        self.event("alert", {"level": level, "title": title, "text": text})

    def doing(self, step: int, activity: str, progress: Callable[[], str] | None = None) -> None:
        pass

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass
