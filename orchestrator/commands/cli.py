"""The `breadth` command: parse the command line, run one command, and report the user's errors in one line."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.commands.parser import parse
from orchestrator.submission.runtime import KEY_VARIABLE, STOP_VARIABLE, receive, watch_for_stop

ROOT = Path(__file__).resolve().parents[2]
FIRST = """Breadth trains language models by reinforcement learning with verifiable rewards. To begin:

  breadth compare        train five methods from a small policy on this machine, and compare them (6 minutes on 2 cores)
  breadth show-config    print every setting and what follows from it; --explain KEY prints the meaning of one
  breadth methods        list the methods; breadth methods NAME shows one with its equations
  breadth train policy.path=DIRECTORY task.name=dataset task.options.path=FILE.jsonl name=first
                         train your own policy on your own problems
  breadth --help         list all commands"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for a failure, 2 for wrong settings, 130 when interrupted."""
    options = parse(arguments)
    console = Console(stderr=True, highlight=False)
    if options.command is None:
        Console(highlight=False).print(FIRST, soft_wrap=True, markup=False)
        return 0
    # One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        # The modules that start roles load torch and Ray, which takes seconds. Each command imports them after it has
        # checked its settings.
        if STOP_VARIABLE in os.environ:  # a job that `breadth submit` sent
            _begin_job()
        command = importlib.import_module(f"orchestrator.commands.{options.module}")
        status: int | None = command.run(options, console)
    except ValueError as error:
        if not _raised_by_breadth(error):
            raise
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt as interrupt:
        lines = ["breadth: interrupted", *getattr(interrupt, "__notes__", [])]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
        return 130
    return status or 0


def _begin_job() -> None:
    """Take the secrets of this job, and watch for the request to stop it."""
    store = importlib.import_module("orchestrator.submission.client").JobStore()
    if KEY_VARIABLE in os.environ:
        receive(store)
    watch_for_stop(store)


def _raised_by_breadth(error: ValueError) -> bool:
    """Return whether this project's own code raised `error`, as it does for wrong settings.

    A ValueError of a library is a bug, so it is shown with its traceback.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(ROOT)


if __name__ == "__main__":
    sys.exit(main())
