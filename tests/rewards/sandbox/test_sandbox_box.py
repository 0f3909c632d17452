"""Boxes and their zygote, tested with programs that try to escape, to survive their box, and to exhaust resources."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rewards.sandbox import levels
from rewards.sandbox.box import LEVELS, BoxFailed, Limits, Zygote
from rewards.sandbox.process_tree import descendants
from tests.rewards.sandbox.boxed_programs import (
    ALLOWED_ANYWHERE,
    ALLOWED_WITH_A_DIRECTORY,
    RAW,
    REFUSED_ANYWHERE,
    Running,
    alive,
    run,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
HERE = levels.available().level
HOLDING = [level for level in LEVELS if level <= HERE]
STRONG = [level for level in HOLDING if level >= 2]


@pytest.fixture(scope="module")
def zygotes() -> Iterator[dict[int, Zygote]]:
    with contextlib.ExitStack() as stack:
        yield {level: stack.enter_context(Zygote(level)) for level in HOLDING}


def all_ended(processes: list[int], within_s: float = 5.0) -> bool:
    """Wait until the processes have ended, at most `within_s` seconds; return whether they have."""
    until = time.monotonic() + within_s
    while any(map(alive, processes)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(alive, processes))


def attempts(sources: dict[str, str], secret: Path | None = None) -> str:
    """Return a program that runs each source and reports its result: "", "refused" (OSError), or another exception."""
    return (
        f"{RAW}SECRET, REPOSITORY, outcome = {str(secret)!r}, {str(ROOT)!r}, {{}}\n"
        f"for name, source in {sources!r}.items():\n"
        "    try:\n        exec(source, globals())\n        outcome[name] = ''\n"
        "    except OSError as error:\n        outcome[name] = 'refused'\n"
        "    except Exception as error:\n        outcome[name] = repr(error)[-200:]\n"
        "report(outcome)\n"
    )


@pytest.mark.parametrize("level", STRONG)
def test_a_program_cannot_reach_beyond_its_box(level: int, zygotes: dict[int, Zygote], tmp_path: Path) -> None:
    secret = tmp_path / "tests.jsonl"
    secret.write_text("expected output")
    _, outcome = run(zygotes[level], attempts(REFUSED_ANYWHERE, secret))
    assert outcome is not None, "an attempt ended the program"
    assert {name: result for name, result in outcome.items() if result != "refused"} == {}
    assert outcome.keys() == REFUSED_ANYWHERE.keys()


@pytest.mark.parametrize("level", HOLDING)
def test_an_honest_program_can_do_what_it_needs(level: int, zygotes: dict[int, Zygote]) -> None:
    sources = ALLOWED_ANYWHERE | (ALLOWED_WITH_A_DIRECTORY if level == 3 else {})
    end, outcome = run(zygotes[level], attempts(sources))
    assert outcome == dict.fromkeys(sources, ""), outcome
    assert (end.code, end.signal) == (0, 0)


@pytest.mark.skipif(HERE < 3, reason="needs namespaces")
def test_at_level_3_a_program_sees_no_process_and_almost_no_files(zygotes: dict[int, Zygote]) -> None:
    source = """
report({
    'pid': os.getpid(), 'parent': os.getppid(), 'host': os.uname().nodename,
    'proc': os.path.exists('/proc/self'), 'sys': os.path.exists('/sys/kernel'), 'bin': os.path.exists('/usr/bin/env'),
    'devices': sorted(os.listdir('/dev')), 'settings': os.listdir('/etc'),
    'work': (os.getcwd(), os.listdir('.'), os.listdir('/dev/shm')),
})
"""
    _, seen = run(zygotes[3], source)
    assert set(seen.pop("settings")) <= {"ld.so.cache"}
    assert seen == {
        **{"pid": 1, "parent": 0, "host": "box", "proc": False, "sys": False, "bin": False},
        "devices": ["full", "null", "random", "shm", "urandom", "zero"],
        "work": ["/tmp", [], []],
    }


@pytest.mark.skipif(HERE < 3, reason="needs namespaces")
def test_at_level_3_every_mount_of_a_box_is_read_only_except_its_two_private_directories(
    zygotes: dict[int, Zygote],
) -> None:
    with Running(zygotes[3], "import time; time.sleep(60)") as running:
        lines = Path(f"/proc/{running.box.process}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: set(line.split()[5].split(",")) for line in lines}
    assert options.keys() >= {"/", "/usr/lib", "/tmp", "/dev/shm", "/dev/null"}
    assert {place for place in options if place.startswith(("/proc", "/sys", "/home", "/old", "/var"))} == set()
    assert {place for place in options if "nosuid" not in options[place]} == set()
    assert {place for place in options if "rw" in options[place]} == {"/tmp", "/dev/shm"}
    assert options["/tmp"] & options["/dev/shm"] >= {"nodev", "noexec"}


def test_the_highest_level_that_the_kernel_allows_is_available() -> None:
    probe = """
