"""The keeper: the parent process of one worker, which ends everything that the worker started.

It receives SIGTERM from the kernel when the pool's process ends (PR_SET_PDEATHSIG), and becomes the parent of every
orphan among its descendants (PR_SET_CHILD_SUBREAPER), also of one that left the worker's session. When the worker ends
or a SIGTERM arrives, it kills and reaps all its descendants and exits with the worker's exit code. The kernel kills a
worker whose keeper dies.
"""

import contextlib
import ctypes
import os
import signal
import time

from rewards.sandbox.process_tree import descendants

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SIGNALLED = 128
"""The keeper's exit code is this plus the number of the signal that ended the worker."""
END_TIMEOUT_S = 2.0
"""Seconds spent on killing. A process that the kernel does not end within them is left behind."""
SIGNALS = {signal.SIGTERM, signal.SIGCHLD}


def fork_worker(parent: int, channel: int) -> None:
    """Fork the worker. Returns in the worker only: the calling process becomes its keeper and never returns.

    Args:
        parent: process id of the pool's process. If it has ended already, this process exits.
        channel: file descriptor that the keeper closes and the worker keeps.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for number in SIGNALS:  # The parent may have set them to be ignored, which is inherited.
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    if os.getppid() != parent:  # It ended before PR_SET_PDEATHSIG was set.
        os._exit(1)
    worker = os.fork()
    if worker:
        os.close(channel)
        _keep(worker)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _keep(worker: int) -> None:
    """Wait until the worker ends or SIGTERM arrives, kill all descendants, and exit."""
    code: int | None = None
    while code is None:
        received = signal.sigwaitinfo(SIGNALS)
        ended = _reap()
        if worker in ended:
            code = ended[worker]
        elif received.si_signo == signal.SIGTERM:
            code = SIGNALLED + signal.SIGTERM
    until = time.monotonic() + END_TIMEOUT_S
    while _has_children() and time.monotonic() < until:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
        _reap()
    os._exit(code)


def _reap() -> dict[int, int]:
    """Reap the children that have ended, and return their exit codes by process id."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            ended[found[0]] = code if code >= 0 else SIGNALLED - code
    return ended


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def describe_exit(code: int | None) -> str:
    """Return the exit code of a keeper as text."""
    if code is None:
        return "it does not exit"
    number = -code if code < 0 else code - SIGNALLED
    return f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"
