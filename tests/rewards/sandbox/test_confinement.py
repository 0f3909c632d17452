"""Restrictions that a process puts on itself: the filter, Landlock, limits, and the confinement of a pool worker."""

import json
import os
import platform
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.sandbox import system_calls
from tests.rewards.sandbox.boxed_programs import RAW

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]

WORKER = """
import ctypes, duckdb, importlib, json, sqlite3, sympy, time
from math_verify import parse, verify
from rewards.sandbox.box import Limits, Zygote
from tests.rewards.sandbox.boxed_programs import run
from rewards.sandbox.confinement import confine_worker

zygote = Zygote()
level = confine_worker()
outcome = {"level": level}

assert verify(parse("$\\\\frac{1}{2}$"), parse("$0.5$"))
assert sympy.simplify("sin(x)**2 + cos(x)**2") == 1
database = sqlite3.connect(":memory:")
database.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)")
assert database.execute("SELECT sum(x) FROM t").fetchall() == [(3,)]
kept = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro&immutable=1", uri=True)
assert kept.execute("SELECT x FROM t").fetchall() == [(7,)]
engine = duckdb.connect(":memory:", config={"threads": 4})
assert engine.execute("SELECT sum(range) FROM range(1000000)").fetchall() == [(499999500000,)]
for lazy in ("colorsys", "sympy.physics.units", "wave", "xml.dom.minidom"):
    importlib.import_module(lazy)
assert open(sys.argv[1], "rb").read(6) == b"SQLite"
for _ in range(3):
    end, reported = run(zygote, "report(6 * 7)")
    assert (end.code, reported) == (0, 42)
zygote.close()

refused = {
    "fork": "os.fork()", "exec": "os.execv('/bin/true', ['true'])", "subprocess": "subprocess.run(['/bin/true'])",
    "a socket": "socket.socket()", "a signal": "os.kill(os.getppid(), 0)", "ptrace": "raw(101, 117, 0, 0, 0, 0)",
    "a new file": "open('/tmp/made', 'w')", "an old file": "open(sys.argv[1], 'r+')",
    "unlink": "os.unlink(sys.argv[1])",
    "chmod": "os.chmod(sys.argv[1], 0)", "a link": "os.link(sys.argv[1], sys.argv[1] + 'x')",
    "a copy by SQL": "database.execute('VACUUM INTO ' + repr(sys.argv[1] + 'copy'))",
    "a file by DuckDB": "engine.execute('COPY (SELECT 1) TO ' + repr(sys.argv[1] + 'copy'))",
    "in a thread": "in_thread(os.fork)",
}

def in_thread(work):
    from concurrent.futures import ThreadPoolExecutor
    ThreadPoolExecutor(1).submit(work).result()

for name, source in refused.items():
    try:
        exec(source)
        outcome[name] = "succeeded"
    except (OSError, sqlite3.Error, duckdb.Error) as error:
        outcome[name] = "refused"
print(json.dumps(outcome))
"""


