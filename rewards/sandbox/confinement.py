"""Restrictions that a process puts on itself and cannot undo: resource limits, dropped capabilities, Landlock, and the
system call filter (seccomp).

Nothing here needs privileges. Everything applies to the calling process and to the processes it starts. Landlock and
the loss of capabilities bind the calling thread (and threads it starts later); the filter binds every thread.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence

from rewards.sandbox.system_calls import filter_code

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SECCOMP = {"x86_64": 317, "aarch64": 277}
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every machine."""
LANDLOCK_CREATE_RULESET_VERSION, LANDLOCK_RULE_PATH_BENEATH = 1, 1
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
"""This and the next two lines: access rights LANDLOCK_ACCESS_FS_*."""
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE = 1 << 13, 1 << 14
READ_RIGHTS = READ_FILE | READ_DIR
DEVICE_RIGHTS = READ_FILE | WRITE_FILE | TRUNCATE
WRITE_RIGHTS = READ_RIGHTS | DEVICE_RIGHTS | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER
FILE_RIGHTS_BY_VERSION = (0, 13, 14, 15, 15, 16)
"""Number of rights on files in each Landlock version. Later versions have as many as the last one here."""
CAPABILITIES_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> int:
    """Call a function of the C library. Raises OSError if it returns -1."""
    result = getattr(_libc, function)(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return int(result)


def limit(memory_bytes: int, cpu_seconds: int, file_bytes: int, open_files: int, threads: int) -> None:
    """Lower the soft and hard resource limits of this process. `threads=0` keeps the limit on threads."""
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
    """Have the kernel kill this process when its parent ends. A later change of user id undoes this."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the new parent of descendants whose parent ends (a child subreaper)."""
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def drop_privileges() -> None:
    """Drop every capability, also those of root. Programs executed from here cannot gain any (NO_NEW_PRIVS)."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header, none = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITIES_VERSION, 0)), bytes(24)
    call("capset", header, none)


def confine(level: int, readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> None:
    """Confine the calling process, before it runs an untrusted program.

    Level 1 only ties its life to its parent's. From level 2 on it can reach no files but those named, and can make no
    process, no socket and no signal to others. Call `drop_privileges` first. At level 3 a missing Landlock is accepted,
    because the private mounts protect the files.

    Args:
        readable: paths beneath which files can be read.
        writable: paths beneath which files can also be created, changed and removed.
        devices: paths of devices that can be read and written.

    Raises:
        OSError: the kernel lacks something that the level needs.
    """
    die_with_parent()
    if level == 1:
        return
    if level == 2 or _landlock_version() > 0:
        restrict_files(readable, writable, devices)
    restrict_calls()


def confine_worker() -> int:
    """Confine a worker of the pool, after its verifiers are loaded and its zygote runs.

    From then on it can read files and write none. It can make no process, and no socket beyond those it has. Threads
    that run already keep their access to files, so only trusted modules may start threads before this call.

    Returns:
        The isolation level reached: 2, or 1 if Landlock or the filter is missing.
    """
    for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(which, (0, 0))
    try:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except OSError:
        return 1
    level = 2
    for restrict in (lambda: restrict_files(["/"], [], ["/dev/null"]), lambda: restrict_calls(worker=True)):
        try:
            restrict()
        except OSError:
            level = 1
    return level


def restrict_calls(worker: bool = False) -> None:
    """Install the system call filter of `system_calls.py` in every thread.

    Raises:
        OSError: there is no filter for this machine, or the kernel does not accept it.
    """
    code = filter_code(os.getpid(), worker)
    array = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(array))
    number = SECCOMP[platform.machine()]
    refusing_thread = call(
        "syscall",
        number,
        SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.create_string_buffer(head, len(head)),
    )
    if refusing_thread:
        raise OSError(errno.EBUSY, f"the filter could not be installed in thread {refusing_thread}")


def restrict_files(readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> None:
    """Restrict file access of the calling thread by Landlock. The arguments are those of `confine`.

    Paths that do not exist are skipped.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    version = _landlock_version()
    if version < 1:
        raise OSError(errno.EOPNOTSUPP, "this kernel has no Landlock, or it is switched off")
    handled = (1 << FILE_RIGHTS_BY_VERSION[min(version, len(FILE_RIGHTS_BY_VERSION) - 1)]) - 1
    # Handled rights: on files; TCP bind and connect (version 4); signals and abstract sockets to outside (version 6).
    attributes = struct.pack("=QQQ", handled, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = call("syscall", LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for paths, rights in ((readable, READ_RIGHTS), (writable, WRITE_RIGHTS), (devices, DEVICE_RIGHTS)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        call("syscall", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Add a rule to the ruleset: `rights` on the file or directory at `path`."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # A path that is no directory may have rights on files only.
        rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & DEVICE_RIGHTS, descriptor)
        call("syscall", LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _landlock_version() -> int:
    """Return the version of the kernel's Landlock; 0 if it has none."""
    try:
        return call("syscall", LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0
