"""Run the subject of a fault as a process of its own, and check what it left behind."""

import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.recovery.ledger import account, read
from orchestrator.recovery.run_lock import LOCK
from orchestrator.watch.logbook import read_records

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).resolve().parent / "program.py"
MARK = "BREADTH_FAULT_TEST"
"""Environment variable of every process that a subject starts."""
STEPS = 5
SMALL = (
    "name=a",
    f"steps={STEPS}",
    "generator.engine=transformers",
    "generator.max_sequences=64",
    "sampling.max_new_tokens=6",
    "sampling.group_size=2",
    "groups_per_step=2",
    "task.heldout_prompts=2",
    "monitor.answers=2",
    "monitor.ks=[1,2]",
    "monitor.every=0",
    "checkpoint.every=2",
    "placement.call_timeout_s=8",
    "placement.publish_timeout_s=8",
    "generator.timeout_s=8",
)
QUIET_S = 25.0
"""Seconds after the end of a run in which all that it started must be gone."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass
class Ended:
    """How a subject ended."""

    status: int
    """Exit status; minus the number of the signal that ended it."""
    seconds: float
    output: str
    since_fault_s: float = 0.0
    """Seconds from the fault to its end."""


@dataclass
class Subject:
    """One run, its directory and its temporary folder."""

    folder: Path
    words: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    command: str = "train"
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    temporary: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="f", dir="/tmp")))
    shared_before: frozenset[str] = field(default_factory=lambda: frozenset(os.listdir(SHARED_MEMORY)))
    """Names in shared memory before the subject was started."""

    @property
    def run_dir(self) -> Path:
        return self.folder / "a"

    def run(self, *more: str, fault: dict[str, object] | None = None, bound_s: float = 120.0) -> Ended:
        """Give the command, and wait for its end. A subject that takes longer than `bound_s` fails the test."""
        process = self.start(*more, fault=fault)
        began = time.monotonic()
        try:
            output, _ = process.communicate(timeout=bound_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"the subject hung for {bound_s:.0f} s:\n{output[-6000:]}") from None
        at = re.search(r"^FAULT .* at ([0-9.]+)$", output, re.MULTILINE)
        now = time.monotonic()
        return Ended(process.returncode, now - began, output, now - float(at[1]) if at else 0.0)

    def start(self, *more: str, fault: dict[str, object] | None = None) -> "subprocess.Popen[str]":
        """Start the command, with a fault or without."""
        program = [str(PROGRAM), json.dumps(fault)] if fault else [str(ROOT / "breadth.py")]
        command = [sys.executable, *program, self.command, *SMALL, f"runs={self.folder}", *self.words, *more]
        variables = {"TMPDIR": str(self.temporary), MARK: self.mark, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(
            command,
            env=environment | variables | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

    def wait_for_step(self, step: int, timeout_s: float = 90.0) -> None:
        """Wait until a step is recorded."""
        until = time.monotonic() + timeout_s
        while not any(record["step"] >= step for record in read_records(self.run_dir / "metrics.jsonl")):
            assert time.monotonic() < until, f"no step {step} within {timeout_s:.0f} s"
            time.sleep(0.02)

    def wait_for_checkpoint(self, timeout_s: float = 90.0) -> None:
        """Wait until a checkpoint is whole."""
        until = time.monotonic() + timeout_s
        while not any(self.run_dir.glob("checkpoints/step-*/manifest.json")):
            assert time.monotonic() < until, f"no checkpoint within {timeout_s:.0f} s"
            time.sleep(0.02)

    def wait_for_event(self, words: str, timeout_s: float) -> None:
        """Wait until these words are in an event."""
        until = time.monotonic() + timeout_s
        while words not in (self.run_dir / "events.jsonl").read_text():
            assert time.monotonic() < until, f"no event {words!r} within {timeout_s:.0f} s"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the process that holds the run's lock."""
        os.kill(int(json.loads((self.run_dir / LOCK).read_text())["pid"]), signal.SIGKILL)

    def leftovers(self, *, records: bool = True) -> list[str]:
        """Return the processes, temporary files and shared memory of the subject that are left after `QUIET_S`. A port
        is held by a process.

        Args:
            records: whether the run's directory may hold no half-written checkpoint either. After a failure it may: the
                next checkpoint removes it.
        """
        until = time.monotonic() + QUIET_S
        while (left := [*self._processes(), *self._files(records), *self._shared()]) and time.monotonic() < until:
            time.sleep(0.2)
        return left

    def _processes(self) -> Iterator[str]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                    # Ray writes titles of its processes over their environment.
                    if marked or any(os.readlink(file).startswith(f"{self.temporary}/") for file in _open_files(entry)):
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        yield f"process {entry.name}: {command[:200]}"
                except OSError:
                    continue

    def _files(self, records: bool) -> Iterator[str]:
        # torch's cache of compiled code is for all runs of a user.
        kept = f"torchinductor_{getpass.getuser()}"
        yield from (f"file {path}" for path in self.temporary.iterdir() if path.name != kept)
        for pattern in (".*.partial", "checkpoints/.*.partial") if records else ():
            yield from (f"file {path}" for path in self.run_dir.glob(pattern))

    def _shared(self) -> Iterator[str]:
        """Yield this user's new names in shared memory that no process uses. Those in use belong to subjects that still
        run, or to a process that is left."""
        found = [path for path in SHARED_MEMORY.iterdir() if path.name not in self.shared_before]
        own = [path for path in found if _owner(path) == os.geteuid()]
        used = set(_used_shared_memory()) if own else set()
        yield from (f"shared memory {path}" for path in own if str(path) not in used)

    def check(self, steps: int = STEPS) -> None:
        """Assert that each step was made once, that the ledger proves it, and that nothing is left behind."""
        assert [record["step"] for record in read_records(self.run_dir / "metrics.jsonl") if record["step"]] == list(
            range(1, steps + 1)
        )
        found = account(read(self.run_dir), ended=True)
        assert (found.problems, found.step, len(found.trained)) == ([], steps, 2 * steps)
        left = self.leftovers()
        assert not left, left

    def close(self) -> None:
        """End what the subject has left, so that a test that fails leaves nothing either."""
        for line in self._processes():
            pid = int(line.split()[1].rstrip(":"))
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        shutil.rmtree(self.temporary, ignore_errors=True)


def _open_files(process: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (process / "fd").iterdir()


def _owner(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_uid
    return None


def _used_shared_memory() -> Iterator[str]:
    """Yield the names in shared memory that a process has open or mapped."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                for line in (entry / "maps").read_text().splitlines():
                    if (at := line.find(f"{SHARED_MEMORY}/")) >= 0:
                        yield line[at:]
            for file in _open_files(entry):
                with contextlib.suppress(OSError):
                    yield os.readlink(file)
