"""Write what every process of a run is doing to `stacks/TIME` of its directory, when a role does not answer.

The Python stacks of a process on this machine come from py-spy, which works for one that is stopped, too. Where py-spy
is not installed or may not attach, and on other machines, the thread of a role that answers heartbeats reads them. For
other processes the last resort is a signal (`actors/machine/stack_signal.py`), which may crash a process whose threads
are at work, so only processes that are ended anyway get it: all of them when the run ends, and the silent one when its
role is started again. Every file of a process on this machine begins with its state in the kernel.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from actors.background import in_own_thread
from actors.machine.scratch import SCRATCH, folder_of, processes
from actors.machine.stack_signal import SIGNAL, own_stacks, stack_file

STACKS = "stacks"
ATTACH_S = 5.0
"""Seconds for py-spy to read one process."""
ANSWER_S = 5.0
"""Seconds for a process to read its own stacks."""
LONGEST_S = 60.0
"""Seconds for all processes."""
AT_A_TIME = 8
"""Processes of this machine that are read at a time."""
MOST = 256
"""Processes of this machine that are read at most."""
STALLS = (
    "did not answer within", "has not answered for", "generated no token for", "no token was generated",
    "does not answer", "Timed out",
)  # fmt: skip
"""Parts of the messages of errors that end a wait."""
UNREAD = "its stacks could not be read\n"


class Role(Protocol):
    """A role with a process of its own: `actors.remote.Handle`."""

    name: str

    @property
    def local_pid(self) -> int | None:
        """Its process id; None if it is on another machine or was never built."""
        ...

    async def stacks(self, timeout_s: float) -> str:
        """Return the stacks of its process, as it reads them itself."""
        ...


def stalled(error: BaseException) -> bool:
    """Return whether a run failed because something did not answer in time."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TimeoutError) or any(words in str(seen) for words in STALLS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.asynccontextmanager
async def on_stall(run_dir: Path, roles: Sequence[Role]) -> AsyncIterator[None]:
    """If what is done inside fails because something did not answer, write all stacks before it ends, and say where."""
    try:
        yield
    except Exception as error:
        if stalled(error):
            with contextlib.suppress(OSError):  # a full disk, or a machine that is too busy
                error.add_note(await dump(run_dir, roles))
        raise


async def dump(
    run_dir: Path, roles: Sequence[Role] = (), ended: Collection[int] | None = None, driver: int | None = None
) -> str:
    """Write the stacks of all processes of the run on this machine, and of the roles on others, within `LONGEST_S`.

    Args:
        roles: their processes, and what these have started, count as processes of the run.
        ended: the processes that are ended afterwards, which may get a signal; None: all.
        driver: process of the run; None: this one.

    Returns:
        A line that says where the stacks are.

    Raises:
        OSError: they cannot be written, or not in time (TimeoutError).
    """
    here = {role.local_pid: role for role in roles if role.local_pid is not None}
    elsewhere = [role for role in roles if role.local_pid is None]
    pool = ThreadPoolExecutor(AT_A_TIME)
    try:
        async with asyncio.timeout(LONGEST_S):
            found = (await in_own_thread(lambda: list(_processes(driver, here))))[:MOST]
            texts = await asyncio.gather(
                *(_text(process, here.get(process.pid), ended, pool) for process in found),
                *(_answer(role) for role in elsewhere),
            )
            names = [f"{process.pid}-{_name(process)}" for process in found]
            names += [role.name.replace(" ", "_") for role in elsewhere]
            folder = await in_own_thread(_write, run_dir, dict(zip(names, texts, strict=True)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return f"The stacks of {len(texts)} processes are in {folder}"


def _write(run_dir: Path, texts: dict[str, str]) -> Path:
    """Write a file of each text to a new folder, and return the folder."""
    folder = run_dir / STACKS / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text or UNREAD)
    return folder


def _processes(driver: int | None, pids: Collection[int]) -> Iterator[psutil.Process]:
    """Yield the driver, these processes, those that they have started, and those that use its temporary folder."""
    below: dict[int, psutil.Process] = {}
    for pid in (driver or os.getpid(), *pids):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            below |= {each.pid: each for each in [process, *process.children(recursive=True)]}
    scratch = Path(os.environ.get(SCRATCH, "/nowhere")) if driver is None else folder_of(driver)
    for pid in processes(scratch):
        with contextlib.suppress(psutil.Error):
            below.setdefault(pid, psutil.Process(pid))
    yield from below.values()


def _name(process: psutil.Process) -> str:
    """Return a name for a process's file: the first word of its command, without folders."""
    with contextlib.suppress(psutil.Error):
        words = (process.cmdline() or [process.name()])[0]
        return "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(words.split()[0]).name)[:60] or "process"
    return "process"


async def _text(
    process: psutil.Process, role: Role | None, ended: Collection[int] | None, pool: ThreadPoolExecutor
) -> str:
    """Return the state and the stacks of a process of this machine."""
    try:
        state = f"{' '.join(process.cmdline())[:1000]}\nstate {process.status()}, {process.num_threads()} threads, "
        state += f"cpu {sum(process.cpu_times()[:2]):.1f} s, resident {process.memory_info().rss / 1e6:.0f} MB\n\n"
        stopped = process.status() == psutil.STATUS_STOPPED
    except psutil.Error as error:
        return f"{error}\n"
    if process.pid == os.getpid():
        return state + own_stacks()
    read = partial(asyncio.get_running_loop().run_in_executor, pool)
    text = await read(_by_py_spy, process.pid)
    if stopped:
        return f"{state}it was stopped by a signal (SIGCONT continues it)\n\n{text}"
    if not text and role is not None:
        text = await _answer(role)
    if not text and (ended is None or process.pid in ended):
        text = await read(_by_itself, process.pid)
    return state + (text or UNREAD)


async def _answer(role: Role) -> str:
    """Return the stacks that a role's own thread reads; empty if it is stopped, blocked in a library or gone."""
    with contextlib.suppress(Exception):
        return await role.stacks(ANSWER_S)
    return ""


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
    folders = Path(os.environ.get(SCRATCH, "/nowhere")), folder_of(pid)
    file = next((file for file in (stack_file(folder, pid) for folder in folders) if file.is_file()), None)
    if file is None:
        return ""
    before = file.stat().st_size
    with contextlib.suppress(OSError):
        os.kill(pid, SIGNAL)
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until and file.stat().st_size == before:
        time.sleep(0.02)
    time.sleep(0.1)  # for the rest of them
    return file.read_text()[before:]
