"""What a process can do to itself, for good: limits, capabilities given up, Landlock, and a filter on system calls.

Everything here needs no privileges and holds for the calling process and what it starts. Landlock and the loss of
capabilities bind the calling thread; the filter binds every thread.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence

from rewards.sandbox.system_calls import program

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SECCOMP = {"x86_64": 317, "aarch64": 277}
SET_FILTER, SYNCHRONIZE_THREADS = 1, 1
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""On every machine."""
LANDLOCK_VERSION, PATH_BENEATH = 1, 1
READ_FILE, READ_DIRECTORY, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
REMOVE_DIRECTORY, REMOVE_FILE, MAKE_DIRECTORY, MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
ACROSS_DIRECTORIES, TRUNCATE = 1 << 13, 1 << 14
READ = READ_FILE | READ_DIRECTORY
DEVICE = READ_FILE | WRITE_FILE | TRUNCATE
CHANGE = READ | DEVICE | REMOVE_DIRECTORY | REMOVE_FILE | MAKE_DIRECTORY | MAKE_FILE | ACROSS_DIRECTORIES
FILE_RIGHTS_OF = (0, 13, 14, 15, 15, 16)
"""By version, how many rights on files there are; later versions have as many as the last."""
CAPABILITIES_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> int:
    """A function of the C library; raises OSError where it returns -1."""
    result = getattr(_libc, function)(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return int(result)


def limit(memory_bytes: int, cpu_seconds: int, file_bytes: int, open_files: int, threads: int) -> None:
    """Lower this process's limits, the hard ones too; 0 threads leaves their number alone."""
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        **({resource.RLIMIT_NPROC: threads} if threads else {}),
    }
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; undone by a later change of user."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def drop_privileges() -> None:
    """Give up every capability, also those of the superuser, and whatever a program run from here would add."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header, none = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITIES_VERSION, 0)), bytes(24)
    call("capset", header, none)


def confine(level: int, readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> None:
    """Shut the calling process in, before it meets a program: from level 2 on no files but those named, no new process,
    no socket, no signal to others. Its privileges are dropped already. Raises OSError where the kernel lacks what the
    level needs; at level 3 the private mounts stand in for a missing Landlock."""
    die_with_parent()
    if level == 1:
        return
    if level == 2 or _landlock_version() > 0:
        restrict_files(readable, writable, devices)
    restrict_calls()


def confine_worker() -> int:
    """Shut a pool worker in once its verifiers are loaded and its zygote runs: files can be read and none written, no
    new process, no socket but those it has. Returns 2, or 1 where Landlock or the filter is missing.

    Threads that run already keep their right to files; so load first what starts threads only if it is trusted.
    """
    for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(which, (0, 0))
    try:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except OSError:
        return 1
    level = 2
    for shut in (lambda: restrict_files(["/"], [], ["/dev/null"]), lambda: restrict_calls(worker=True)):
        try:
            shut()
        except OSError:
            level = 1
    return level


def restrict_calls(worker: bool = False) -> None:
    """The filter of `system_calls`. Raises OSError where there is none for this machine or the kernel refuses it."""
    code = program(os.getpid(), worker)
    array = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(array))
    number = SECCOMP[platform.machine()]
    stuck = call("syscall", number, SET_FILTER, SYNCHRONIZE_THREADS, ctypes.create_string_buffer(head, len(head)))
    if stuck:
        raise OSError(errno.EBUSY, f"thread {stuck} does not take the filter")


def restrict_files(readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> None:
    """Landlock: from now on files beneath `readable` can be read, those beneath `writable` also made, changed and
    removed; paths that do not exist are passed over. Raises OSError where the kernel has no Landlock."""
    version = _landlock_version()
    if version < 1:
        raise OSError(errno.EOPNOTSUPP, "Landlock is not in this kernel, or switched off")
    handled = (1 << FILE_RIGHTS_OF[min(version, len(FILE_RIGHTS_OF) - 1)]) - 1
    # Rights on files; TCP bind and connect (version 4); signals and abstract sockets to outside (version 6).
    attributes = struct.pack("=QQQ", handled, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = call("syscall", LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for paths, rights in ((readable, READ), (writable, CHANGE), (devices, DEVICE)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        call("syscall", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        beneath = struct.pack("=Qi", rights if os.path.isdir(path) else rights & DEVICE, place)
        call("syscall", LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, beneath, 0)
    finally:
        os.close(place)


def _landlock_version() -> int:
    """0 where the kernel has none."""
    try:
        return call("syscall", LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION)
    except OSError:
        return 0