from rewards.sandbox import confinement, namespaces, system_calls
for flags in (0, namespaces.CLONE_NEWUSER):
    try:
        confinement.call("unshare", flags | namespaces.ALL_BUT_USER)
        namespaces.mount("none", "/", "", namespaces.MS_REC | namespaces.MS_PRIVATE, "")
        namespaces.mount("none", "/tmp", "tmpfs", 0, "")
        print(3)
        raise SystemExit
    except OSError:
        pass
print(2 if confinement._landlock_version() and system_calls.filter_code(1) else 1)
"""
    assert int(helper(probe)) == HERE, levels.available().reasons()


@pytest.mark.parametrize("level", HOLDING)
def test_a_program_has_no_capabilities_and_cannot_gain_any(level: int, zygotes: dict[int, Zygote]) -> None:
    source = """
import ctypes
data = (ctypes.c_uint32 * 6)(1, 1, 1, 1, 1, 1)
ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)
report([list(data), ctypes.CDLL(None).prctl(39, 0, 0, 0, 0), os.getuid()])
"""
    _, (capabilities, no_new_privileges, user) = run(zygotes[level], source)
    assert (capabilities, no_new_privileges) == ([0] * 6, 1)
    assert level < 3 or user != 0


@pytest.mark.parametrize("level", HOLDING)
def test_a_box_has_only_the_descriptors_passed_to_it(level: int, zygotes: dict[int, Zygote]) -> None:
    source = """
open_ones = []
for number in range(5000):
    try:
        os.fstat(number)
        open_ones.append(number)
    except OSError:
        pass
report([open_ones, descriptors, [os.fstat(n).st_rdev == os.stat('/dev/null').st_rdev for n in (0, 1, 2)]])
"""
    with Running(zygotes[level], "import time; time.sleep(60)"):
        _, (found, given, to_null) = run(zygotes[level], source)
    assert found == [0, 1, 2, 3, 4]
    assert given == [3, 4]
    assert to_null == [True] * 3


def test_string_hashes_are_the_same_in_all_zygotes_so_that_verdicts_are_repeatable(zygotes: dict[int, Zygote]) -> None:
    assert len({run(zygote, "report(hash('word'))")[1] for zygote in zygotes.values()}) == 1


def test_a_program_finds_nothing_that_an_earlier_one_left(zygotes: dict[int, Zygote]) -> None:
    plant = """
import json, sys, builtins
builtins.planted = json.planted = True
sys.path.insert(0, '/tmp')
for place in ('/tmp/json.py', '/tmp/sitecustomize.py', '/tmp/colorsys.py', '/dev/shm/x', 'usercustomize.py'):
    try:
        open(place, 'w').write('raise SystemExit')
    except OSError:
        pass
report(sorted(os.listdir('/tmp')) if os.getpid() == 1 else [])
"""
    look = """
import builtins, colorsys, json
report([hasattr(builtins, 'planted'), hasattr(json, 'planted'),
      [p for p in ('/tmp/json.py', '/tmp/colorsys.py', '/dev/shm/x') if os.path.exists(p)]])
"""
    for level in STRONG:
        planted = run(zygotes[level], plant)[1]
        assert (len(planted) == 4) == (level == 3)
        assert run(zygotes[level], look)[1] == [False, False, []]


@pytest.mark.parametrize("level", HOLDING)
def test_memory_descriptors_and_threads_are_limited(level: int, zygotes: dict[int, Zygote]) -> None:
    source = """
import errno, threading, time
outcome = {}
try:
    bytearray(2**30)
except MemoryError:
    outcome['memory'] = True
opened = []
try:
    while True:
        opened.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    outcome['descriptors'] = error.errno == errno.EMFILE and len(opened) < 64
for descriptor in opened:
    os.close(descriptor)
threading.stack_size(2**16)
threads = []
try:
    for _ in range(200):
        threads.append(threading.Thread(target=time.sleep, args=(60,), daemon=True))
        threads[-1].start()
except RuntimeError:
    pass
