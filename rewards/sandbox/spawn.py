"""Start the process of a zygote, with a fixed environment."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path


def spawn_zygote(channel: socket.socket, level: int) -> subprocess.Popen[bytes]:
    """Start `zygote.py` in a new interpreter, at isolation level `level`, with `channel` as its end of the socket pair.

    Raises:
        OSError: the interpreter cannot be started.
    """
    paths = sysconfig.get_paths()
    settings = {
        "level": level,
        "channel": channel.fileno(),
        # PR_SET_PDEATHSIG takes effect when the thread that forked ends, so only the main thread may be the parent.
        "parent": os.getpid() if threading.current_thread() is threading.main_thread() else 0,
        "prefix": sys.base_prefix,
        "packages": sorted({paths["purelib"], paths["platlib"]}),
    }
    return subprocess.Popen(
        # -P, -s and -S keep the modules of the script's directory, the user and the site off the import path. -E would
        # also ignore PYTHONHASHSEED.
        [sys.executable, "-P", "-s", "-S", Path(__file__).with_name("zygote.py"), json.dumps(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[channel.fileno()],
        cwd="/",
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Return the complete environment of the boxes: fixed, so that a program behaves the same in every check."""
    inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    single_threaded = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    fixed = {"HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
    python = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    # Each further malloc arena takes 128 MB of address space.
    return {**inherited, **single_threaded, **fixed, **python, "MALLOC_ARENA_MAX": "2"}
