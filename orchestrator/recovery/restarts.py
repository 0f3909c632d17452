"""`breadth train --restarts N`: a process that starts a run again from its last checkpoint whenever it fails.

A run whose event loop is stuck (`driver_beats.py`) is killed, and has failed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from actors.machine.processes import end_with_children
from orchestrator.manifest import SETTINGS, saved, step_of
from orchestrator.recovery.driver_beats import PIPE, Listener
from orchestrator.recovery.stacks import dump

BACKOFF_S = 5.0
"""Seconds before the first restart in a row; each further one waits twice as long."""
LONGEST_BACKOFF_S = 300.0
POLL_S = 0.2
"""Longest wait for the end of the run's process before it is looked for again, in seconds."""
END_S = 10.0
"""Longest wait for the end of a process that was killed, in seconds."""
REFUSED = 2
"""Exit status of wrong settings or data, which would be wrong again if they were not accepted before."""
PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).resolve().parents[2]


class Supervisor:
    """Runs `breadth train` in a process of its own, and again while it fails, with `--resume` if the run exists.

    So the same command starts a run and continues it, as a job that a cluster starts again does.
    An exit status of 0, a signal to this process, or a refusal (2) before these words were accepted ends it. A later
    refusal is a failure as any other: a node is gone, or a place that is read does not answer. SIGINT and SIGTERM are
    passed on once each, so that the run stops with a checkpoint. If this process is killed, the kernel sends the run
    SIGTERM.

    Args:
        words: the arguments of `breadth train`, without `--restarts`.
        run_dir: the run's directory, which may not exist yet.
        restarts: greatest number of restarts in a row without a new checkpoint.
        report: called with a line for each restart.
    """

    def __init__(
        self,
        words: Sequence[str],
        run_dir: Path,
        restarts: int,
        report: Callable[[str], None],
        *,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        self.words, self.run_dir, self.restarts, self.report = list(words), run_dir, restarts, report
        self.backoff_s = backoff_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Return the exit status of the last process: 128 plus the number of the signal that ended it, or its own."""
        in_a_row, step, accepted = 0, self._step(), False
        with self._signals():
            while True:
                status = self._train()
                reached = self._step()
                accepted = accepted or status != REFUSED or reached != step
                if status == 0 or not accepted or self._stopping:
                    return status if status >= 0 else 128 - status
                in_a_row, step = (in_a_row if reached == step else 0) + 1, reached
                if in_a_row > self.restarts:
                    self.report(
                        f"{_words(status)}; {self.restarts} restarts in a row made no checkpoint, so none follows"
                    )
                    return status if status >= 0 else 128 - status
                wait_s = min(self.backoff_s * 2 ** (in_a_row - 1), LONGEST_BACKOFF_S)
                place = f"from the checkpoint of step {step}" if step >= 0 else "from the start"
                self.report(
                    f"restart {in_a_row} of {self.restarts}: {_words(status)}; goes on {place} in {wait_s:.0f} s"
                )
                if not self._sleep(wait_s):
                    return status if status >= 0 else 128 - status

    def _step(self) -> int:
        """Return the step of the newest checkpoint; -1: there is none."""
        return max(map(step_of, saved(self.run_dir / "checkpoints")), default=-1)

    def _train(self) -> int:
        begun = (self.run_dir / SETTINGS).is_file()
        words = [*self.words, "--resume"] if begun else self.words
        parent = os.getpid()

        def end_with_parent() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        # A process group of its own: a terminal sends Ctrl-C to the whole group, and the run would get it twice.
        command = [sys.executable, str(ROOT / "breadth.py"), "train", *words]
        with Listener() as beats:
            self._process = process = subprocess.Popen(
                command,
                process_group=0,
                preexec_fn=end_with_parent,
                pass_fds=[beats.write],
                env=os.environ | {PIPE: str(beats.write)},
            )
            while (status := process.poll()) is None:
                if beats.silent(POLL_S):
                    return self._end(process, beats.limit_s)
        return status

    def _end(self, process: "subprocess.Popen[bytes]", limit_s: float) -> int:
        """Write the stacks of a driver that is stuck, and end it and all that it has started. Return its status."""
        line = "Its stacks could not be written"
        with contextlib.suppress(OSError):  # a full disk, or a file system that does not answer
            line = asyncio.run(dump(self.run_dir, driver=process.pid))
        self.report(f"the event loop of the run has not run for {limit_s:.0f} s, so it is killed. {line}")
        end_with_children(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits in the kernel, for a file system
            process.wait(END_S)
        return -signal.SIGKILL

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def pass_on(number: int, frame: FrameType | None) -> None:
            self._stopping = True
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _sleep(self, seconds: float) -> bool:
        """Wait, and return whether nothing asked to stop meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(min(0.2, seconds))
        return not self._stopping


def _words(status: int) -> str:
    if status < 0:
        return f"the run was ended by {signal.Signals(-status).name}"
    return f"the run {'was refused' if status == REFUSED else 'failed'} (status {status})"
