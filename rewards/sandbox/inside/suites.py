"""The cases that tests define and leave to a runner: `check`, test functions and classes, unittest's and pytest's."""

import ast
import functools
import itertools
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PROGRAM_MODULE = "solution"
"""Tests may import what they test from a module of this name."""


@dataclass(frozen=True)
class Case:
    """One thing to call; with the program's entry point if it takes that."""

    run: Callable[..., Any]
    takes_candidate: bool = False


def without_imports(statements: Sequence[ast.stmt]) -> tuple[list[ast.stmt], set[str]]:
    """The statements that do not import from the program, and the names that those others do."""
    kept, names = [], set()
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.module == PROGRAM_MODULE:
            names |= {alias.name for alias in node.names if alias.name != "*"}
            renamed = [alias for alias in node.names if alias.asname not in (None, alias.name)]
            kept += [ast.parse(f"{alias.asname} = {alias.name}").body[0] for alias in renamed]
        else:
            kept.append(node)
    return kept, names


def cases_left(statements: Sequence[ast.stmt], space: dict[str, Any]) -> list[Case]:
    """Cases that the statements define and do not call themselves; before these have run, as many as can be told."""
    calls = [node.func for node in _outside_functions(statements) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    functions = {node.name: node for node in statements if isinstance(node, ast.FunctionDef)}
    if "check" in functions:
        return [] if "check" in called else [Case(space.get("check", _not_yet), takes_candidate=True)]
    found: list[Case] = []
    for name, node in functions.items():
        if name.startswith("test") and name not in called:
            found += _function_cases(space.get(name, _not_yet), {argument.arg for argument in node.args.args})
    for kind in [node for node in statements if isinstance(node, ast.ClassDef)]:
        if any("TestCase" in ast.dump(base) for base in kind.bases):
            found.append(Case(functools.partial(_run_unittest, space.get(kind.name))))
        elif kind.name.startswith("Test") and kind.name not in called:
            found += _class_cases(space.get(kind.name), kind)
    return found


def _function_cases(function: Callable[..., Any], takes: set[str]) -> list[Case]:
    """One case for each combination of values that pytest's marks give; none for a function that needs more."""
    choices = [list(_choices(mark)) for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    cases = []
    for combination in itertools.product(*choices):
        named = {name: value for choice in combination for name, value in choice.items()}
        if takes - named.keys() <= {"candidate"}:
            cases.append(Case(functools.partial(function, **named), "candidate" in takes))
    return cases


def _choices(mark: Any) -> Iterator[dict[str, Any]]:
    names, values = mark.args[:2]
    fields = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for value in values:
        given = getattr(value, "values", None) if type(value).__name__ == "ParameterSet" else None
        row = given if given is not None else (value,) if len(fields) == 1 else value
        yield dict(zip(fields, row, strict=True))


def _class_cases(kind: Any, node: ast.ClassDef) -> list[Case]:
    """Each test method of a class in pytest's manner, on an object of its own."""
    cases = []
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name.startswith("test"):
            function = getattr(kind, method.name, _not_yet)
            takes = {argument.arg for argument in method.args.args[1:]}
            for case in _function_cases(function, takes):
                cases.append(Case(functools.partial(_run_method, kind, case.run), case.takes_candidate))
    return cases


def _run_method(kind: Any, run: Callable[..., Any], *candidate: Any) -> None:
    made = kind()
    if hasattr(made, "setup_method"):
        made.setup_method()
    named = getattr(run, "keywords", {})
    getattr(run, "func", run)(made, *candidate, **named)


def _run_unittest(kind: Any) -> None:
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(outcome)
    assert outcome.testsRun and outcome.wasSuccessful() and not outcome.skipped


def _not_yet(*_: Any) -> None:
    raise NameError("a case was called before it was defined")


def _outside_functions(statements: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    for statement in statements:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from ast.walk(statement)