outcome['threads'] = len(threads)
report(outcome)
"""
    end, outcome = run(zygotes[level], source, Limits(memory_bytes=2**29, threads=32))
    assert outcome["memory"] is True
    assert outcome["descriptors"] is True
    assert level < 3 or 8 < outcome["threads"] <= 33
    assert end.peak_bytes < 2**29


@pytest.mark.skipif(HERE < 3, reason="needs namespaces")
def test_at_level_3_file_size_total_size_and_number_of_files_are_limited(zygotes: dict[int, Zygote]) -> None:
    source = """
import errno
def fill(name, size):
    with open(name, 'wb', buffering=0) as file:
        try:
            for _ in range(size):
                if file.write(bytes(2**20)) < 2**20:
                    return 'short'
        except OSError as error:
            return errno.errorcode[error.errno]
    return 'fits'
outcome = [fill('a', 5), fill('b', 3), fill('/dev/shm/c', 3)]
outcome.append([fill(f'd{i}', 4) for i in range(4)][-1])
for name in os.listdir('/tmp'):
    os.unlink(name)
made = 0
try:
    while True:
        open(f'{made}', 'w').close()
        made += 1
except OSError as error:
    outcome.append(errno.errorcode[error.errno])
report([outcome, made])
"""
    _, (outcome, made) = run(zygotes[3], source, Limits(file_bytes=4 * 2**20))
    assert [result in ("EFBIG", "short", "ENOSPC") for result in outcome] == [True, False, True, True, True]
    assert made <= 4096


def test_an_endless_loop_is_killed_at_the_processor_time_limit(zygotes: dict[int, Zygote]) -> None:
    end, _ = run(zygotes[HERE], "while True: pass", Limits(cpu_seconds=1))
    assert end.signal == signal.SIGKILL
    assert 0.5 < end.cpu_seconds < 2  # the kernel counts the limit in ticks but measures the use exactly


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other tables of calls exist on x86-64 only")
@pytest.mark.parametrize("level", STRONG)
def test_a_system_call_of_another_architecture_kills_the_program(level: int, zygotes: dict[int, Zygote]) -> None:
    x32 = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39); report('returned')"
    # mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    compatible = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')
report(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    end, reported = run(zygotes[level], x32)
    assert (end.signal, reported) == (signal.SIGSYS, None)
    end, reported = run(zygotes[level], compatible)
    assert end.signal in (signal.SIGSYS, signal.SIGSEGV)  # SIGSEGV if the kernel has no 32-bit system calls
    assert reported is None


def test_a_box_reports_how_it_ended(zygotes: dict[int, Zygote]) -> None:
    sources = {"pass": (0, 0), "1/0": (1, 0), "os._exit(7)": (7, 0), "raise SystemExit(0)": (1, 0)}
    for level in HOLDING:
        found = {source: run(zygotes[level], source)[0] for source in sources}
        assert {source: (end.code, end.signal) for source, end in found.items()} == sources
        assert all(0 < end.cpu_seconds < 5 and end.peak_bytes > 2**20 for end in found.values())


@pytest.mark.parametrize("level", HOLDING)
def test_a_killed_box_has_ended_when_kill_returns(level: int, zygotes: dict[int, Zygote]) -> None:
    stubborn = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
report('ready')
while True:
    time.sleep(60)
"""
    running = Running(zygotes[level], stubborn)
    assert running.read_report() == "ready"
    inside = running.box.process
    assert alive(inside)
    assert running.box.ended() is None
    assert running.box.wait(0.01) is None
    running.box.kill()
    assert not alive(inside)
    running.box.kill()
    end = running.box.ended()
    assert end is not None
    assert end.signal == signal.SIGKILL
    os.close(running.report_pipe)


@pytest.mark.parametrize("killed", [True, False])
def test_without_a_filter_the_processes_that_a_box_started_are_killed_with_it(
    killed: bool, zygotes: dict[int, Zygote]
) -> None:
    daemon = f"""
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        report(os.getpid())
        time.sleep(60)
    os._exit(0)
time.sleep(60 if {killed} else 0.1)
"""
    with Running(zygotes[1], daemon) as running:
        inside = running.read_report()
        assert alive(inside)
        assert killed or running.box.wait(10) is not None
    assert not alive(inside)


