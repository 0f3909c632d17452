"""Find the cases that tests define but do not call: `check`, and test functions and classes for pytest and unittest."""

import ast
import functools
import itertools
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.sandbox.inside.names import PROGRAM_MODULE


@dataclass(frozen=True)
class Case:
    """One function to call, with the program's entry point as argument if it takes one."""

    run: Callable[..., Any]
    takes_candidate: bool = False


def remove_program_imports(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Remove imports from the program. An import under another name becomes an assignment."""
    kept = []
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.module == PROGRAM_MODULE:
            renamed = [alias for alias in node.names if alias.asname not in (None, alias.name)]
            kept += [ast.parse(f"{alias.asname} = {alias.name}").body[0] for alias in renamed]
        else:
            kept.append(node)
    return kept


def uncalled_cases(statements: Sequence[ast.stmt], namespace: dict[str, Any]) -> list[Case]:
    """Return the cases that the statements define and do not call.

    Before the statements have run, the result only estimates the number of cases.
    """
    calls = [node.func for node in _nodes_outside_functions(statements) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    functions = {node.name: node for node in statements if isinstance(node, ast.FunctionDef)}
    if "check" in functions:
        return [] if "check" in called else [Case(namespace.get("check", _undefined_case), takes_candidate=True)]
    found: list[Case] = []
    for name, node in functions.items():
        if name.startswith("test") and name not in called:
            found += _function_cases(
                namespace.get(name, _undefined_case), {argument.arg for argument in node.args.args}
            )
    for kind in [node for node in statements if isinstance(node, ast.ClassDef)]:
        if any("TestCase" in ast.dump(base) for base in kind.bases):
            found.append(Case(functools.partial(_run_unittest, namespace.get(kind.name))))
        elif kind.name.startswith("Test") and kind.name not in called:
            found += _class_cases(namespace.get(kind.name), kind)
    return found


def _function_cases(function: Callable[..., Any], takes: set[str]) -> list[Case]:
    """Return one case per combination of pytest parameters; none if the function takes arguments other than these."""
    parameter_sets = [
        list(_parameter_sets(mark)) for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"
    ]
    cases = []
    for combination in itertools.product(*parameter_sets):
        named = {name: value for parameters in combination for name, value in parameters.items()}
        if takes - named.keys() <= {"candidate"}:
            cases.append(Case(functools.partial(function, **named), "candidate" in takes))
    return cases


def _parameter_sets(mark: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments of each parameter set of a `pytest.mark.parametrize`."""
    names, values = mark.args[:2]
    fields = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for value in values:
        given = getattr(value, "values", None) if type(value).__name__ == "ParameterSet" else None
        row = given if given is not None else (value,) if len(fields) == 1 else value
        yield dict(zip(fields, row, strict=True))


def _class_cases(kind: Any, node: ast.ClassDef) -> list[Case]:
    """Return the test methods of a pytest class as cases. Each runs on a new object."""
    cases = []
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name.startswith("test"):
            function = getattr(kind, method.name, _undefined_case)
            takes = {argument.arg for argument in method.args.args[1:]}
            for case in _function_cases(function, takes):
                cases.append(Case(functools.partial(_run_method, kind, case.run), case.takes_candidate))
    return cases


def _run_method(kind: Any, run: Callable[..., Any], *candidate: Any) -> None:
    instance = kind()
    if hasattr(instance, "setup_method"):
        instance.setup_method()
    named = getattr(run, "keywords", {})
    getattr(run, "func", run)(instance, *candidate, **named)


def _run_unittest(kind: Any) -> None:
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(outcome)
    assert outcome.testsRun and outcome.wasSuccessful() and not outcome.skipped


def _undefined_case(*_: Any) -> None:
    raise NameError("a case was called before it was defined")


def _nodes_outside_functions(statements: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    for statement in statements:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from ast.walk(statement)
