"""Namespaces: a place where nothing of the machine is to be seen, made once by a zygote, and a fresh copy for each box.

The zygote enters process, mount, network, IPC and host-name namespaces of its own, as the superuser directly, else by
way of a user namespace. It is the first process there, so its end is the end of everything in it. Its root is an empty
file system with read-only binds of what an interpreter needs; each box gets process, mount and IPC namespaces of its
own below, with an empty /tmp and /dev/shm.
"""

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Sequence

from rewards.sandbox.confinement import call, die_with_parent

NEW_MOUNTS, NEW_NAMES, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
ALL_BUT_USER = NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PROCESSES | NEW_NETWORK
NO_SETUID, NO_DEVICES, NO_PROGRAMS, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
"""On every machine; Linux 5.12. Its first two attributes are READ_ONLY and NO_SETUID."""
READ_ONLY = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
STAGE = "/tmp"
"""Any directory: what it held stays reachable through the old root while the view is put together."""
TMP_SIZE, SHM_SIZE, FILES = "16m", "1m", 4096
"""Bytes and numbers of files of a box's /tmp and /dev/shm."""
KEPT = "/kept"
"""Where the view holds what a box's own /tmp or /dev/shm hides, for an interpreter or packages installed there."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def system_files(prefix: str, packages: Sequence[str]) -> list[str]:
    """What an interpreter reads while it runs: libraries, modules, packages. No programs, no data, no settings."""
    libraries = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/lib",
        "/lib64",
        "/usr/share/zoneinfo",
        "/etc/ld.so.cache",
    ]
    wanted = [*libraries, f"{prefix}/lib", f"{prefix}/lib64", *packages]
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]


class Enclosure:
    """The namespaces of a zygote, and the way to give a child a process namespace below them."""

    def __init__(self) -> None:
        """Returns in a child of the caller, the first process of the new namespaces; the caller itself stays outside
        and lasts as long as the child. Raises OSError where the kernel or its settings forbid it."""
        self.has_users = _unshare()
        child = os.fork()
        if child:
            _outlast(child)
        die_with_parent()
        self._processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        socket.sethostname("box")

    def fork(self) -> int:
        """As `os.fork`; the child is the first process of a namespace of its own, and its end is the end of that."""
        call("unshare", NEW_PROCESSES)
        child = -1
        try:
            child = os.fork()
        finally:
            if child != 0:
                call("setns", self._processes, NEW_PROCESSES)
        return child


def build_view(paths: Sequence[str]) -> None:
    """Replace what this mount namespace shows by an empty root with read-only binds of `paths` and a few devices."""
    real = {path: os.path.realpath(path) for path in (*paths, *DEVICES) if os.path.exists(path)}
    mount("none", "/", "", RECURSIVE | PRIVATE, "")
    mount("tmpfs", STAGE, "tmpfs", NO_SETUID | NO_DEVICES, "mode=755,size=1m")
    os.mkdir(f"{STAGE}/old")
    os.chdir(STAGE)
    call("syscall", PIVOT_ROOT[platform.machine()], b".", b"old")
    os.chdir("/")
    for path, source in real.items():
        if not os.path.lexists(path):
            _show(path, source)
        if _is_fresh(path) and not os.path.lexists(f"{KEPT}{path}"):
            _bind(f"{KEPT}{path}", source)
    for name in ("/tmp", "/dev/shm"):
        os.makedirs(name, exist_ok=True)
    call("umount2", b"/old", DETACH)
    os.rmdir("/old")
    attributes = struct.pack("=QQQQ", READ_ONLY | NO_SETUID, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))


def _is_fresh(path: str) -> bool:
    """Whether a box's own /tmp or /dev/shm hides it."""
    return path.startswith(("/tmp/", "/dev/shm/"))


def seen_as(path: str) -> str:
    """Where a box finds what the view shows at `path`."""
    return f"{KEPT}{path}" if _is_fresh(path) else path


def freshen() -> None:
    """In a box: mount and IPC namespaces of its own, with an empty /tmp and /dev/shm; the first is where it works."""
    call("unshare", NEW_MOUNTS | NEW_IPC)
    for place, size in (("/tmp", TMP_SIZE), ("/dev/shm", SHM_SIZE)):
        options = f"mode=1777,size={size},nr_inodes={FILES}"
        mount("tmpfs", place, "tmpfs", NO_SETUID | NO_DEVICES | NO_PROGRAMS, options)
    os.chdir("/tmp")


def _unshare() -> bool:
    """Whether other user numbers can be taken there: so for the superuser, not through a user namespace of one user."""
    try:
        call("unshare", ALL_BUT_USER)
        return True
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        call("unshare", NEW_USER | ALL_BUT_USER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return False


def _outlast(child: int) -> None:
    """Wait for the child outside its namespaces and end as it ended; holds nothing open that others may wait for."""
    os.closerange(0, 4096)
    _, state = os.waitpid(child, 0)
    os._exit(min(abs(os.waitstatus_to_exitcode(state)), 255))


def _show(path: str, source: str) -> None:
    """Show `source` of the old root at `path`; a link that leads to what is shown already stays a link."""
    if source != path and os.path.exists(source) and os.path.samefile(source, f"/old{source}"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(source, path)
    else:
        _bind(path, source)


def _bind(path: str, source: str) -> None:
    """Bind `source` of the old root at `path`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    old = f"/old{source}"
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    mount(old, path, "", BIND | RECURSIVE, "")


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    call("mount", *(text.encode() for text in (source, target, kind)), ctypes.c_ulong(flags), options.encode())
