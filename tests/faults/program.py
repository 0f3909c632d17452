"""The subject of a fault: a command of `breadth`, to which a fault happens when a phase of a step begins.

    python tests/faults/program.py '{"action": "SIGKILL", "role": "learner", "phase": "updating", "step": 2}' train ...

A signal is sent in the event loop's next turn, when the phase's call is on its way; while `disconnecting` from Ray, for
which there is no event loop, at once. The other actions change this process, of which the roles are a part with
placement.kind=in_process, or its surroundings: see the methods of `Fault`.
"""

import asyncio
import contextlib
import functools
import importlib
import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

TITLES = {
    "generator": "ray::GeneratorShell",
    "learner": "ray::LearnerShell",
    "reference": "ray::ReferenceShell",
    "grader": "ray::GraderShell",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
    "agent": "dashboard/agent.py",
    "worker": "rewards",
    "wandb": "wandb-core",
}
"""A part of the command line of each role's process."""


def find(role: str) -> int:
    """Return the process id of a role of this run."""
    if role == "driver":
        return os.getpid()
    below = psutil.Process().children(recursive=True)
    found = [process.pid for process in below if TITLES[role] in command_of(process)]
    assert found, (role, [command_of(process)[:100] for process in below])
    return found[-1] if role == "worker" else found[0]  # the last one is below its keeper


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


FILLER = "filler"
"""File that fills a disk."""
FILLING = ((5, 1.0), (30, 1 / 30), (200, 1 / 3000))
"""Objects that fill the object store of Ray: how many, and their part of the largest size."""
MACHINE = "machine"
"""In place of a role: this process and those of all roles."""


