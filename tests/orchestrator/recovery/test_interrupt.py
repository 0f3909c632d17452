"""SIGTERM as Ctrl-C."""

import signal
import subprocess
import sys
from functools import partial

import pytest

from breadth import ROOT

PROGRAM = """
import asyncio, sys
from orchestrator.recovery.interrupt import interrupt_at_sigterm

async def run():
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
    finally:
        print("what was started is ended")

interrupt_at_sigterm()
try:
    asyncio.run(run())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("at_sigint", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_ends_what_is_awaited_and_raises_keyboard_interrupt(at_sigint: signal.Handlers) -> None:
    # A shell that runs a script has its background processes ignore SIGINT.
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, at_sigint),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0].splitlines() == ["what was started is ended", "interrupted"]
