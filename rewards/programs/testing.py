"""The code verifier: a program is correct if it passes the problem's tests, run in boxes it cannot look out of.

Function tests run in a box of their own and reach the program's box only through plain data; standard output is
compared here. So nothing the program can do makes a verdict, and no expected value is where the program is.
"""

import json
import math
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rewards.programs.boxes import Clock, Exchange, close, drop_zygote, pipes, zygote
from rewards.programs.extraction import SOURCE_LIMIT, readings
from rewards.programs.problem import TOTAL_TIMEOUT_S, AssertProblem, StdioProblem, parse
from rewards.sandbox.box import Box, BoxFailed, Exit, Limits
from rewards.verdict import Status, Verdict, grader_error, wrong

START_TIMEOUT_S = 10.0
"""For the boxes to be ready once they are made; the program does not run yet."""
TRIES = 2
REPORT_LIMIT = 65_536
OUTPUT_LIMIT = 4 * 2**20
"""Bytes of standard output; ten times the expected output where that is more."""
MEMORY_BYTES = 2**30
OUT_OF_MEMORY = 137
REPORTED: tuple[Status, ...] = ("correct", "wrong", "timeout", "memory", "output_limit", "crash", "rejected")


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Correct if the program in a response passes all tests of `problem`; see `code_problem.py` for its fields.

    A fault of the row or of the isolation is a grader_error.
    """
    try:
        parsed = parse(problem)
    except ValueError as error:
        return grader_error(str(error))
    names = parsed.names if isinstance(parsed, AssertProblem) else frozenset()
    found = readings(answer, names)
    if not found:
        return wrong("no program", "no_answer")
    if len(found[0]) > SOURCE_LIMIT:
        return wrong(f"the program is longer than {SOURCE_LIMIT} characters", "rejected")
    found = [text for text in found if len(text) <= SOURCE_LIMIT]
    started = time.perf_counter()
    for _ in range(TRIES):
        try:
            level = zygote().level
            verdict = (
                _function_tests(parsed, found) if isinstance(parsed, AssertProblem) else _stdio_tests(parsed, found)
            )
            return replace(verdict, seconds=time.perf_counter() - started, isolation=level)
        except (BoxFailed, ConnectionError) as failure:  # perhaps the fork server died: another one tries again
            drop_zygote()
            reason = f"no box: {failure}"
    return grader_error(reason)


def prepare() -> None:
    """Make the fork server ahead of the first answer. Raises BoxFailed."""
    zygote()


def _limits(seconds: float) -> Limits:
    return Limits(memory_bytes=MEMORY_BYTES, cpu_seconds=math.ceil(seconds) + 1)


def _function_tests(problem: AssertProblem, found: list[str]) -> Verdict:
    """Run tests and program in two boxes that are joined by two pipes; only the tests' box reports here."""
    shared = {"prompt": problem.prompt, "entry": problem.entry_point}
    program = {**shared, "readings": found, "names": sorted(problem.names)}
    tests = {**shared, "tests": problem.tests, "fraction": problem.fraction}
    with pipes() as held:
        made = [os.pipe() for _ in range(5)]
        held += [descriptor for pair in made for descriptor in pair]
        (jobs_in, jobs), (tests_in, tests_job), (report, report_in), (asked, ask), (answered, reply) = made
        boxes: list[Box] = []
        try:
            boxes.append(zygote().start("candidate", [jobs_in, asked, reply], _limits(problem.timeout_s)))
            boxes.append(zygote().start("tester", [tests_in, report_in, answered, ask], _limits(problem.timeout_s)))
            close(held, [jobs_in, asked, reply, tests_in, report_in, answered, ask])
            exchange = Exchange()
            exchange.write(jobs, json.dumps(program).encode())
            exchange.write(tests_job, json.dumps(tests).encode())
            exchange.read(report)
            verdict = _watch(problem, boxes, exchange, held, report)
        finally:
            for box in boxes:
                box.kill()
        return replace(verdict, cpu_seconds=sum(map(_spent, boxes)))


