"""The box of the tests: runs them against the program in the other box and reports to the worker what came out.

Only this box says whether tests passed, over a pipe that no other box has. It holds prompt helpers and tests, and of
the program plain data and handles.
"""

import ast
import builtins
import functools
import json
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rewards.sandbox.inside.channel import FRAME_LIMIT, REQUEST_LIMIT, Channel, read_all
from rewards.sandbox.inside.kinds import Malformed
from rewards.sandbox.inside.remote import ABSENT, ProgramError, ProgramLost, Remote
from rewards.sandbox.inside.source import bound_names, helpers, loaded_names
from rewards.sandbox.inside.suites import Case, cases_left, without_imports

PREPARING = (ast.Import, ast.ImportFrom)


class BadTests(Exception):
    """The tests are at fault, whatever the program: the grader's error."""


class Tester:
    """The tests' namespace, how far they came, and what they found."""

    def __init__(self, job: dict[str, Any], remote: Remote, space: dict[str, Any]) -> None:
        self.entry: str = job["entry"]
        self.fraction: bool = job["fraction"]
        self.prompt = helpers(job["prompt"], self.entry)
        try:
            self.tests, self.imported = without_imports(ast.parse(job["tests"]).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadTests(f"the tests do not compile ({type(error).__name__})") from None
        self.remote = remote
        self.space = space
        self.passed = 0
        self.total = 0
        self.failure: tuple[str, str] | None = None
        """Status and reason of the first test that failed."""

    def prepare(self) -> None:
        """Run what needs no program: helpers of the prompt, then the imports at the head of the tests."""
        head = next((i for i, node in enumerate(self.tests) if not _needs_nothing(node)), len(self.tests))
        for node in [*self.prompt, *self.tests[:head]]:
            try:
                self.execute(node)
            except Exception as error:
                raise BadTests(f"a helper of the prompt or an import raised {type(error).__name__}") from None
        self.tests = self.tests[head:]
        classes = [node.name for node in [*self.prompt, *self.tests] if isinstance(node, ast.ClassDef)]
        self.remote.shared_names = set(classes)

    def load(self) -> None:
        """Have the program run, and bind what of it the tests name and nobody else defines."""
        own = bound_names(self.tests) | set(self.space)
        free = {name for name in loaded_names(self.tests) if name not in own and not hasattr(builtins, name)}
        free |= self.imported - own
        if self.entry.isidentifier() and self.entry not in own:
            free.add(self.entry)
        outcome, *rest = self.remote.load(sorted(free), self.entry)
        if outcome != "loaded":
            cause = rest[0] if rest and type(rest[0]) is str and rest[0].isidentifier() else "an exception"
            status = {"rejected": "rejected", "failed": "memory" if cause == "MemoryError" else "crash"}[outcome]
            self.failure = (status, f"the program does not load: {cause}")
            return
        try:
            target, exports = rest
            for name, export in exports:
                bound = self.remote.bind(name, export) if name in free else ABSENT
                if bound is not ABSENT:
                    self.space[name] = bound
            if target is not None:
                self.bind_entry(self.remote.codec.decode([target], [])[0][0], own)
        except (Malformed, TypeError, ValueError):
            self.remote.lose("malformed")

    def bind_entry(self, target: Any, own: set[str]) -> None:
        """The entry point is always the program's own, never lent by a module."""
        self.remote.entry = target
        for name in {self.entry, "candidate"} - own:
            if name.isidentifier():
                self.space[name] = target

    def run(self) -> None:
        """Run statement by statement; each assert counts, and each case that the tests leave to be called."""
        asserts = sum(isinstance(node, ast.Assert) for node in self.tests)
        self.total = asserts + len(cases_left(self.tests, self.space)) or 1
        for node in self.tests:
            is_test = isinstance(node, ast.Assert)
            if not self.attempt(functools.partial(self.execute, node), is_test) and not (is_test and self.fraction):
                return
        cases = cases_left(self.tests, self.space)
        self.total = asserts + len(cases) or 1
        for case in cases:
            if not self.attempt(functools.partial(self.call, case), True) and not self.fraction:
                return
        if not asserts and not cases and self.failure is None:
            self.passed = 1

    def attempt(self, work: Callable[[], None], counts: bool) -> bool:
        """Do one thing, note the first failure. Raises BadTests, ProgramLost."""
        try:
            work()
        except (BadTests, ProgramLost):
            raise
        except BaseException as error:
            self.failure = self.failure or self.judge(error)
            return False
        self.passed += counts
        return True

    def judge(self, error: BaseException) -> tuple[str, str]:
        remote, place = self.remote, f"test {min(self.passed + 1, self.total)} of {self.total}"
        if remote.unsendable:
            raise BadTests(f"the tests pass a value that cannot reach the program ({remote.unsendable})")
        if remote.beyond:
            return "output_limit", f"{place}: {remote.beyond}"
        if isinstance(error, MemoryError):
            return "memory", f"{place}: out of memory"
        if isinstance(error, NameError) and self.entry and remote.entry is None:
            return "wrong", f"the program does not define {self.entry}"
        if isinstance(error, AssertionError):
            return "wrong", f"{place} failed"
        cause = remote.raised if isinstance(error, ProgramError) else type(error).__name__
        return "wrong", f"{place} raised {cause if cause.isidentifier() else 'an exception'}"

    def call(self, case: Case) -> None:
        if case.takes_candidate:
            if self.remote.entry is None:
                raise NameError(self.entry)
            case.run(self.remote.entry)
        else:
            case.run()

    def execute(self, node: ast.stmt) -> None:
        exec(compile(ast.Module([node], []), "<tests>", "exec"), self.space)

    def verdict(self) -> dict[str, Any]:
        remote = self.remote
        if remote.unsendable and self.failure is None:
            raise BadTests(f"the tests pass a value that cannot reach the program ({remote.unsendable})")
        if self.failure is None and remote.uses == 0 and not remote.data:
            raise BadTests("the tests never use the program")
        status, reason = self.failure or ("correct", "")
        return {"status": status, "reason": reason, "passed": self.passed, "total": self.total}


def _needs_nothing(node: ast.stmt) -> bool:
    return isinstance(node, PREPARING) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    confine()
    job_descriptor, report_descriptor, reading, writing = descriptors
    job = read_all(job_descriptor)

    def report(message: dict[str, Any]) -> None:
        os.write(report_descriptor, json.dumps(message).encode() + b"\n")

    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    remote = Remote(Channel(reading, writing, REQUEST_LIMIT, FRAME_LIMIT), vars(module))
    try:
        tester = Tester(job, remote, vars(module))
        tester.prepare()
        report({"started": True})
        tester.load()
        if tester.failure is None:
            tester.run()
        outcome = tester.verdict()
    except BadTests as error:
        outcome = {"status": "grader_error", "reason": str(error)}
    except ProgramLost:
        outcome = {"lost": remote.broken}
    if remote.broken:
        outcome = {"lost": remote.broken}
    report(outcome)
