"""Write the stacks of this process's threads to a file of the run's temporary folder whenever it gets SIGUSR2.

This works where no debugger may attach, and in a process whose interpreter is blocked in a library.
"""

import faulthandler
import os
import signal
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