def python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `source` in a new interpreter."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])])}
    command = [sys.executable, "-c", RAW + source, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_a_confined_worker_can_run_its_verifiers_and_nothing_else(tmp_path: Path) -> None:
    database = tmp_path / "data.db"
    with sqlite3.connect(database) as connection:
        connection.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (7)")
    connection.close()
    done = python(WORKER, str(database))
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome.pop("level") == 2
    assert outcome == dict.fromkeys(outcome, "refused")
    assert os.listdir(tmp_path) == ["data.db"]


def decide(code: bytes, number: int, arguments: tuple[int, ...] = (), audit: int = 0xC000003E) -> str:
    """Return the decision of a seccomp filter on a call, by interpreting its classic BPF."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    value = position = 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("=HBBI", code, position * 8)
        position += 1
        if operation == system_calls.RETURN:
            decisions = {system_calls.ALLOW: "allow", system_calls.KILL: "kill", system_calls.REFUSE: "refuse"}
            return decisions.get(operand, "absent")
        if operation == system_calls.LOAD:
            value = struct.unpack_from("=I", data, operand)[0]
        elif operation == system_calls.AND:
            value &= operand
        else:
            holds = {
                system_calls.EQUAL: value == operand,
                system_calls.ABOVE: value > operand,
                system_calls.AT_LEAST: value >= operand,
                system_calls.ANY_BIT: value & operand != 0,
            }[operation]
            position += if_true if holds else if_false


MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CALLS = [
    ("read", (0, 63), (), "allow"),
    ("exit_group", (231, 94), (), "allow"),
    ("statx", (332, 291), (), "allow"),
    ("execve", (59, 221), (), "refuse"),
    ("socket", (41, 198), (2, 1, 0), "refuse"),
    ("connect", (42, 203), (), "refuse"),
    ("ptrace", (101, 117), (), "refuse"),
    ("fchmodat", (268, 53), (), "refuse"),
    ("utimensat", (280, 88), (), "refuse"),
    ("truncate", (76, 45), (), "refuse"),
    ("setsid", (112, 157), (), "refuse"),
    ("memfd_create", (319, 279), (), "refuse"),
    ("clone3", (435, 435), (), "absent"),
    ("pidfd_open", (434, 434), (), "absent"),
    ("a call of the future", (600, 600), (), "absent"),
    ("clone, a thread", (56, 220), (0x3D0F00,), "allow"),
    ("clone, a process", (56, 220), (17,), "refuse"),
    ("clone, the flag in the half that is not read", (56, 220), (0x10000 << 32,), "refuse"),
    ("kill, itself", (62, 129), (77, 9), "allow"),
    ("kill, another", (62, 129), (78, 9), "refuse"),
    ("kill, all", (62, 129), (2**64 - 1, 9), "refuse"),
    ("tgkill, itself", (234, 131), (77, 80, 6), "allow"),
    ("tgkill, another", (234, 131), (1, 1, 6), "refuse"),
    ("prlimit64, itself", (302, 261), (0,), "allow"),
    ("prlimit64, another", (302, 261), (78,), "refuse"),
    ("prctl, a name", (157, 167), (15,), "allow"),
    ("prctl, outliving the parent", (157, 167), (1, 0), "refuse"),
    ("ioctl, a terminal's size", (16, 29), (1, 0x5413), "allow"),
    ("ioctl, typing into a terminal", (16, 29), (1, 0x5412), "refuse"),
    ("fcntl, flags", (72, 25), (3, 4), "allow"),
    ("fcntl, an owner to signal", (72, 25), (3, 8), "refuse"),
    ("fcntl, a lease", (72, 25), (3, 1024), "refuse"),
    ("socketpair, Unix", (53, 199), (1, 1), "allow"),
    ("socketpair, internet", (53, 199), (2, 1), "refuse"),
    ("sendto, a peer", (44, 206), (3, 9, 9, 0, 0), "allow"),
    ("sendto, an address", (44, 206), (3, 9, 9, 0, 0x7FFF), "refuse"),
    ("sendto, an address above 4 GB", (44, 206), (3, 9, 9, 0, 1 << 32), "refuse"),
    ("openat, to read", (257, 56), (0, 9, 0), "allow"),
    ("openat, to write afresh", (257, 56), (0, 9, 0o1001), "allow"),
    ("openat, to read and truncate", (257, 56), (0, 9, 0o1000), "refuse"),
    ("sendmsg", (46, 211), (), "refuse"),
]
"""A call, its numbers on x86-64 and 64-bit Arm, its arguments, and the decision for process 77."""


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_decides_correctly_on_each_architecture(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    system_calls._numbers.cache_clear()
    system_calls._unconditional_calls.cache_clear()
    try:
        audit, column = MACHINES[machine]
        code, worker = system_calls.filter_code(77), system_calls.filter_code(77, worker=True)
        found = {name: decide(code, numbers[column], arguments, audit) for name, numbers, arguments, _ in CALLS}
        assert found == {name: wanted for name, _, _, wanted in CALLS}
        assert decide(worker, CALLS[-1][1][column], (), audit) == "allow"
        assert {decide(code, 1, (), other) for other in (0, 0x40000003, 0x40000028)} == {"kill"}
        if machine == "x86_64":
            assert decide(code, 0x40000000 + 39) == "kill"
            assert decide(code, 2**31 + 39) == "kill"
    finally:
        monkeypatch.undo()
        system_calls._numbers.cache_clear()
        system_calls._unconditional_calls.cache_clear()


@pytest.mark.skipif(not Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").exists(), reason="no kernel headers here")
def test_the_table_agrees_with_the_kernel_headers() -> None:
    lines = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text().splitlines()
    known = {words[1].removeprefix("__NR_"): words[2] for line in lines if len(words := line.split()) == 3}
    calls = [call.split() for line in system_calls.TABLE.strip().split("\n") for call in line.split("|")]
    assert {name: number for name, number, _ in calls} == {name: known[name] for name, _, _ in calls}
    assert len({name for name, _, _ in calls}) == len(calls) > 150


def test_an_architecture_without_a_table_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    system_calls._numbers.cache_clear()
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        system_calls.filter_code(1)


def test_the_filter_applies_to_threads_that_are_already_running() -> None:
    source = """
from rewards.sandbox import confinement
filter_installed, found = threading.Event(), []
def fork_later():
    filter_installed.wait(20)
    try:
        os.fork()
    except PermissionError:
        found.append("refused")
thread = threading.Thread(target=fork_later)
thread.start()
confinement.drop_privileges()
confinement.restrict_calls()
filter_installed.set()
thread.join(20)
print(found, open(f"/proc/self/task/{thread.native_id}/status").read() if thread.is_alive() else "ended")
"""
    done = python(source)
    assert done.stdout == "['refused'] ended\n", done.stderr


def test_every_version_of_landlock_protects_files(tmp_path: Path) -> None:
    """Older versions are tested on this kernel, with a replaced `_landlock_version`."""
    source = """
from rewards.sandbox import confinement
here = confinement._landlock_version()
for version in range(1, here + 1):
    if os.fork() == 0:
        confinement._landlock_version = lambda: version
        confinement.drop_privileges()
        place = sys.argv[1]
        confinement.restrict_files(["/usr"], [place], ["/dev/null"])
        open(place + "/made", "w").write("x")
        os.unlink(place + "/made")
        open("/dev/null", "w").write("x")
        code = 0
        for path, mode in (("/etc/passwd", "r"), ("/usr/made", "w"), (place + "/../made", "w")):
            try:
                open(path, mode)
                code = 1
            except PermissionError:
                pass
        os._exit(code)
    assert os.wait()[1] == 0, version
print(here)
"""
    place = tmp_path / "open"
    place.mkdir()
    done = python(source, str(place))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 0
    assert os.listdir(tmp_path) == ["open"]
