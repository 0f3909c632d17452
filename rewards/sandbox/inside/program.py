"""The box of a program that reads standard input: forks one confined process per test, connected by real pipes.

The parent process in the box never reads, compiles or runs the program. It only forks, waits, and reports how each
process ended.
"""

import atexit
import builtins
import json
import os
import socket
import sys
import textwrap
import threading
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

MESSAGE_LIMIT = 4096
BUILTIN_OPEN = open
STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
OUT_OF_MEMORY = 137
"""Exit code of a program that ended by a MemoryError."""


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    """Run the program once per request.

    The descriptors are the job, and a socket for requests and reports. A request is a message with two descriptors: the
    read end of the standard input, and the write end of the standard output.
    """
    job_descriptor, control_descriptor = descriptors
    control = socket.socket(fileno=control_descriptor)
    with open(job_descriptor, "rb") as stream:
        job = stream.read()
    while True:
        message, passed, _, _ = socket.recv_fds(control, MESSAGE_LIMIT, 2)
        if not message:
            return
        process = os.fork()
        if process == 0:
            run_test(job, passed, confine)
        for descriptor in passed:
            os.close(descriptor)
        _, state, usage = os.wait4(process, 0)
        code = os.waitstatus_to_exitcode(state)
        report = {
            "code": max(code, 0),
            "signal": max(-code, 0),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
        }
        control.send(json.dumps(report).encode())


def run_test(job: bytes, pipes: list[int], confine: Callable[[], None]) -> None:
    """Run the program in this process, for one test, and exit."""
    code = 1
    try:
        for standard, pipe in enumerate(pipes):
            os.dup2(pipe, standard)
        os.closerange(3, 256)
        confine()
        _open_standard_streams()
        code = run(json.loads(job)["texts"])
    except MemoryError:
        code = OUT_OF_MEMORY
    finally:
        os._exit(code)


def run(texts: list[str]) -> int:
    """Run the program as `__main__` to its end, with its threads and exit handlers, and return its exit code."""
    status = 0
    try:
        code = compiled(texts)
        module = ModuleType("__main__")
        sys.modules["__main__"] = module
        sys.argv = ["program.py"]
        namespace: dict[str, Any] = vars(module)
        namespace |= {"__annotations__": {}, "__file__": "program.py", "__builtins__": __builtins__}
        exec(code, namespace)
    except SystemExit as stop:
        status = _exit_code(stop.code)
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException:
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = status or 120
    return status


def compiled(texts: list[str]) -> CodeType:
    """Compile the first text that compiles. If none does, raise the exception of the first text."""
    failure: Exception | None = None
    for text in texts:
        try:
            return compile(textwrap.dedent(text), "program.py", "exec")
        except (SyntaxError, ValueError) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _exit_code(value: Any) -> int:
    if value is None:
        return 0
    return value & 255 if isinstance(value, int) else 1


def _open_standard_streams() -> None:
    """Open new standard streams on descriptors 0, 1 and 2, as a new interpreter has them."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    builtins.open = _open  # type: ignore[assignment]


def _open(file: Any, *arguments: Any, **named: Any) -> Any:
    """Open a file as the built-in `open` does, and /dev/stdin etc. too, which the box's file system lacks."""
    return BUILTIN_OPEN(STREAMS.get(file, file) if isinstance(file, str) else file, *arguments, **named)
