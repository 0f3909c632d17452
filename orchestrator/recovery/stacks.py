"""Write what every process of a run is doing to `stacks/TIME` of its directory, when a role does not answer.

A process's Python stacks come from py-spy, or from the process itself (`actors/machine/stack_signal.py`) where py-spy
is not installed or may not attach. The latter may crash a process whose threads are at work, so only processes that
are ended anyway get its signal: all of them when the run ends, and the silent one when its role is started again.
Every file begins with the state of the process in the kernel.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from actors.machine.scratch import SCRATCH, processes
from actors.machine.stack_signal import SIGNAL, stack_file

STACKS = "stacks"
ATTACH_S = 5.0
"""Seconds for py-spy to read one process."""
ANSWER_S = 2.0
"""Seconds for a process to write its own stacks."""
AT_A_TIME = 8
"""Processes that are read at a time."""
MOST = 256
"""Processes that are read at most."""
STALLS = (
    "did not answer within", "has not answered for", "generated no token for", "no token was generated",
    "does not answer", "Timed out",
)  # fmt: skip
"""Parts of the messages of errors that end a wait."""


def stalled(error: BaseException) -> bool:
    """Return whether a run failed because something did not answer in time."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TimeoutError) or any(words in str(seen) for words in STALLS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.contextmanager
def on_stall(run_dir: Path) -> Iterator[None]:
    """If what is done inside fails because something did not answer, write all stacks before it ends, and say where."""
    try:
        yield
    except Exception as error:
        if stalled(error):
            with contextlib.suppress(OSError):  # a full disk
                error.add_note(dump(run_dir))
        raise


def dump(run_dir: Path, ended: Collection[int] | None = None) -> str:
    """Write the stacks of all processes of the run on this machine, and return a line that says where.

    Takes at most about `ATTACH_S + ANSWER_S` for every `AT_A_TIME` processes.

    Args:
        ended: the processes that are ended afterwards, which may get a signal; None: all.
    """
    folder = run_dir / STACKS / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    found = list(_processes())[:MOST]
    with ThreadPoolExecutor(AT_A_TIME) as reading:
        texts = reading.map(partial(_text, ended=ended), found)
        for process, text in zip(found, texts, strict=True):
            (folder / f"{process.pid}-{_name(process)}.txt").write_text(text)
    return f"The stacks of {len(found)} processes are in {folder}"


def _processes() -> Iterator[psutil.Process]:
    """Yield this process, those it has started, and those that use the run's temporary folder."""
    here = psutil.Process()
    below = {process.pid: process for process in [here, *here.children(recursive=True)]}
    scratch = os.environ.get(SCRATCH)
    for pid in processes(Path(scratch)) if scratch else ():
        with contextlib.suppress(psutil.Error):
            below.setdefault(pid, psutil.Process(pid))
    yield from below.values()


def _name(process: psutil.Process) -> str:
    """Return a name for a process's file: the first word of its command, without folders."""
    with contextlib.suppress(psutil.Error):
        words = (process.cmdline() or [process.name()])[0]
        return "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(words.split()[0]).name)[:60] or "process"
    return "process"


def _text(process: psutil.Process, ended: Collection[int] | None) -> str:
    try:
        state = f"{' '.join(process.cmdline())[:1000]}\nstate {process.status()}, {process.num_threads()} threads, "
        state += f"cpu {sum(process.cpu_times()[:2]):.1f} s, resident {process.memory_info().rss / 1e6:.0f} MB\n\n"
    except psutil.Error as error:
        return f"{error}\n"
    if process.pid == os.getpid():
        return state + _own()
    if process.status() == psutil.STATUS_STOPPED:
        return f"{state}it was stopped by a signal (SIGCONT continues it)\n\n{_by_py_spy(process.pid)}"
    text = _by_py_spy(process.pid)
    if not text and (ended is None or process.pid in ended):
        text = _by_itself(process.pid)
    return state + (text or "its stacks could not be read\n")


def _own() -> str:
    """Return the stacks of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = sys._current_frames().items()
    return "\n".join(f"{names.get(ident, ident)}\n{''.join(traceback.format_stack(at))}" for ident, at in stacks)


def _by_py_spy(pid: int) -> str:
    """Return the stacks that py-spy reads; empty if it cannot."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        return ""
    # Nonblocking: a process that is stopped for reading would stay so if py-spy were killed.
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ATTACH_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _by_itself(pid: int) -> str:
    """Return the stacks that a process writes when it gets a signal; empty if it does not."""
    file = stack_file(Path(os.environ.get(SCRATCH, "/nowhere")), pid)
    if not file.is_file():
        return ""
    before = file.stat().st_size
    with contextlib.suppress(OSError):
        os.kill(pid, SIGNAL)
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until and file.stat().st_size == before:
        time.sleep(0.02)
    time.sleep(0.1)  # for the rest of them
    return file.read_text()[before:]