@pytest.mark.parametrize("victims", ["the worker", "the zygotes"])
def test_no_box_survives_its_worker_or_its_zygote(victims: str) -> None:
    worker = f"""
from tests.rewards.sandbox.boxed_programs import Running, Zygote
from rewards.sandbox.box import BoxFailed
zygotes = [Zygote(level) for level in {HOLDING}]
boxes = [Running(zygote, "report(1)\\nwhile 'not confined': pass") for zygote in zygotes]
print([box.read_report() for box in boxes] and [zygote._process.pid for zygote in zygotes], flush=True)
for box in boxes:
    try:
        box.box.wait(60)
    except BoxFailed as failure:
        print(failure)
"""
    command = [sys.executable, "-c", worker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=helper_environment()) as process:
        assert process.stdout is not None
        zygotes = json.loads(process.stdout.readline())
        below = descendants(process.pid)
        try:
            # At level 3 there is also the process that waits outside the namespaces.
            assert len(below) == len(HOLDING) * 2 + (HERE == 3)
            assert all(map(alive, below))
            for victim in [process.pid] if victims == "the worker" else zygotes:
                os.kill(victim, signal.SIGKILL)
            assert all_ended(below)
            output = process.stdout.read().decode()
            assert output.count("the zygote died") == (0 if victims == "the worker" else len(HOLDING))
        finally:
            process.kill()
            assert all_ended(below)


def test_a_dead_zygote_raises_box_failed() -> None:
    zygote = Zygote(HERE)
    with pytest.raises(BoxFailed, match="KeyError: 'nobody'"):
        zygote.start("nobody", [], Limits())
    running = Running(zygote, "report(1)\nwhile True: pass")
    assert running.read_report() == 1
    os.kill(zygote._process.pid, signal.SIGKILL)
    with pytest.raises(BoxFailed, match="the zygote died"):
        running.box.wait(10)
    with pytest.raises(BoxFailed, match="zygote"):
        zygote.start("trial", [], Limits())
    running.__exit__()
    zygote.close()
    zygote.close()


def test_a_zygote_survives_the_thread_that_made_it_and_closes_at_once_with_its_boxes() -> None:
    with ThreadPoolExecutor(1) as thread:
        zygote = thread.submit(Zygote, HERE).result(30)
    with zygote, Running(zygote, "report(1)\nwhile True: pass") as running:
        assert running.read_report() == 1
        started = time.monotonic()
        zygote.close()
        assert time.monotonic() - started < 5
        end = running.box.wait(5)
        assert end is not None
        assert end.signal == signal.SIGKILL


