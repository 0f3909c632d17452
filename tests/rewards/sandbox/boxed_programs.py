"""Run source code in a box, and lists of what a boxed program must not and must be able to do."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from rewards.sandbox.box import Box, Exit, Limits, Zygote

PRELUDE = "import os, json\nreport = lambda value: os.write(descriptors[1], json.dumps(value).encode())\n"


class Running:
    """A box that runs `source`, which may call `report(value)` once."""

    def __init__(self, zygote: Zygote, source: str, limits: Limits | None = None) -> None:
        read, write = os.pipe()
        self.report_pipe, write_report = os.pipe()
        os.write(write, (PRELUDE + source).encode())
        os.close(write)
        try:
            self.box: Box = zygote.start("trial", [read, write_report], limits or Limits())
        finally:
            os.close(read)
            os.close(write_report)

    def read_report(self) -> Any:
        """Return the reported value, or None if the program ended without one."""
        return json.loads(os.read(self.report_pipe, 65_536) or b"null")

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.box.kill()
        os.close(self.report_pipe)


def run(zygote: Zygote, source: str, limits: Limits | None = None, timeout_s: float = 20.0) -> tuple[Exit, Any]:
    """Return how the box ended, and the value it reported."""
    with Running(zygote, source, limits) as running:
        end = running.box.wait(timeout_s)
        assert end is not None, "the box has not ended"
        return end, running.read_report()


def alive(process: int) -> bool:
    """Return whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


RAW = """
import ctypes, fcntl, os, platform, resource, select, signal, socket, subprocess, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)

def raw(x86, arm, *arguments):
    "Make a system call by its number; raise OSError if it fails, or if the machine has no such call."
    number = x86 if platform.machine() == "x86_64" else arm
    if number is None:
        raise OSError(38, "not on this machine")
    ctypes.set_errno(0)
    if libc.syscall(number, *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def signal_by_descriptor():
    "F_SETOWN names the process that the kernel signals about a pipe; F_SETSIG makes it any signal."
    end = os.pipe()[0]
    fcntl.fcntl(end, fcntl.F_SETOWN, os.getppid() or 1)
"""

REFUSED_ANYWHERE = {
    "fork": "os.fork()",
    "vfork": "raw(58, None)",
    "clone without a thread": "raw(56, 220, signal.SIGCHLD, 0, 0, 0, 0)",
    "clone with new namespaces": "raw(56, 220, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)",
    "clone3": "raw(435, 435, 0, 0)",
    "subprocess": "subprocess.run(['/bin/true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "exec": "os.execv(sys.executable, ['python'])",
    "execveat": "raw(322, 281, -100, 0, 0, 0, 0)",
    "an internet socket": "socket.socket()",
    "a datagram socket": "socket.socket(type=socket.SOCK_DGRAM)",
    "a Unix socket": "socket.socket(socket.AF_UNIX)",
    "a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "an internet pair of sockets": "raw(53, 199, socket.AF_INET, socket.SOCK_STREAM, 0, 0)",
    "a datagram to an address": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '/dev/log')",
    "descriptors in a message": "socket.send_fds(socket.socketpair()[0], [b'x'], [0])",
    "a signal to the parent": "os.kill(os.getppid() or 999_999_999, signal.SIGTERM)",
    "a signal to everyone": "os.kill(-1, 0)",
    "a signal to its group": "os.killpg(0, 0)",
    "a signal to a thread of another": "raw(234, 131, os.getppid() or 9, os.getppid() or 9, 0)",
    "a signal to a thread": "raw(200, 130, os.getppid() or 9, 0)",
    "a queued signal": "raw(129, 138, os.getppid() or 9, 10, 0)",
    "a signal by a descriptor": "signal_by_descriptor()",
    "pidfd_open": "os.pidfd_open(os.getpid())",
    "ptrace": "raw(101, 117, 0, 0, 0, 0)",
    "memory of another process": "raw(310, 270, os.getppid() or 1, 0, 0, 0, 0, 0)",
    "a user namespace": "raw(272, 97, 0x10000000)",
    "setns": "raw(308, 268, 0, 0)",
    "mount": "raw(165, 40, 0, 0, 0, 0, 0)",
    "umount": "raw(166, 39, 0, 0)",
    "pivot_root": "raw(155, 41, 0, 0)",
    "chroot": "os.chroot('/')",
    "open_tree": "raw(428, 428, -100, 0, 0)",
    "bpf": "raw(321, 280, 0, 0, 0)",
    "perf events": "raw(298, 241, 0, 0, 0, 0, 0)",
    "io_uring": "raw(425, 425, 1, 0)",
    "userfaultfd": "raw(323, 282, 0)",
    "kernel keys": "raw(250, 219, 0, 0, 0, 0, 0)",
    "memfd_create": "os.memfd_create('x')",
    "System V shared memory": "raw(29, 194, 0, 4096, 0o1666)",
    "a System V message queue": "raw(240, 180, 0, 0, 0, 0)",
    "personality": "raw(135, 92, 0)",
    "a filter of its own": "raw(317, 277, 0, 0, 0)",
    "a symbolic link": "os.symlink('/etc', 'link')",
    "a hard link": "os.link(__file__ if '__file__' in globals() else os.__file__, 'link')",
    "mknod": "os.mknod('node')",
    "a named pipe": "os.mkfifo('pipe')",
    "chmod": "os.chmod('.', 0o777)",
    "chown": "os.chown('.', -1, -1)",
    "utime": "os.utime('.')",
    "truncate by a path": "os.truncate(os.__file__, 0)",
    "truncation on opening to read": "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "a session of its own": "os.setsid()",
    "a process group of its own": "os.setpgid(0, 0)",
    "becoming root": "os.setuid(0)",
    "capabilities": "raw(126, 91, 0, 0)",
    "a priority": "os.setpriority(os.PRIO_PROCESS, 0, 5)",
    "outliving its parent": "libc.prctl(1, 0) and raw(157, 167, 1, 0)",
    "limits of another process": "resource.prlimit(os.getppid() or 2, resource.RLIMIT_CPU, (1, 1))",
    "a higher limit": "raw(160, 164, resource.RLIMIT_AS, ctypes.addressof((ctypes.c_ulong * 2)(2**40, 2**40)))",
    "writing to the system": "open('/usr/lib/box', 'w')",
    "writing to the interpreter": "open(os.__file__, 'r+')",
    "writing to the root": "open('/box', 'w')",
    "a directory at the root": "os.mkdir('/box')",
    "removing a module": "os.unlink(os.__file__)",
    "renaming a module": "os.rename(os.__file__, os.__file__ + 'x')",
    "writing to /etc": "open('/etc/box', 'w')",
    "writing to /var/tmp": "open('/var/tmp/box', 'w')",
    "writing to a disk": "open('/dev/vda', 'r+b')",
    "password hashes": "open('/etc/shadow').read()",
    "user list": "open('/etc/passwd').read()",
    "system settings": "os.listdir('/etc/ssl')",
    "a file of the user": "open(SECRET).read()",
    "this repository": "open(REPOSITORY + '/pyproject.toml').read()",
    "its own source": "open(REPOSITORY + '/rewards/sandbox/zygote.py').read()",
    "its own process entry": "open('/proc/self/environ').read()",
    "the parent's process entry": "os.listdir(f'/proc/{os.getppid() or 1}/fd')",
    "the kernel's settings": "os.listdir('/sys/kernel')",
}
"""Code that must fail with OSError at levels 3 and 2, by what it attempts."""

