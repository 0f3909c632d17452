"""Run programs that read standard input, once per test, and compare their standard output in the worker."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rewards.programs.boxes import Deadline, Exchange, close, open_descriptors, zygote
from rewards.programs.outcome import REPORT_LIMIT, START_TIMEOUT_S, cpu_seconds_of, explain_end, limits, scored
from rewards.programs.outputs import COMPARISONS
from rewards.programs.problem import TOTAL_TIMEOUT_S, StdioProblem
from rewards.sandbox.box import Box, BoxFailed, Exit
from rewards.sandbox.inside.program import OUT_OF_MEMORY
from rewards.verdict import Status, Verdict

OUTPUT_LIMIT = 4 * 2**20
"""Maximum bytes of standard output; or ten times the length of the expected output, if that is more."""


def run_stdio_tests(problem: StdioProblem, texts: list[str]) -> Verdict:
    """Run the tests one after the other. Unless the reward is a fraction, stop at the first that fails.

    Raises:
        BoxFailed: a box could not be made.
    """
    total = len(problem.tests)
    end = time.monotonic() + min(problem.timeout_s * total, TOTAL_TIMEOUT_S)
    passed = 0
    first_failure: tuple[Status, str] | None = None
    runner = Runner(texts, COMPARISONS[problem.compare])
    try:
        for number, (given, expected) in enumerate(problem.tests, 1):
            seconds = min(problem.timeout_s, end + runner.extension - time.monotonic())
            failure: tuple[Status, str] | None = ("timeout", "no time left")
            if seconds > 0:
                failure = runner.run(given, expected, seconds)
            passed += failure is None
            if failure is not None:
                first_failure = first_failure or (failure[0], f"test {number} of {total}: {failure[1]}")
                if not problem.fraction:
                    break
    finally:
        runner.close()
    status, reason = first_failure or ("correct", "")
    verdict = scored(status, reason, passed, total, problem.fraction)
    return replace(verdict, cpu_seconds=runner.cpu_seconds)


class Runner:
    """Runs a program once per test in one box. A new box replaces it after a test that ended or killed it.

    Args:
        texts: texts that may be the program, best first.
        same: whether an output is as expected.
    """

    def __init__(self, texts: list[str], same: Callable[[bytes, bytes], bool]) -> None:
        self.job = json.dumps({"texts": texts}).encode()
        self.same = same
        self.box: Box | None = None
        self.control: socket.socket | None = None
        self.extension = 0.0
        """Seconds added to the deadlines of all tests so far, because the box waited for a processor."""
        self.cpu_seconds = 0.0

    def run(self, given: str, expected: str, seconds: float) -> tuple[Status, str] | None:
        """Run one test.

        Args:
            given: the standard input.
            expected: the expected standard output.
            seconds: the timeout.

        Returns:
            None if the program exits with code 0 and its output is as expected. Otherwise status and reason.
        """
        if self.control is None or self.box is None:
            self.open(seconds)
        assert self.control is not None and self.box is not None
        limit = max(OUTPUT_LIMIT, 10 * len(expected))
        with open_descriptors() as opened:
            (stdin, stdin_write), (output, stdout) = os.pipe(), os.pipe()
            opened += [stdin, stdin_write, output, stdout]
            socket.send_fds(self.control, [b"run"], [stdin, stdout])
            close(opened, [stdin, stdout])
            exchange = Exchange()
            exchange.write(stdin_write, given.encode(errors="surrogateescape"))
            exchange.read(output)
            exchange.watched.add(self.control.fileno())
            deadline = Deadline(seconds, [self.box])
            while (left := deadline.left()) > 0 and len(exchange.reads[output]) <= limit:
                ready = exchange.step(left)
                close(opened, [done for done in exchange.writes if done in exchange.ended and done in opened])
                if self.control.fileno() in ready:
                    self.extension += deadline.extension
                    message = self.control.recv(REPORT_LIMIT)
                    if not message:
                        ended = self.box.wait(START_TIMEOUT_S)
                        self.close()
                        return explain_end(ended, "the box of the program", seconds)
                    drained = exchange.drain(output, limit)
                    return self.classify(json.loads(message), drained, expected, limit, seconds)
            self.extension += deadline.extension
            self.close()
            if len(exchange.reads[output]) > limit:
                return "output_limit", f"wrote more than {limit} bytes"
            return "timeout", f"did not end within {seconds:.3g} s"

    def classify(
        self, ended: dict[str, Any], output: bytearray, expected: str, limit: int, seconds: float
    ) -> tuple[Status, str] | None:
        """Return status and reason for a program that has ended, or None if it passes the test."""
        if len(output) > limit:
            return "output_limit", f"wrote more than {limit} bytes"
        if ended["code"] == OUT_OF_MEMORY:
            return "memory", "out of memory"
        if ended["signal"] or ended["code"]:
            return explain_end(Exit(**ended), "the program", seconds)
        if self.same(bytes(output), expected.encode(errors="surrogateescape")):
            return None
        return "wrong", "the output differs"

    def open(self, seconds: float) -> None:
        """Start the box, with processor time for tests of `seconds`, and send it the program. Raises BoxFailed."""
        control, box_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with open_descriptors() as opened, box_end:
            job_read, job = os.pipe()
            opened += [job_read, job]
            try:
                self.box = zygote().start("program", [job_read, box_end.fileno()], limits(seconds))
            except BaseException:
                control.close()
                raise
            self.control = control
            close(opened, [job_read])
            exchange = Exchange()
            exchange.write(job, self.job)
            deadline = Deadline(START_TIMEOUT_S, [self.box])
            while job not in exchange.ended:
                if deadline.left() <= 0:
                    raise BoxFailed(f"the box of the program did not start within {START_TIMEOUT_S:g} s")
                exchange.step(deadline.left())

    def close(self) -> None:
        """Kill the box, if there is one, and add up its processor time."""
        if self.control is not None:
            self.control.close()
        if self.box is not None:
            self.box.kill()
            self.cpu_seconds += cpu_seconds_of(self.box)
        self.box = self.control = None