def _spent(box: Box) -> float:
    """Processor seconds of a box that has ended."""
    ended = box.ended()
    return ended.cpu_seconds if ended else 0.0


def _watch(problem: AssertProblem, boxes: list[Box], exchange: Exchange, held: list[int], report: int) -> Verdict:
    """Wait for the report: first that the tests are ready, from when the clock runs, then what came out."""
    clock = Clock(START_TIMEOUT_S, boxes)
    ready = False
    while (left := clock.left()) > 0 and report not in exchange.ended:
        exchange.step(left)
        close(held, [done for done in exchange.writes if done in exchange.ended and done in held])
        lines = bytes(exchange.reads[report]).split(b"\n")
        if len(lines) > 2 or len(lines[0]) > REPORT_LIMIT or (len(lines) == 2 and not _is_start(lines[0])):
            return _reported(lines[-2], problem, boxes[0])
        if len(lines) == 2 and not ready:
            ready = True
            clock = Clock(problem.timeout_s, boxes)
    if report not in exchange.ended:
        if not ready:
            raise BoxFailed(f"the tests were not ready within {START_TIMEOUT_S:g} s")
        return wrong(f"no result within {problem.timeout_s:g} s", "timeout")
    ended = boxes[1].wait(START_TIMEOUT_S)
    if not ready:
        raise BoxFailed("the box of the tests ended before they ran")
    status, reason = _cause_of_death(ended, "the tests", problem.timeout_s)
    return wrong(reason, status)


def _is_start(line: bytes) -> bool:
    return line == b'{"started": true}'


def _reported(line: bytes, problem: AssertProblem, program: Box) -> Verdict:
    """The verdict of the tests' report."""
    try:
        report = json.loads(line)
        status, reason = report.get("status"), str(report.get("reason", ""))
        passed, total = int(report.get("passed", 0)), int(report.get("total", 0))
    except (ValueError, TypeError, AttributeError):
        return wrong("the tests' report is malformed", "crash")
    if status == "grader_error":
        return grader_error(reason)
    if status is None:
        if report.get("lost") != "closed":
            return wrong("the program broke the connection to its tests", "crash")
        status, reason = _cause_of_death(program.wait(START_TIMEOUT_S), "the program", problem.timeout_s)
    if status not in REPORTED:
        return wrong("the tests' report is malformed", "crash")
    return _scored(status, reason, passed, total, problem.fraction)


def _scored(status: Status, reason: str, passed: int, total: int, fraction: bool) -> Verdict:
    share = passed / total if fraction and total else float(status == "correct")
    return Verdict(reward=share, status=status, reason=reason, tests_passed=passed, tests_total=total)


def _cause_of_death(ended: Exit | None, whose: str, timeout_s: float) -> tuple[Status, str]:
    """What ended a process that nobody here killed."""
    if ended is None:
        return "crash", f"{whose} closed its connection"
    if ended.signal in (signal.SIGKILL, signal.SIGXCPU):
        if ended.cpu_seconds > _limits(timeout_s).cpu_seconds - 1:
            return "timeout", f"{whose} used up its processor time"
        return "memory", f"{whose} was killed at a limit"
    if ended.signal:
        return "crash", f"{whose} died of signal {ended.signal}"
    return "crash", f"{whose} ended with exit code {ended.code}"


def _stdio_tests(problem: StdioProblem, found: list[str]) -> Verdict:
    """Run the tests one after the other; with the reward "all" up to the first that fails."""
    total = len(problem.tests)
    until = time.monotonic() + min(problem.timeout_s * total, TOTAL_TIMEOUT_S)
    passed = 0
    first: tuple[Status, str] | None = None
    runner = Runner(found)
    try:
        for place, (given, expected) in enumerate(problem.tests, 1):
            seconds = min(problem.timeout_s, until + runner.granted - time.monotonic())
            failure: tuple[Status, str] | None = ("timeout", "no time left")
            if seconds > 0:
                failure = runner.run(given, expected, seconds)
            passed += failure is None
            if failure is not None:
                first = first or (failure[0], f"test {place} of {total}: {failure[1]}")
                if not problem.fraction:
                    break
    finally:
        runner.close()
    status, reason = first or ("correct", "")
    verdict = _scored(status, reason, passed, total, problem.fraction)
    return replace(verdict, cpu_seconds=runner.cpu_seconds)


