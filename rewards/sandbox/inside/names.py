"""Sort the names that tests use and do not define: names of the program, of the standard library, and undefined ones.

The program supplies only what is under test. Any other name with which a test could compare a result, such as
`isclose`, comes from the standard library or is undefined, so that a program cannot supply its own comparison.
"""

import ast
import builtins
import contextlib
import importlib
import symtable
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

PROGRAM_MODULE = "solution"
"""Name of the module from which tests may import the program."""
MODULE_NAMES = """
math cmath statistics collections itertools functools operator fractions decimal datetime string re heapq bisect random
json copy typing numpy sys os io time types inspect asyncio unittest dataclasses enum textwrap
"""
MODULES = frozenset(MODULE_NAMES.split())
"""Modules that tests may use without importing them."""
ALIASES = {"np": "numpy"}
OWNER_NAMES = """
math collections itertools functools fractions decimal datetime typing statistics string copy heapq bisect
"""
OWNERS = tuple(OWNER_NAMES.split())
"""Modules whose public names tests may use without importing them. The first that has a name supplies it."""


@dataclass(frozen=True)
class Names:
    """The names that tests use and do not define."""

    program: frozenset[str]
    """What is under test: any value."""
    classes: frozenset[str]
    """Classes of the program, of which the tests make arguments, and its exceptions."""
    library: frozenset[str]
    undefined: frozenset[str]


def sort_names(
    source: str, tree: ast.Module, entry: str, bound: Collection[str], requested: Collection[str] = ()
) -> Names:
    """Sort the names that tests use and do not define.

    The program's names are the entry point, those that the prompt requests, and those imported from `solution`. If the
    tests use none of these, they are the functions that the tests call without a call of another such function among
    the arguments: `f` in `assert same(f(3), 5)`.

    Args:
        source: the tests.
        tree: the tests, parsed.
        entry: the entry point, or "".
        bound: names that are defined before the tests, as by the prompt.
        requested: names that the prompt leaves to the program.

    Raises:
        SyntaxError, RecursionError, MemoryError: the tests do not compile.
    """
    declared, everything = _declared(tree)
    used, own = _used_and_bound(source)
    missing = (used - own | declared) - set(bound)
    missing = {name for name in missing if not (name.startswith("__") and name.endswith("__"))}
    free = {name for name in missing if not hasattr(builtins, name)}
    program = {entry.replace("()", "").split(".")[0], *requested} & missing
    library = {name for name in free - program if find_in_library(name, tree) is not None}
    if everything:
        program |= free - library
    elif declared:
        program |= (declared & missing) - library or declared & missing
    elif not program and not any(isinstance(node, ast.arg) and node.arg == "candidate" for node in ast.walk(tree)):
        program = _tested(tree, free, library, missing - free)
    rest = free - program - library
    classes = {name for name in rest if name[:1].isupper()}
    classes -= _asserted(tree) if classes else set()
    return Names(*map(frozenset, (program, classes, library - program, rest - classes)))


def find_in_library(name: str, tree: ast.Module) -> Any:
    """Return the module or object of the standard library (or numpy) that a name of the tests means, or None.

    `datetime` is the class where the tests call it or use an attribute that only the class has, else the module. A
    function counts only if the tests call it: `count` in `assert count == 0` is not that of itertools.
    """
    module: Any = None
    if ALIASES.get(name, name) in MODULES:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(ALIASES.get(name, name))
    called = any(isinstance(node, ast.Call) and _is_name(node.func, name) for node in ast.walk(tree))
    if module is not None:
        held = getattr(module, name, None)
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_name(node.value, name)]
        of_held = any(hasattr(held, node.attr) and not hasattr(module, node.attr) for node in attributes)
        return held if held is not None and (called or of_held) else module
    for owner in OWNERS if not name.startswith("_") else ():
        held = getattr(importlib.import_module(owner), name, None)
        meant = called or name[:1].isupper() or not callable(held)
        if held is not None and meant and not isinstance(held, ModuleType):
            return held
    return None


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _declared(tree: ast.Module) -> tuple[set[str], bool]:
    """Return the names that the tests import from the program, and whether they import all of its names."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == PROGRAM_MODULE]
    names = {alias.name for node in imports for alias in node.names}
    return names - {"*"}, "*" in names


def _used_and_bound(source: str) -> tuple[set[str], set[str]]:
    """Return the global names that the source reads, in any scope, and those that it binds."""
    used, bound = set(), set()
    top = symtable.symtable(source, "tests", "exec")
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table is top or symbol.is_global():
                used |= {symbol.get_name()} if symbol.is_referenced() else set()
                bound |= {symbol.get_name()} if symbol.is_assigned() or symbol.is_imported() else set()
    return used, bound


def _tested(tree: ast.Module, free: set[str], library: set[str], built_in: set[str]) -> set[str]:
    """Return the names under test if the tests have no entry point: functions, else classes, else functions with a name
    of the library, else one function with the name of a built-in one."""
    own, objects = free - library, {name for name in library if name not in MODULES and name not in ALIASES}
    functions = {name for name in own if not name[:1].isupper()}
    for names in (functions, own, objects, built_in):
        found = _innermost(tree, names)
        if found and (names is not built_in or len(found) == 1):
            return found
    return functions if len(functions) == 1 else set()


def _innermost(tree: ast.Module, names: set[str]) -> set[str]:
    """Return the names that are called somewhere without a call of another name among the arguments, and the names that
    are arguments of these calls."""
    found: set[str] = set()
    for call in _calls(tree, names):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        if not any(_root(inner) != _root(call) for argument in arguments for inner in _calls(argument, names)):
            found |= {_root(call)} | {argument.id for argument in arguments if isinstance(argument, ast.Name)} & names
    return found


def _calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _root(node) in names)


def _root(node: ast.expr) -> str:
    """Return the name with which a chain of calls, attributes and subscripts begins, or ""."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        else:
            return ""
    return node.id


def _asserted(tree: ast.Module) -> set[str]:
    """Return the names that decide assertions: those in them, but not among the arguments of calls.

    Example: `Same` and `RED` in `assert Same(f(3), 5) and f(Blue) == RED`
    """
    found: set[str] = set()
    nodes: list[ast.AST] = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
        nodes += [node.func] if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return found