class Fault:
    """Happens once, in one phase of one step."""

    handles: Sequence[Any] = ()
    """Ray actors of the run."""

    def __init__(self, text: str) -> None:
        row = json.loads(text)
        self.action, self.role, self.phase = row["action"], row["role"], row["phase"]
        self.step, self.value = int(row["step"]), float(row["value"])
        self.done = False

    def arrive(self, phase: str, step: int) -> None:
        """Let the fault happen, if it is due in this phase."""
        if phase == self.phase and step >= self.step and not self.done:
            self.done = True
            at = f"at {time.monotonic():.1f}"  # of the machine's clock, the same in all processes
            sys.stderr.write(f"FAULT {self.action} of {self.role} while {phase} in step {step} {at}\n")
            sys.stderr.flush()
            if phase == "disconnecting":  # in a thread without an event loop
                self._send(find(self.role))
            elif self.action.startswith("SIG"):
                asyncio.get_running_loop().call_soon(self._send, find(self.role))
            else:
                getattr(self, f"_{self.action}")()

    def _send(self, pid: int) -> None:
        if self.value:  # for so many seconds
            timer = threading.Timer(self.value, os.kill, (pid, signal.SIGCONT))
            timer.daemon = True
            timer.start()
        os.kill(pid, signal.Signals[self.action])

    def _freeze(self) -> None:
        """Stop a process that this one cannot continue."""
        psutil.Process.resume = lambda process: None
        psutil.Process(find(self.role)).suspend()

    def _full_store(self) -> None:
        """Put more objects of `value` bytes into Ray's object store than it has room for, and keep them."""
        import ray

        self.kept: list[ray.ObjectRef] = []
        for count, part in FILLING:
            with contextlib.suppress(ray.exceptions.OutOfDiskError):
                for _ in range(count):
                    self.kept.append(ray.put(os.urandom(int(self.value * part))))

    def _fill_disk(self) -> None:
        """Write a file until the file system of the run's directory is full."""
        [runs] = [word.partition("=")[2] for word in sys.argv if word.startswith("runs=")]
        with contextlib.suppress(OSError), (Path(runs) / FILLER).open("wb", buffering=0) as file:
            while file.write(b"0" * 4096):
                pass

    def _slow_disk(self) -> None:
        """Have each flush to disk take `value` seconds more."""
        self._change(slow_disk)

    def _clock(self) -> None:
        """Set the clock forward by `value` seconds, or back."""
        self._change(set_clock)

    def _change(self, change: Callable[[Any, float], None]) -> None:
        """Change this process, and those of all roles if the fault is one of the machine."""
        change(None, self.value)
        if self.role == MACHINE:
            import ray

            assert self.handles
            ray.get([handle.actor.__ray_call__.remote(change, self.value) for handle in self.handles], timeout=60)

    def _full_disk(self) -> None:
        """Refuse files of more than `value` bytes, as a full disk refuses the rest of a file."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(self.value), resource.RLIM_INFINITY))


def slow_disk(actor: Any, seconds: float) -> None:
    """Have each flush to disk of this process take longer."""
    flush = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(seconds)
        flush(descriptor)

    os.fsync = slow


def set_clock(actor: Any, seconds: float) -> None:
    """Set the clock of this process forward, or back."""
    now = time.time
    time.time = lambda: now() + seconds


def wrap(owner: Any, method: str, phase: str, fault: Fault, step: Callable[[], int]) -> None:
    """Have `fault` arrive at `phase` whenever an async method of an object or a class is called."""
    inner = getattr(owner, method)

    @functools.wraps(inner)
    async def arrived(*arguments: Any, **options: Any) -> Any:
        fault.arrive(phase, step())
        return await inner(*arguments, **options)

    setattr(owner, method, arrived)


def install(fault: Fault) -> None:
    """Wrap the methods at which phases begin, on every run that is made."""
    start, train, cluster = (importlib.import_module(f"orchestrator.{name}") for name in ("start", "train", "cluster"))
    wrap(cluster.Roles, "ready", "starting", fault, lambda: fault.step)
    wrap(cluster.Roles, "close", "ending", fault, lambda: fault.step)
    if fault.phase == "disconnecting":
        _wrap_shutdown(fault)

    class WatchedRun(train.Run):  # type: ignore[name-defined]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            fault.handles = self.roles.handles

            def now() -> int:
                return int(self.step) + 1  # the step that is being made

            for grader in self.roles.graders:
                wrap(grader, "grade", "grading", fault, now)
            # The learner's own method is called by measurements too.
            self.old_policy = SimpleNamespace(score=self.old_policy.score)
            if self.cfg.objective.anchors:
                wrap(self.anchors, "score", "scoring", fault, now)
            if self.cfg.scores_first:
                wrap(self.old_policy, "score", "scoring", fault, now)
            for owner, method, phase in (
                (self.collector, "take", "generating"),
                (self.learner, "update", "updating"),
                (self.learner, "publish", "publishing"),
                (self, "record", "recording"),
                (self.learner, "save", "checkpointing"),
                (self.monitor, "measure", "evaluating"),
            ):
                wrap(owner, method, phase, fault, now)

    start.Run = WatchedRun


def _wrap_shutdown(fault: Fault) -> None:
    """Have `fault` arrive when Ray begins its end."""
    ray = importlib.import_module("ray")
    shutdown = ray.shutdown

    def arrived() -> None:
        fault.arrive("disconnecting", fault.step)
        shutdown()

    ray.shutdown = arrived


def install_without_run(fault: Fault) -> None:
    """Wrap the methods at which phases begin in a command that trains nothing. Its step is the number of calls of
    `Rollouts.submit` so far, and while answers are scored that of `RemoteReference.score`."""
    names = ("orchestrator.rollout.rollouts", "actors.remote", "actors.remote_reference")
    rollouts, remote, references = (importlib.import_module(name) for name in names)
    submitted, scored = itertools.count(1), itertools.count(1)
    step = 0

    def next_step() -> int:
        nonlocal step
        step = next(submitted)
        return step

    wrap(rollouts.Rollouts, "submit", "generating", fault, next_step)
    wrap(remote.RemoteGrader, "grade", "grading", fault, lambda: step)
    wrap(references.RemoteReference, "score", "scoring", fault, lambda: next(scored))


def main() -> int:
    breadth = importlib.import_module("breadth")
    breadth.own_packages_first()
    fault = Fault(sys.argv[1])
    sys.argv = ["breadth", *sys.argv[2:]]
    (install if sys.argv[1] == "train" else install_without_run)(fault)
    status: int = breadth.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
