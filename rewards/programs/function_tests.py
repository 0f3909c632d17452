"""Run function tests: the tests in one box, the program in another, connected by two pipes that carry plain data."""

import json
import os
from dataclasses import replace

from rewards.programs.boxes import Deadline, Exchange, close, open_descriptors, zygote
from rewards.programs.outcome import REPORT_LIMIT, START_TIMEOUT_S, cpu_seconds_of, explain_end, limits, scored
from rewards.programs.problem import AssertProblem
from rewards.sandbox.box import Box, BoxFailed
from rewards.verdict import Status, Verdict, grader_error, wrong

REPORTED_STATUSES: tuple[Status, ...] = ("correct", "wrong", "timeout", "memory", "output_limit", "crash", "rejected")


def run_function_tests(problem: AssertProblem, texts: list[str]) -> Verdict:
    """Run the program on the tests and return the verdict. Only the box of the tests reports to the worker.

    Raises:
        BoxFailed: a box could not be made, or the tests were not ready in time.
    """
    common = {"prompt": problem.prompt, "entry": problem.entry_point}
    program = {**common, "texts": texts, "names": sorted(problem.names)}
    tests = {**common, "tests": problem.tests, "fraction": problem.fraction}
    with open_descriptors() as opened:
        pipes = [os.pipe() for _ in range(5)]
        opened += [descriptor for pair in pipes for descriptor in pair]
        (job_read, job), (tests_read, tests_job), (report, report_write), (requests, request), (replies, reply) = pipes
        boxes: list[Box] = []
        try:
            boxes.append(zygote().start("candidate", [job_read, requests, reply], limits(problem.timeout_s)))
            boxes.append(
                zygote().start("tester", [tests_read, report_write, replies, request], limits(problem.timeout_s))
            )
            close(opened, [job_read, requests, reply, tests_read, report_write, replies, request])
            exchange = Exchange()
            exchange.write(job, json.dumps(program).encode())
            exchange.write(tests_job, json.dumps(tests).encode())
            exchange.read(report)
            verdict = _await_report(problem, boxes, exchange, opened, report)
        finally:
            for box in boxes:
                box.kill()
        return replace(verdict, cpu_seconds=sum(map(cpu_seconds_of, boxes)))


def _await_report(
    problem: AssertProblem, boxes: list[Box], exchange: Exchange, opened: list[int], report: int
) -> Verdict:
    """Wait for the two lines of the report: that the tests are ready, when their deadline starts, and the outcome."""
    deadline = Deadline(START_TIMEOUT_S, boxes)
    ready = False
    while (left := deadline.left()) > 0 and report not in exchange.ended:
        exchange.step(left)
        close(opened, [done for done in exchange.writes if done in exchange.ended and done in opened])
        lines = bytes(exchange.reads[report]).split(b"\n")
        if len(lines) > 2 or len(lines[0]) > REPORT_LIMIT or (len(lines) == 2 and not _is_start(lines[0])):
            return _read_report(lines[-2], problem, boxes[0])
        if len(lines) == 2 and not ready:
            ready = True
            deadline = Deadline(problem.timeout_s, boxes)
    if report not in exchange.ended:
        if not ready:
            raise BoxFailed(f"the tests were not ready within {START_TIMEOUT_S:g} s")
        return wrong(f"no result within {problem.timeout_s:g} s", "timeout")
    ended = boxes[1].wait(START_TIMEOUT_S)
    if not ready:
        raise BoxFailed("the box of the tests ended before they ran")
    status, reason = explain_end(ended, "the tests", problem.timeout_s)
    return wrong(reason, status)


def _is_start(line: bytes) -> bool:
    return line == b'{"started": true}'


def _read_report(line: bytes, problem: AssertProblem, program: Box) -> Verdict:
    """Return the verdict for the second line of the report."""
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
            return wrong("the program sent a malformed message to its tests", "crash")
        status, reason = explain_end(program.wait(START_TIMEOUT_S), "the program", problem.timeout_s)
    if status not in REPORTED_STATUSES:
        return wrong("the tests' report is malformed", "crash")
    return scored(status, reason, passed, total, problem.fraction)