def test_a_hundred_boxes_leave_no_process_descriptor_mount_or_file(zygotes: dict[int, Zygote]) -> None:
    def traces(zygote: Zygote) -> dict[str, Any]:
        processes = [zygote._process.pid, *descendants(zygote._process.pid)]
        return {
            "ours": sorted(os.listdir("/proc/self/fd")),
            "its": {process: sorted(os.listdir(f"/proc/{process}/fd")) for process in processes},
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "its mounts": Path(f"/proc/{processes[-1]}/mountinfo").read_text(),
            "children": set(descendants(os.getpid())),
            "files": [path for place in ("/tmp", "/dev/shm") for path in os.listdir(place) if path.startswith("left")],
        }

    leave = """
import threading, time
for place in ('/tmp', '/dev/shm', '.'):
    try:
        open(f'{place}/left-behind', 'w').write('x')
    except OSError:
        pass
threading.Thread(target=time.sleep, args=(60,)).start()
"""
    for level in STRONG:
        run(zygotes[level], leave)
        # A zygote reports the end of a box, on which `run` returns, just before it closes the pipe of that report.
        time.sleep(0.5)
        before = traces(zygotes[level])
        for turn in range(100 // len(STRONG)):
            if turn % 3:
                run(zygotes[level], leave)
            else:
                Running(zygotes[level], "while True: pass").__exit__()
        # A zygote reaps a killed box a little later. A leak stays.
        deadline = time.monotonic() + 10
        while traces(zygotes[level]) != before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert traces(zygotes[level]) == before


def test_time_spent_waiting_for_a_core_is_measured_separately_from_time_spent_running(
    zygotes: dict[int, Zygote],
) -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the kernel does not count it")
    core = {min(os.sched_getaffinity(0))}
    spin = f"os.sched_setaffinity(0, {core})\nreport(1)\nwhile True: pass"
    with Running(zygotes[1], spin) as one, Running(zygotes[1], spin) as other:
        assert one.read_report() == other.read_report() == 1
        time.sleep(0.3)
        assert one.box.starved_seconds() + other.box.starved_seconds() > 0.1
    assert one.box.starved_seconds() == 0.0


def test_requiring_a_level_that_does_not_work_here_is_refused_with_the_reason() -> None:
    levels.require(HERE)
    with pytest.raises(ValueError, match=rf"^sandbox\.require: must be at most {HERE}, .*, got 4$"):
        levels.require(4)
    assert set(levels.available().refused) == {level for level in LEVELS if level > HERE}


def test_without_namespaces_level_2_is_used_and_the_reason_is_recorded() -> None:
    """The zygote is started under a filter that refuses namespaces, as many containers have."""
    confined = f"""
import tests.rewards.sandbox.boxed_programs as t, ctypes, struct
from rewards.sandbox import levels
libc = ctypes.CDLL(None)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {272 if os.uname().machine == "x86_64" else 97}), (6, 0, 0, 0x50001),
         (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, struct.pack("=H6xQ", len(steps), ctypes.addressof(code)), 0, 0) == 0
with t.Zygote() as zygote:
    assert zygote.level == 2, zygote.level
    assert "unshare: Operation not permitted" in zygote.refused[3], zygote.refused
    assert t.run(zygote, "report(os.getpid())")[1] > 1
try:
    levels.require(3)
except ValueError as error:
    print(error)
"""
    done = helper(confined)
    assert (
        "sandbox.require: must be at most 2, the highest isolation level that works here "
        "(level 3: a zygote could not start: [Errno 1] unshare: Operation not permitted), got 3" in done
    )


@pytest.mark.skipif(
    os.getuid() != 0,
    reason="only root can change the user id; without root, the other tests already run as an ordinary user",
)
@pytest.mark.parametrize("user", [65534, 0])
def test_boxes_hold_for_an_ordinary_user_and_where_all_users_can_read_the_interpreter(user: int) -> None:
    become = f"""
import contextlib, os, pathlib, sys, tempfile
from rewards.sandbox import confinement, namespaces
prefix = pathlib.Path(sys.base_prefix)
closed = [place for place in reversed(prefix.parents) if not place.stat().st_mode & 1]
if closed:  # then make a mount namespace in which they are readable
    confinement.call("unshare", namespaces.CLONE_NEWNS)
    interpreter = os.open(prefix, os.O_PATH)
    namespaces.mount("none", "/", "", namespaces.MS_REC | namespaces.MS_PRIVATE, "")
    namespaces.mount("tmpfs", str(closed[0]), "tmpfs", 0, "mode=755")
    os.makedirs(prefix)
    namespaces.mount(f"/proc/self/fd/{{interpreter}}", str(prefix), "", namespaces.MS_BIND, "")
    os.close(interpreter)
os.setgroups([])
os.setresgid({user}, {user}, {user})
os.setresuid({user}, {user}, {user})
import tests.rewards.sandbox.test_sandbox_box as t
print(t.levels.available().reasons())
with contextlib.ExitStack() as stack:
    levels = t.HOLDING if {user} else [level for level in t.HOLDING if level < 3]
    zygotes = {{level: stack.enter_context(t.Zygote(level)) for level in levels}}
    place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    users = {{t.run(zygote, "report(os.getuid())")[1] for zygote in zygotes.values()}}
    assert users == {{{user}}} if {user} else min(users) > 1000, users
    for level in levels:
        t.test_an_honest_program_can_do_what_it_needs(level, zygotes)
        t.test_memory_descriptors_and_threads_are_limited(level, zygotes)
        t.test_a_program_has_no_capabilities_and_cannot_gain_any(level, zygotes)
        if level > 1:
            t.test_a_program_cannot_reach_beyond_its_box(level, zygotes, place)
            t.test_a_killed_box_has_ended_when_kill_returns(level, zygotes)
    t.test_without_a_filter_the_processes_that_a_box_started_are_killed_with_it(True, zygotes)
print("held at", t.HOLDING)
"""
    assert f"held at {HOLDING}" in (output := helper(become)), output


def helper_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])])}


def helper(source: str) -> str:
    """Run `source` in a new process and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, env=helper_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(levels.available().level < 3, reason="needs namespaces")
def test_modules_below_tmp_are_found_at_another_path_and_tmp_is_empty(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        (Path(folder) / "module.py").write_text("value = 1")
        code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from rewards.sandbox import namespaces
namespaces.Enclosure()
namespaces.build_root([{folder!r}])
namespaces.enter_box()
kept = namespaces.path_in_box({folder!r})
print(open(kept + "/module.py").read(), os.listdir("/tmp") == [])
try:
    open(kept + "/other", "w")
except OSError:
    print("read-only")
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.stdout.split() == ["value", "=", "1", "True", "read-only"], done.stderr
        assert os.listdir(folder) == ["module.py"]
