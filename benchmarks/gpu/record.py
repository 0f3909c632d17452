"""What a stage finds: values, seconds and memory of its phases, and comparisons with tolerances, in a JSON file.

The file is written again after every entry, so that a stage that hangs or is killed leaves what it has found.
"""

import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

TRACEBACK_LINES = 12


class Record:
    """Findings of one stage.

    Args:
        file: the JSON file.
        device: "cuda" or "cpu", where the stage computes.
        small: whether sizes are the smallest: whether everything works, not how fast it is.
        scratch: an empty folder for the stage's files.
    """

    def __init__(self, stage: str, file: Path, *, device: str, small: bool, scratch: Path) -> None:
        self.file, self.device, self.small, self.scratch = file, device, small, scratch
        self.start = time.perf_counter()
        self.found: dict[str, Any] = {"stage": stage, "device": device, "small": small, "error": "not ended"}
        self.found |= {"seconds": 0.0, "values": {}, "phases": {}, "checks": {}, "failures": {}}
        self._write()

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    def value(self, name: str, value: Any) -> None:
        """Note a value."""
        self.found["values"][name] = value
        self._write()

    def check(self, name: str, value: float, *, at_most: float, at_least: float = -math.inf) -> None:
        """Note a value that must lie between two bounds. NaN does not."""
        met = bool(at_least <= value <= at_most)
        bounds = {"at_most": at_most} | ({"at_least": at_least} if at_least > -math.inf else {})
        self.found["checks"][name] = {"value": value, "met": met, **bounds}
        self._write()

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, float]]:
        """Measure wall seconds and, on a GPU, the most bytes of tensors meanwhile. Yields what is measured."""
        measured: dict[str, float] = {}
        if self.gpu:
            gc.collect()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            measured["gb_before"] = torch.cuda.memory_allocated() / 1e9
        start = time.perf_counter()
        yield measured
        if self.gpu:
            torch.cuda.synchronize()
            measured["gb_peak"] = torch.cuda.max_memory_allocated() / 1e9
            measured["gb_reserved"] = torch.cuda.max_memory_reserved() / 1e9
        measured["seconds"] = time.perf_counter() - start
        self.found["phases"][name] = measured
        self._write()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Go on after an exception in a part of the stage, and note it as a failure."""
        try:
            yield
        except Exception:
            self.found["failures"][name] = _tail()
            self._write()
            if self.gpu:
                gc.collect()
                torch.cuda.empty_cache()

    def run(self, stage: Callable[["Record"], None]) -> bool:
        """Run the stage. Return whether it ended without an exception and all checks are met."""
        try:
            stage(self)
            self.found["error"] = ""
        except BaseException as error:
            self.found["error"] = _tail()
            if not isinstance(error, Exception):
                raise
        finally:
            self._write()
        return passed(self.found)

    def _write(self) -> None:
        self.found["seconds"] = time.perf_counter() - self.start
        written = self.file.with_suffix(".part")
        written.write_text(json.dumps(self.found, indent=1) + "\n")
        written.replace(self.file)


def passed(found: dict[str, Any]) -> bool:
    """Return whether a stage ended, nothing in it failed, and all its checks are met."""
    return not found["error"] and not found["failures"] and all(check["met"] for check in found["checks"].values())


def _tail() -> str:
    """Return the last lines of the traceback of the exception that is handled."""
    return "\n".join(traceback.format_exc().strip().splitlines()[-TRACEBACK_LINES:])
