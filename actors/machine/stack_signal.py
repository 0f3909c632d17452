"""The stacks of this process's threads: read by one of them, or written to a file of the run's temporary folder
whenever the process gets SIGUSR2.

Both work where no debugger may attach; the signal also where the interpreter is blocked in a library.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from actors.machine.scratch import SCRATCH

SIGNAL = signal.SIGUSR2
_files: list[object] = []
"""Open for as long as the process lives, as `faulthandler` writes to their descriptors."""


def stack_file(scratch: Path, pid: int) -> Path:
    """Return the file to which a process writes its stacks. It exists if the process may be sent SIGNAL."""
    return scratch / f"stacks-{pid}.txt"


def register() -> None:
    """Have SIGNAL write the stacks of this process, if it belongs to a run with a temporary folder."""
    folder = os.environ.get(SCRATCH)
    if folder and not _files:
        file = stack_file(Path(folder), os.getpid()).open("w")
        _files.append(file)
        faulthandler.register(SIGNAL, file=file, all_threads=True)


def own_stacks() -> str:
    """Return the Python stacks of all threads of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = sys._current_frames().items()
    return "\n".join(f"{names.get(ident, ident)}\n{''.join(traceback.format_stack(at))}" for ident, at in stacks)
