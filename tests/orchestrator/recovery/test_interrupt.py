"""SIGTERM as Ctrl-C."""

import signal
import subprocess
import sys

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


def test_sigterm_ends_what_is_awaited_and_raises_keyboard_interrupt() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0].splitlines() == ["what was started is ended", "interrupted"]