class Runner:
    """A box that runs a program once per test; replaced after a test it did not survive."""

    def __init__(self, found: list[str]) -> None:
        self.job = json.dumps({"readings": found}).encode()
        self.box: Box | None = None
        self.control: socket.socket | None = None
        self.granted = 0.0
        """Seconds given back for starvation, in all tests so far."""
        self.cpu_seconds = 0.0

    def run(self, given: str, expected: str, seconds: float) -> tuple[Status, str] | None:
        """None if the program ends well and writes what is expected, else status and reason."""
        if self.control is None or self.box is None:
            self.open(seconds)
        assert self.control is not None and self.box is not None
        limit = max(OUTPUT_LIMIT, 10 * len(expected))
        with pipes() as held:
            (stdin, feed), (output, stdout) = os.pipe(), os.pipe()
            held += [stdin, feed, output, stdout]
            socket.send_fds(self.control, [b"run"], [stdin, stdout])
            close(held, [stdin, stdout])
            exchange = Exchange()
            exchange.write(feed, given.encode(errors="surrogateescape"))
            exchange.read(output)
            exchange.watched.add(self.control.fileno())
            clock = Clock(seconds, [self.box])
            while (left := clock.left()) > 0 and len(exchange.reads[output]) <= limit:
                ready = exchange.step(left)
                close(held, [done for done in exchange.writes if done in exchange.ended and done in held])
                if self.control.fileno() in ready:
                    self.granted += clock.granted
                    message = self.control.recv(REPORT_LIMIT)
                    if not message:
                        ended = self.box.wait(START_TIMEOUT_S)
                        self.close()
                        return _cause_of_death(ended, "the box of the program", seconds)
                    drained = exchange.drain(output, limit)
                    return self.judge(json.loads(message), drained, expected, limit, seconds)
            self.granted += clock.granted
            self.close()
            if len(exchange.reads[output]) > limit:
                return "output_limit", f"wrote more than {limit} bytes"
            return "timeout", f"did not end within {seconds:.3g} s"

    def judge(
        self, ended: dict[str, Any], output: bytearray, expected: str, limit: int, seconds: float
    ) -> tuple[Status, str] | None:
        if len(output) > limit:
            return "output_limit", f"wrote more than {limit} bytes"
        if ended["code"] == OUT_OF_MEMORY:
            return "memory", "out of memory"
        if ended["signal"] or ended["code"]:
            return _cause_of_death(Exit(**ended), "the program", seconds)
        if same_output(bytes(output), expected.encode(errors="surrogateescape")):
            return None
        return "wrong", "the output differs"

    def open(self, seconds: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with pipes() as held, theirs:
            job_in, job = os.pipe()
            held += [job_in, job]
            try:
                self.box = zygote().start("program", [job_in, theirs.fileno()], _limits(seconds))
            except BaseException:
                ours.close()
                raise
            self.control = ours
            close(held, [job_in])
            exchange = Exchange()
            exchange.write(job, self.job)
            clock = Clock(START_TIMEOUT_S, [self.box])
            while job not in exchange.ended:
                if clock.left() <= 0:
                    raise BoxFailed(f"the box of the program did not start within {START_TIMEOUT_S:g} s")
                exchange.step(clock.left())

    def close(self) -> None:
        if self.control is not None:
            self.control.close()
        if self.box is not None:
            self.box.kill()
            self.cpu_seconds += _spent(self.box)
        self.box = self.control = None


def same_output(output: bytes, expected: bytes) -> bool:
    """Line by line; blanks at the ends of lines and blank lines at the end do not count."""
    return _lines(output) == _lines(expected)


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
