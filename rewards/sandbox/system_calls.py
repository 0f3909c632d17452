"""The system calls a confined process may make, as a seccomp filter.

An allowlist: what is not named here fails, so a call that a later kernel adds fails too. x86-64 and 64-bit Arm; the
numbers are those of Linux's `unistd.h`. Calls of another machine's table (32-bit, x32) kill the process.
"""

import contextlib
import errno
import functools
import platform
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

TABLE = """
read 0 63 | write 1 64 | open 2 - | close 3 57 | stat 4 - | fstat 5 80 | lstat 6 - | lseek 8 62 | pread64 17 67
pwrite64 18 68 | readv 19 65 | writev 20 66 | preadv 295 69 | pwritev 296 70 | preadv2 327 286 | pwritev2 328 287
access 21 - | faccessat 269 48 | faccessat2 439 439 | dup 32 23 | dup2 33 - | dup3 292 24 | fsync 74 82
fdatasync 75 83 | ftruncate 77 46 | getdents 78 - | getdents64 217 61 | getcwd 79 17 | chdir 80 49 | fchdir 81 50
rename 82 - | renameat 264 38 | renameat2 316 276 | mkdir 83 - | mkdirat 258 34 | rmdir 84 - | creat 85 - | unlink 87 -
unlinkat 263 35 | readlink 89 - | readlinkat 267 78 | umask 95 166 | statfs 137 43 | fstatfs 138 44
fadvise64 221 223 | fallocate 285 47 | openat 257 56 | newfstatat 262 79 | statx 332 291 | flock 73 32
sendfile 40 71 | copy_file_range 326 285 | close_range 436 436
poll 7 - | ppoll 271 73 | select 23 - | pselect6 270 72 | epoll_create 213 - | epoll_create1 291 20 | epoll_ctl 233 21
epoll_wait 232 - | epoll_pwait 281 22 | eventfd 284 - | eventfd2 290 19 | timerfd_create 283 85 | timerfd_settime 286 86
timerfd_gettime 287 87 | signalfd 282 - | signalfd4 289 74 | pipe 22 - | pipe2 293 59 | wait4 61 260 | waitid 247 95
pause 34 - | restart_syscall 219 128 | nanosleep 35 101 | clock_nanosleep 230 115 | futex 202 98 | sched_yield 24 124
mmap 9 222 | mprotect 10 226 | munmap 11 215 | brk 12 214 | mremap 25 216 | madvise 28 233 | msync 26 227
rt_sigaction 13 134 | rt_sigprocmask 14 135 | rt_sigreturn 15 139 | rt_sigpending 127 136 | rt_sigtimedwait 128 137
rt_sigsuspend 130 133 | sigaltstack 131 132
gettimeofday 96 169 | time 201 - | clock_gettime 228 113 | clock_getres 229 114 | times 100 153 | alarm 37 -
getitimer 36 102 | setitimer 38 103 | timer_create 222 107 | timer_settime 223 110 | timer_gettime 224 108
timer_getoverrun 225 109 | timer_delete 226 111
getpid 39 172 | gettid 186 178 | getppid 110 173 | getpgid 121 155 | getpgrp 111 - | getsid 124 156 | getuid 102 174
geteuid 107 175 | getgid 104 176 | getegid 108 177 | getresuid 118 148 | getresgid 120 150 | getgroups 115 158
getrlimit 97 163 | setrlimit 160 164 | getrusage 98 165 | getpriority 140 141 | uname 63 160 | sysinfo 99 179
getcpu 309 168 | getrandom 318 278 | sched_getaffinity 204 123 | sched_getparam 143 121 | sched_getscheduler 145 120
sched_get_priority_max 146 125 | sched_get_priority_min 147 126 | capget 125 90 | set_robust_list 273 99
set_tid_address 218 96 | rseq 334 293 | membarrier 324 283 | exit 60 93 | exit_group 231 94
recvfrom 45 207 | shutdown 48 210 | getsockopt 55 209 | getsockname 51 204 | getpeername 52 205
clone 56 220 | kill 62 129 | tgkill 234 131 | prlimit64 302 261 | prctl 157 167 | ioctl 16 29 | fcntl 72 25
socketpair 53 199 | sendto 44 206
sendmsg 46 211 | recvmsg 47 212 | sched_setaffinity 203 122
"""
"""Each call's number on x86-64 and on 64-bit Arm. Absent on purpose, where it may surprise: what changes a file's mode,
owner or times, and `truncate`, since Landlock rules none (or not all) of them; `setsid` and `setpgid`, since a process
group is how a box without namespaces is killed."""
FOR_WORKERS = {"sendmsg", "recvmsg", "sched_setaffinity"}
"""Calls of a trusted worker only: descriptors pass between it and its zygote; engines place their threads."""
COLUMNS = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
"""Column of the table and AUDIT_ARCH number of a machine."""
CLONE_THREAD = 0x10000
TRUNCATE_READ_ONLY = (0o1003, 0o1000)
"""Mask and flags of an `open` that truncates what it opens for reading: Landlock before its third version allows it."""
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Duplicating, flags, locks, the size of a pipe; not F_SETOWN and F_SETSIG, which send signals to others."""
PRCTLS = (3, 15, 16, 21, 39, 0x53564D41)
"""GET_DUMPABLE, SET_NAME, GET_NAME, GET_SECCOMP, GET_NO_NEW_PRIVS, SET_VMA; not SET_PDEATHSIG."""
FIRST_COMMON = 424
"""From this number on the machines share one table; its calls are young enough that programs try another on ENOSYS."""

ALLOW = 0x7FFF0000
KILL = 0x80000000
REFUSE = 0x00050000 | errno.EPERM
ABSENT = 0x00050000 | errno.ENOSYS
LOAD, EQUAL, ABOVE, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
X32 = 0x40000000


@dataclass(frozen=True)
class Step:
    """One instruction of classic BPF: operation, operand, and how many to skip when a test holds or fails."""

    operation: int
    operand: int
    if_true: int = 0
    if_false: int = 0


def program(process: int, worker: bool = False) -> bytes:
    """The filter for process number `process` (it may signal itself only), as an array of struct sock_filter.

    Raises OSError on a machine without a table.
    """
    numbers, audit = _numbers()
    rules = _rules(process)
    steps = [Step(LOAD, 4), Step(EQUAL, audit, 1, 0), Step(RETURN, KILL), Step(LOAD, 0)]
    if platform.machine() == "x86_64":
        steps += [Step(AT_LEAST, X32, 0, 1), Step(RETURN, KILL)]
    for name, body in rules.items():
        if name in numbers:
            steps += [Step(EQUAL, numbers[name], 0, len(body)), *body]
    return _packed(steps) + _whole_calls(frozenset(rules), worker)


def load() -> None:
    """Work out ahead what is the same for every process."""
    with contextlib.suppress(OSError):
        program(0)


@functools.cache
def _whole_calls(ruled: frozenset[str], worker: bool) -> bytes:
    """The tail of a filter: calls allowed with any arguments, and what becomes of all others."""
    numbers, _ = _numbers()
    free = numbers.keys() - ruled - (set() if worker else FOR_WORKERS)
    steps: list[Step] = []
    for first, last in _runs(numbers[name] for name in free):
        steps += [Step(AT_LEAST, first, 0, 2), Step(ABOVE, last, 1, 0), Step(RETURN, ALLOW)]
    return _packed([*steps, Step(AT_LEAST, FIRST_COMMON, 0, 1), Step(RETURN, ABSENT), Step(RETURN, REFUSE)])


def _packed(steps: Iterable[Step]) -> bytes:
    return b"".join(struct.pack("=HBBI", s.operation, s.if_true, s.if_false, s.operand) for s in steps)


@functools.cache
def _numbers() -> tuple[dict[str, int], int]:
    machine = platform.machine()
    if machine not in COLUMNS or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    column, audit = COLUMNS[machine]
    calls = [call.split() for line in TABLE.split("\n") if line for call in line.split("|")]
    return {call[0]: int(call[column]) for call in calls if call[column] != "-"}, audit


def _rules(process: int) -> dict[str, list[Step]]:
    """Calls that are allowed with some arguments only."""
    return {
        "clone": [*_argument(0), Step(ANY_BIT, CLONE_THREAD, 1, 0), Step(RETURN, REFUSE), Step(RETURN, ALLOW)],
        "kill": _one_of(0, process),
        "tgkill": _one_of(0, process),
        "prlimit64": _one_of(0, 0, process),
        "prctl": _one_of(0, *PRCTLS),
        "ioctl": _one_of(1, *IOCTLS),
        "fcntl": _one_of(1, *FCNTLS),
        "socketpair": _one_of(0, socket.AF_UNIX),
        "sendto": _no_address(4),
        "open": _no_quiet_truncation(1),
        "openat": _no_quiet_truncation(2),
    }


def _argument(index: int, high: bool = False) -> list[Step]:
    """Load the low or the high half of an argument."""
    return [Step(LOAD, 16 + 8 * index + (4 if high else 0))]


def _one_of(index: int, *values: int) -> list[Step]:
    tests = [Step(EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [*_argument(index), *tests, Step(RETURN, REFUSE), Step(RETURN, ALLOW)]


def _no_address(index: int) -> list[Step]:
    return [
        *_argument(index),
        Step(EQUAL, 0, 0, 2),
        *_argument(index, high=True),
        Step(EQUAL, 0, 1, 0),
        Step(RETURN, REFUSE),
        Step(RETURN, ALLOW),
    ]


def _no_quiet_truncation(index: int) -> list[Step]:
    mask, flags = TRUNCATE_READ_ONLY
    return [
        *_argument(index),
        Step(AND, mask),
        Step(EQUAL, flags, 0, 1),
        Step(RETURN, REFUSE),
        Step(RETURN, ALLOW),
    ]


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each unbroken run of numbers."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
