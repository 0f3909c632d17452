"""The box of the tests: runs them against the program in the other box, and reports the outcome to the worker.

Only this box decides whether tests passed. It reports over a pipe that no other box has. It runs the prompt's helpers
and the tests; of the program it receives only plain data and handles.
"""

import ast
import functools
import json
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rewards.sandbox.inside.channel import FRAME_LIMIT, REQUEST_LIMIT, Channel, read_all
from rewards.sandbox.inside.errors import ProgramError, ProgramLost
from rewards.sandbox.inside.kinds import Malformed
from rewards.sandbox.inside.names import Names, find_in_library, sort_names
from rewards.sandbox.inside.remote import ABSENT, Remote
from rewards.sandbox.inside.source import bound_names, helpers, requested_names
from rewards.sandbox.inside.suites import Case, remove_program_imports, uncalled_cases

IMPORTS = (ast.Import, ast.ImportFrom)


class BadTests(Exception):
    """The tests are at fault, whatever the program does: the verdict is grader_error."""


class Tester:
    """Runs the tests and counts how many passed."""

    def __init__(self, job: dict[str, Any], remote: Remote, namespace: dict[str, Any]) -> None:
        self.entry: str = job["entry"]
        self.fraction: bool = job["fraction"]
        self.prompt = helpers(job["prompt"], self.entry)
        self.requested = requested_names(job["prompt"], self.entry)
        try:
            self.tree = ast.parse(job["tests"])
            self.tests = remove_program_imports(self.tree.body)
            self.source: str = job["tests"]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadTests(f"the tests do not compile ({type(error).__name__})") from None
        self.names: Names
        """Names that the tests use and do not define."""
        self.remote = remote
        self.namespace = namespace
        self.passed = 0
        self.total = 0
        self.failure: tuple[str, str] | None = None
        """Status and reason of the first test that failed."""

    def prepare(self) -> None:
        """Run what needs no program: the helpers of the prompt, then the imports at the start of the tests. Bind the
        names that the tests use from the standard library.

        Raises:
            BadTests: one of them raised an exception, or the tests do not compile.
        """
        first = next((i for i, node in enumerate(self.tests) if not _needs_no_program(node)), len(self.tests))
        for node in [*self.prompt, *self.tests[:first]]:
            try:
                self.execute(node)
            except Exception as error:
                raise BadTests(f"a helper of the prompt or an import raised {type(error).__name__}") from None
        self.tests = self.tests[first:]
        try:
            self.names = sort_names(self.source, self.tree, self.entry, self.namespace, self.requested)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadTests(f"the tests do not compile ({type(error).__name__})") from None
        self.namespace |= {name: find_in_library(name, self.tree) for name in self.names.library}
        classes = [node.name for node in [*self.prompt, *self.tests] if isinstance(node, ast.ClassDef)]
        self.remote.value_classes = set(classes)

    def load(self) -> None:
        """Run the program, and bind the names that the tests use and that the program defines."""
        test_names = bound_names(self.tests) | set(self.namespace)
        tested = set(self.names.program)
        if self.entry.isidentifier() and self.entry not in test_names:
            tested.add(self.entry)
        outcome, *rest = self.remote.load(sorted(tested | self.names.classes), self.entry)
        if outcome != "loaded":
            cause = rest[0] if rest and type(rest[0]) is str and rest[0].isidentifier() else "an exception"
            status = {"rejected": "rejected", "failed": "memory" if cause == "MemoryError" else "crash"}[outcome]
            self.failure = (status, f"the program does not load: {cause}")
            return
        try:
            target, exports = rest
            for name, export in exports:
                bound: Any = ABSENT
                if name in tested:
                    bound = self.remote.bind(name, export)
                elif name in self.names.classes:
                    bound = self.remote.bind_class(export)
                if bound is not ABSENT:
                    self.namespace[name] = bound
            if target is not None:
                self.bind_entry(self.remote.codec.decode([target], [])[0][0], test_names)
        except (Malformed, TypeError, ValueError):
            self.remote.fail("malformed")

    def bind_entry(self, target: Any, test_names: set[str]) -> None:
        """Bind the entry point."""
        target = self.remote.trust(target)
        self.remote.entry = target
        for name in {self.entry, "candidate"} - test_names:
            if name.isidentifier():
                self.namespace[name] = target

    def run(self) -> None:
        """Run the tests statement by statement. Each assert is a test, and each case that the tests do not call."""
        asserts = sum(isinstance(node, ast.Assert) for node in self.tests)
        self.total = asserts + len(uncalled_cases(self.tests, self.namespace)) or 1
        for node in self.tests:
            is_test = isinstance(node, ast.Assert)
            if not self.attempt(functools.partial(self.execute, node), is_test) and not (is_test and self.fraction):
                return
        cases = uncalled_cases(self.tests, self.namespace)
        self.total = asserts + len(cases) or 1
        for case in cases:
            if not self.attempt(functools.partial(self.call, case), True) and not self.fraction:
                return
        if not asserts and not cases and self.failure is None:
            self.passed = 1

    def attempt(self, work: Callable[[], None], counts: bool) -> bool:
        """Do one piece of work and record the first failure.

        Args:
            counts: whether it is a test.

        Returns:
            Whether it raised nothing.

        Raises:
            BadTests: the tests are at fault.
            ProgramLost: the program's box has ended or sent a malformed message.
        """
        try:
            work()
        except (BadTests, ProgramLost):
            raise
        except BaseException as error:
            self.failure = self.failure or self.classify(error)
            return False
        self.passed += counts
        return True

    def classify(self, error: BaseException) -> tuple[str, str]:
        """Return status and reason for an exception of a test. Raises BadTests."""
        remote, test = self.remote, f"test {min(self.passed + 1, self.total)} of {self.total}"
        if remote.unsendable:
            raise BadTests(f"the tests pass a value that cannot reach the program ({remote.unsendable})")
        if remote.too_large:
            return "output_limit", f"{test}: {remote.too_large}"
        if isinstance(error, MemoryError):
            return "memory", f"{test}: out of memory"
        if isinstance(error, NameError) and error.name in self.names.undefined:
            raise BadTests(f"the tests use names that nothing defines: {', '.join(sorted(self.names.undefined))}")
        if isinstance(error, NameError) and self.entry and remote.entry is None:
            return "wrong", f"the program does not define {self.entry}"
        if isinstance(error, AssertionError):
            return "wrong", f"{test} failed"
        cause = remote.raised if isinstance(error, ProgramError) else type(error).__name__
        return "wrong", f"{test} raised {cause if cause.isidentifier() else 'an exception'}"

    def call(self, case: Case) -> None:
        """Call a case. Raises NameError if it needs an entry point that the program does not define."""
        if case.takes_candidate:
            if self.remote.entry is None:
                raise NameError(self.entry)
            case.run(self.remote.entry)
        else:
            case.run()

    def execute(self, node: ast.stmt) -> None:
        exec(compile(ast.Module([node], []), "<tests>", "exec"), self.namespace)

    def verdict(self) -> dict[str, Any]:
        """Return the report for the worker. Raises BadTests."""
        remote = self.remote
        if remote.unsendable and self.failure is None:
            raise BadTests(f"the tests pass a value that cannot reach the program ({remote.unsendable})")
        if self.failure is None and remote.uses == 0 and not remote.plain_names:
            raise BadTests("the tests never use the program")
        status, reason = self.failure or ("correct", "")
        return {"status": status, "reason": reason, "passed": self.passed, "total": self.total}


def _needs_no_program(node: ast.stmt) -> bool:
    return isinstance(node, IMPORTS) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    """Run the tests and report. The descriptors are the job, the report, the replies and the requests."""
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
