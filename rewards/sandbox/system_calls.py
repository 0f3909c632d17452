"""The seccomp filter: which system calls a confined process may make.

The filter is an allowlist. A call that is not listed fails, so a call that a later kernel adds fails too. There are
tables for x86-64 and 64-bit Arm, with the numbers of Linux's `unistd.h`. A call through the table of another
architecture (32-bit, x32) kills the process.
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
"""Allowed calls with their numbers on x86-64 and 64-bit Arm ("-": no such call).

Two groups are left out on purpose. Calls that change the mode, owner or times of a file, and `truncate`: Landlock
controls none (or not all) of them. `setsid` and `setpgid`: a box without namespaces is killed by its process group.
"""
WORKER_CALLS = {"sendmsg", "recvmsg", "sched_setaffinity"}
"""Calls for trusted workers only. A worker passes file descriptors to its zygote; engines set the affinity of their
threads."""
COLUMNS = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
"""Per architecture: column of the table, and AUDIT_ARCH number."""
CLONE_THREAD = 0x10000
TRUNCATE_READ_ONLY = (0o1003, 0o1000)
"""Mask and value of the flags of an `open` that truncates a file but opens it for reading only (O_RDONLY | O_TRUNC).
Landlock before version 3 allows that."""
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Duplication, flags, locks, pipe size. Not F_SETOWN and F_SETSIG: they can send signals to other processes."""
PRCTLS = (3, 15, 16, 21, 39, 0x53564D41)
"""GET_DUMPABLE, SET_NAME, GET_NAME, GET_SECCOMP, GET_NO_NEW_PRIVS, SET_VMA. Not SET_PDEATHSIG: a program must not
undo that it dies with its parent."""
FIRST_COMMON = 424
"""From this number on, all architectures have the same numbers. Programs fall back to an older call if one of these
recent calls fails with ENOSYS."""

# Return values of the filter (SECCOMP_RET_*).
ALLOW = 0x7FFF0000
KILL = 0x80000000
REFUSE = 0x00050000 | errno.EPERM
ABSENT = 0x00050000 | errno.ENOSYS
# Operation codes of classic BPF.
LOAD, EQUAL, ABOVE, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
X32 = 0x40000000
"""Bit that marks the numbers of x32 calls."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of classic BPF. A test skips `if_true` or `if_false` of the instructions that follow."""

    operation: int
    operand: int
    if_true: int = 0
    if_false: int = 0


def filter_code(process: int, worker: bool = False) -> bytes:
    """Return the filter for one process, as an array of struct sock_filter.

    Args:
        process: id of the process. It may send signals to itself only.
        worker: also allow `WORKER_CALLS`.

    Raises:
        OSError: there is no table for this architecture.
    """
    numbers, audit_arch = _numbers()
    conditions = _conditions(process)
    # Offsets in struct seccomp_data: 0 number of the call, 4 architecture, 16 arguments of 8 bytes each.
    code = [Instruction(LOAD, 4), Instruction(EQUAL, audit_arch, 1, 0), Instruction(RETURN, KILL), Instruction(LOAD, 0)]
    if platform.machine() == "x86_64":
        code += [Instruction(AT_LEAST, X32, 0, 1), Instruction(RETURN, KILL)]
    for name, body in conditions.items():
        if name in numbers:
            code += [Instruction(EQUAL, numbers[name], 0, len(body)), *body]
    return _packed(code) + _unconditional_calls(frozenset(conditions), worker)


def precompute() -> None:
    """Fill the caches with the parts of the filter that are the same for every process."""
    with contextlib.suppress(OSError):
        filter_code(0)


@functools.cache
def _unconditional_calls(conditional: frozenset[str], worker: bool) -> bytes:
    """Return the end of a filter: allow calls that need no check of their arguments, refuse all others."""
    numbers, _ = _numbers()
    names = numbers.keys() - conditional - (set() if worker else WORKER_CALLS)
    code: list[Instruction] = []
    for first, last in _ranges(numbers[name] for name in names):
        code += [Instruction(AT_LEAST, first, 0, 2), Instruction(ABOVE, last, 1, 0), Instruction(RETURN, ALLOW)]
    return _packed(
        [*code, Instruction(AT_LEAST, FIRST_COMMON, 0, 1), Instruction(RETURN, ABSENT), Instruction(RETURN, REFUSE)]
    )


def _packed(code: Iterable[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", i.operation, i.if_true, i.if_false, i.operand) for i in code)


@functools.cache
def _numbers() -> tuple[dict[str, int], int]:
    """Return the numbers of the calls in the table, and the AUDIT_ARCH number, of this architecture."""
    machine = platform.machine()
    if machine not in COLUMNS or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    column, audit_arch = COLUMNS[machine]
    calls = [call.split() for line in TABLE.split("\n") if line for call in line.split("|")]
    return {call[0]: int(call[column]) for call in calls if call[column] != "-"}, audit_arch


def _conditions(process: int) -> dict[str, list[Instruction]]:
    """Return, by call, the check of its arguments. The calls that are not here need none."""
    return {
        "clone": [
            *_argument(0),
            Instruction(ANY_BIT, CLONE_THREAD, 1, 0),
            Instruction(RETURN, REFUSE),
            Instruction(RETURN, ALLOW),
        ],
        "kill": _one_of(0, process),
        "tgkill": _one_of(0, process),
        "prlimit64": _one_of(0, 0, process),
        "prctl": _one_of(0, *PRCTLS),
        "ioctl": _one_of(1, *IOCTLS),
        "fcntl": _one_of(1, *FCNTLS),
        "socketpair": _one_of(0, socket.AF_UNIX),
        "sendto": _no_address(4),
        "open": _no_read_only_truncation(1),
        "openat": _no_read_only_truncation(2),
    }


def _argument(index: int, high: bool = False) -> list[Instruction]:
    """Load the low or the high 32 bits of an argument."""
    return [Instruction(LOAD, 16 + 8 * index + (4 if high else 0))]


def _one_of(index: int, *values: int) -> list[Instruction]:
    """Allow the call if the argument is one of the values. The kernel uses only 32 bits of these arguments."""
    tests = [Instruction(EQUAL, value, len(values) - position, 0) for position, value in enumerate(values)]
    return [*_argument(index), *tests, Instruction(RETURN, REFUSE), Instruction(RETURN, ALLOW)]


def _no_address(index: int) -> list[Instruction]:
    """Allow the call if the argument, a pointer to an address, is null."""
    return [
        *_argument(index),
        Instruction(EQUAL, 0, 0, 2),
        *_argument(index, high=True),
        Instruction(EQUAL, 0, 1, 0),
        Instruction(RETURN, REFUSE),
        Instruction(RETURN, ALLOW),
    ]


def _no_read_only_truncation(index: int) -> list[Instruction]:
    """Allow the call unless the argument, the flags of an `open`, truncates a file opened for reading only."""
    mask, flags = TRUNCATE_READ_ONLY
    return [
        *_argument(index),
        Instruction(AND, mask),
        Instruction(EQUAL, flags, 0, 1),
        Instruction(RETURN, REFUSE),
        Instruction(RETURN, ALLOW),
    ]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last number of each range of consecutive numbers."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
