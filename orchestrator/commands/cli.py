"""The `breadth` command: parse the command line, run one command, and report the user's errors in one line."""

import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from orchestrator.commands.parser import parse
from orchestrator.recovery.failures import Failure, raised_by_breadth
from orchestrator.recovery.interrupt import interrupt_at_sigterm
from orchestrator.submission.runtime import KEY_VARIABLE, STOP_VARIABLE, receive, watch_for_stop

FIRST = """Breadth trains language models by reinforcement learning with verifiable rewards. To begin:

  breadth compare        train five methods from a small policy on this machine, and compare them (6 minutes on 2 cores)
  breadth show-config    print every setting and what follows from it; --explain KEY prints the meaning of one
  breadth methods        list the methods; breadth methods NAME shows one with its equations
  breadth train policy.path=DIRECTORY task.name=dataset task.options.path=FILE.jsonl name=first
                         train your own policy on your own problems
  breadth --help         list all commands"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for a failure, 2 for wrong settings, 130 when interrupted."""
    status = _run(arguments)
    connection = sys.modules.get("orchestrator.connection")  # only if the command has loaded Ray
    if connection is not None:
        connection.exits_with(status)
    return status


def _run(arguments: Sequence[str] | None) -> int:
    options = parse(arguments)
    console = Console(stderr=True, highlight=False)
    if options.command is None:
        Console(highlight=False).print(FIRST, soft_wrap=True, markup=False)
        return 0
    interrupt_at_sigterm()
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
        if not raised_by_breadth(error):
            raise
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    except Failure as failure:
        lines = [f"breadth: {failure}", *getattr(failure, "__notes__", [])]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
        return 1
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


if __name__ == "__main__":
    sys.exit(main())
