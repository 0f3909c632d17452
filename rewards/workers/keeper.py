"""The keeper: a small process between the pool and one worker, there so that nothing the worker started outlives it.

The kernel tells the keeper when the pool's process ends (PR_SET_PDEATHSIG), and gives it every orphan below it
(PR_SET_CHILD_SUBREAPER), also one that left the worker's session. When the worker ends, or the keeper is told to, it
kills and reaps all that is left below it and ends as the worker did. A worker dies with its keeper.
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
"""Added to the number of the signal that ended the worker, in the keeper's exit code."""
END_TIMEOUT_S = 2.0
"""Bound on the killing; a process that the kernel does not let go is left then."""
ORDERS = {signal.SIGTERM, signal.SIGCHLD}


def fork_kept(parent: int, channel: int) -> None:
    """Return in a new process, the worker; the calling one becomes its keeper, closes `channel`, and never returns."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for order in ORDERS:  # whoever started this may ignore them
        signal.signal(order, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ORDERS)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    if os.getppid() != parent:  # it ended before the kernel was told to tell
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
    """Wait for the worker's end or an order, end all that is below, and exit."""
    code: int | None = None
    while code is None:
        order = signal.sigwaitinfo(ORDERS)
        ended = _reaped()
        if worker in ended:
            code = ended[worker]
        elif order.si_signo == signal.SIGTERM:
            code = SIGNALLED + signal.SIGTERM
    until = time.monotonic() + END_TIMEOUT_S
    while _has_children() and time.monotonic() < until:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
        _reaped()
    os._exit(code)


def _reaped() -> dict[int, int]:
    """Exit codes of the children that have ended since the last call."""
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