ALLOWED_ANYWHERE = {
    "a thread": "t = threading.Thread(target=print); t.start(); t.join()",
    "a deep thread": "threading.stack_size(2**27); sys.setrecursionlimit(10**6); "
    "f = lambda n: n and 1 + f(n - 1); r = []; "
    "t = threading.Thread(target=lambda: r.append(f(30_000))); t.start(); t.join(); assert r == [30_000]; "
    "threading.stack_size(0)",
    "a lower stack": "s = resource.getrlimit(resource.RLIMIT_STACK); "
    "resource.setrlimit(resource.RLIMIT_STACK, (2**22, s[1])); resource.setrlimit(resource.RLIMIT_STACK, (s[1], s[1]))",
    "its own process id": "assert os.getpid() > 0",
    "the time": "time.sleep(0.001); time.time(); time.localtime(); time.process_time()",
    "random numbers": "import random, secrets; random.random(); secrets.token_bytes(); os.urandom(8)",
    "exact numbers": "import decimal, fractions; decimal.Decimal(1) / 3; fractions.Fraction(1, 3)",
    "a module that is not loaded yet": "import colorsys, wave",
    "numpy": "import numpy; assert numpy.ones((50, 50)).dot(numpy.ones(50)).sum() == 2500",
    "pools of threads": "import concurrent.futures as c; "
    "assert list(c.ThreadPoolExecutor(4).map(abs, [-1, 2])) == [1, 2]",
    "an event loop": "import asyncio; asyncio.run(asyncio.sleep(0.001))",
    "a signal to itself": "got = []; signal.signal(signal.SIGUSR1, lambda *_: got.append(1)); "
    "signal.raise_signal(signal.SIGUSR1); os.kill(os.getpid(), signal.SIGUSR1); assert got == [1, 1]",
    "an alarm": "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01); "
    "signal.pause()",
    "pipes": "r, w = os.pipe(); os.write(w, b'x'); assert os.read(r, 1) == b'x' and select.select([r], [], [], 0)",
    "exit as a name": "exit",
    "the null device": "open('/dev/null', 'w').write('x'); assert open('/dev/null').read() == ''",
    "the time zone data": "import zoneinfo; zoneinfo.ZoneInfo('UTC')",
    "number of cores": "os.cpu_count(); len(os.sched_getaffinity(0))",
    "its user and machine": "os.getuid(); os.uname(); resource.getrusage(resource.RUSAGE_SELF)",
    "its environment": "assert (os.environ['HOME'], os.environ['TZ'], os.environ['LANG'], len(os.environ) < 16) == "
    "('/tmp', 'UTC', 'C.UTF-8', True), os.environ",
    "standard streams on the null device": "print('x'); print('x', file=sys.stderr); assert sys.stdin.read() == ''",
}
"""Code that must work at every level, by what it does."""
ALLOWED_WITH_A_DIRECTORY = {
    "temporary files": "import tempfile; f = tempfile.NamedTemporaryFile('w+'); f.write('x'); f.flush(); f.close()",
    "temporary directories": "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('x')",
    "a file in the working directory": "open('out.txt', 'w').write('x'); assert open('/tmp/out.txt').read() == 'x'",
    "removing its files": "os.mkdir('d'); open('d/x', 'w'); os.rename('d/x', 'y'); os.remove('y'); os.rmdir('d')",
    "shared memory": "open('/dev/shm/x', 'w').write('x')",
}
"""Code that must work at level 3, where a box has its own directories."""
