"""Linux namespaces of a zygote and its boxes, in which almost nothing of the machine is visible.

The zygote enters its own process (PID), mount, network, IPC and host name (UTS) namespaces: directly if it runs as
root, otherwise through a user namespace. It is the first process of the PID namespace, so the kernel kills everything
in it when the zygote ends. Its root is an empty file system with read-only bind mounts of what an interpreter needs.
Each box gets its own PID, mount and IPC namespaces below, with an empty /tmp and /dev/shm.
"""

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Sequence

from rewards.sandbox.confinement import call, die_with_parent

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL_BUT_USER = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
"""System call number, the same on every machine; Linux 5.12."""
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
STAGE = "/tmp"
"""Mount point of the new root while it is built. Any directory works: its contents stay reachable in the old root."""
TMP_SIZE, SHM_SIZE, MAX_FILES = "16m", "1m", 4096
"""Size of /tmp and of /dev/shm of a box, and the maximum number of files in each."""
KEPT = "/kept"
"""Second place, in the new root, for paths under /tmp or /dev/shm, where an interpreter or packages may be installed.
The box's own /tmp and /dev/shm hide the first place."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def system_files(prefix: str, packages: Sequence[str]) -> list[str]:
    """Return the existing paths that a running interpreter reads: libraries, modules and packages.

    Programs, data and settings are not among them.

    Args:
        prefix: `sys.base_prefix` of the interpreter.
        packages: directories of installed packages.
    """
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
    """The namespaces of a zygote. Its `fork` gives each child its own PID namespace below them."""

    def __init__(self) -> None:
        """Enter new namespaces by a fork.

        The constructor returns in the child, the first process of the new namespaces. The calling process stays
        outside and ends when the child ends.

        Raises:
            OSError: the kernel or its settings forbid the namespaces.
        """
        self.has_users = _unshare()
        """Whether boxes can run under other user ids."""
        child = os.fork()
        if child:
            _wait_and_exit(child)
        die_with_parent()
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        socket.sethostname("box")

    def fork(self) -> int:
        """Fork as `os.fork` does. The child is the first process of a new PID namespace, which ends with it."""
        call("unshare", CLONE_NEWPID)
        child = -1
        try:
            child = os.fork()
        finally:
            if child != 0:
                call("setns", self._pid_namespace, CLONE_NEWPID)
        return child


def build_root(paths: Sequence[str]) -> None:
    """Replace the root of this mount namespace by an empty one with read-only bind mounts of `paths` and `DEVICES`."""
    real = {path: os.path.realpath(path) for path in (*paths, *DEVICES) if os.path.exists(path)}
    mount("none", "/", "", MS_REC | MS_PRIVATE, "")
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.mkdir(f"{STAGE}/old")
    os.chdir(STAGE)
    call("syscall", PIVOT_ROOT[platform.machine()], b".", b"old")
    os.chdir("/")
    for path, source in real.items():
        if not os.path.lexists(path):
            _link_or_bind(path, source)
        if _is_hidden_in_box(path) and not os.path.lexists(f"{KEPT}{path}"):
            _bind(f"{KEPT}{path}", source)
    for name in ("/tmp", "/dev/shm"):
        os.makedirs(name, exist_ok=True)
    call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))


def _is_hidden_in_box(path: str) -> bool:
    """Return whether the box's own /tmp or /dev/shm hides the path."""
    return path.startswith(("/tmp/", "/dev/shm/"))


def path_in_box(path: str) -> str:
    """Return the path at which a box finds a file that the root built by `build_root` has at `path`."""
    return f"{KEPT}{path}" if _is_hidden_in_box(path) else path


def enter_box() -> None:
    """Give this process, the first of a box, its own mount and IPC namespaces with an empty /tmp and /dev/shm.

    The working directory becomes /tmp.
    """
    call("unshare", CLONE_NEWNS | CLONE_NEWIPC)
    for directory, size in (("/tmp", TMP_SIZE), ("/dev/shm", SHM_SIZE)):
        options = f"mode=1777,size={size},nr_inodes={MAX_FILES}"
        mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.chdir("/tmp")


def _unshare() -> bool:
    """Enter new namespaces. Return whether other user ids can be used there.

    They can if this process is root. A user namespace made by an ordinary user holds that user only.
    """
    try:
        call("unshare", ALL_BUT_USER)
        return True
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        call("unshare", CLONE_NEWUSER | ALL_BUT_USER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return False


def _wait_and_exit(child: int) -> None:
    """Wait for the child from outside its namespaces, then exit with its code.

    All file descriptors are closed first, because another process may wait for their other end to close.
    """
    os.closerange(0, 4096)
    _, state = os.waitpid(child, 0)
    os._exit(min(abs(os.waitstatus_to_exitcode(state)), 255))


def _link_or_bind(path: str, source: str) -> None:
    """Make `source` of the old root available at `path`: by a symbolic link if the new root has it already."""
    if source != path and os.path.exists(source) and os.path.samefile(source, f"/old{source}"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(source, path)
    else:
        _bind(path, source)


def _bind(path: str, source: str) -> None:
    """Bind-mount `source` of the old root at `path`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    old = f"/old{source}"
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    mount(old, path, "", MS_BIND | MS_REC, "")


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    """Call mount(2). Raises OSError if it fails."""
    call("mount", *(text.encode() for text in (source, target, kind)), ctypes.c_ulong(flags), options.encode())
