"""Reads code as a tree: which statements of a prompt help, what a text defines, and which reading of a response is the
program. Runs only in boxes: parsing hostile text can take the parser's process with it."""

import ast
import builtins
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

HELPFUL = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NoProgram(Exception):
    """None of the readings is a program: the name of what the best one raised, and whether it is beyond the parser."""

    def __init__(self, cause: str, beyond: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.beyond = beyond


@dataclass(frozen=True)
class Program:
    """What is run one after the other in one namespace."""

    parts: tuple[ast.Module, ...]


def parsed_prompt(prompt: str) -> list[ast.stmt]:
    """Its statements; a last header without a body gets one. Nothing for prose."""
    for text in (prompt, prompt.rstrip() + "\n" + body_indent(prompt) + "pass\n"):
        try:
            return ast.parse(text).body
        except (SyntaxError, ValueError):
            continue
    return []


def helpers(prompt: str, entry: str) -> list[ast.stmt]:
    """Statements of the prompt that programs and tests rely on: not what the program is to write, nor prose."""
    return [node for node in parsed_prompt(prompt) if isinstance(node, HELPFUL) and not _is_asked_for(node, entry)]


def bound_names(statements: Sequence[ast.stmt]) -> set[str]:
    """Names that statements at the top of a module bind, also under if, try, with and loops."""
    return set(_bound(statements))


def loaded_names(statements: Sequence[ast.stmt]) -> set[str]:
    """Names read anywhere in them."""
    nodes = (node for statement in statements for node in ast.walk(statement))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def choose(readings: Sequence[str], prompt: str, entry: str, names: Collection[str]) -> Program:
    """The first reading that is a program: it defines one of the names, or continues the prompt. Raises NoProgram."""
    failure: Exception | None = None
    fallback: Program | None = None
    prelude = ast.Module(helpers(prompt, entry), [])
    for place, reading in enumerate(readings):
        try:
            tree = ast.parse(textwrap.dedent(reading))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            failure = failure or error
        else:
            if not names or defines(tree.body, names):
                return Program((prelude, _completed(tree, prelude, readings[place + 1 :])))
            fallback = fallback or Program((prelude, tree))
        continued = _continued(prompt, reading, names)
        if continued is not None:
            return Program((continued,))
    if fallback is not None:
        return fallback
    beyond = isinstance(failure, MemoryError | RecursionError)
    raise NoProgram(type(failure).__name__ if failure else "nothing", beyond)


def defines(statements: Sequence[ast.stmt], names: Collection[str]) -> bool:
    """Whether they bind one of the names at the top, or as a method of a class there."""
    if bound_names(statements) & set(names):
        return True
    classes = [node for node in statements if isinstance(node, ast.ClassDef)]
    return any(bound_names(node.body) & set(names) for node in classes)


def body_indent(prompt: str) -> str:
    """White space before the line that would come next in a function the prompt leaves open."""
    lines = [line for line in prompt.splitlines() if line.strip()]
    if not lines:
        return ""
    indent = lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())]
    return indent + "    " if lines[-1].rstrip().endswith(":") else indent or "    "


def is_stub(node: Definition) -> bool:
    """Whether a function has no body to speak of, or a class only such functions."""
    body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if isinstance(node, ast.ClassDef):
        inner = [n for n in body if isinstance(n, Definition)]
        return bool(inner) and len(inner) == len(body) and all(map(is_stub, inner))
    return all(isinstance(n, ast.Pass) or _not_implemented(n) for n in body)


def _not_implemented(node: ast.stmt) -> bool:
    return isinstance(node, ast.Raise) and "NotImplementedError" in loaded_names([node])


def _is_asked_for(node: ast.stmt, entry: str) -> bool:
    if not isinstance(node, Definition):
        return False
    name = entry.replace("()", "").split(".")[-1]
    owner = isinstance(node, ast.ClassDef) and name in bound_names(node.body)
    return node.name in (name, entry) or owner or is_stub(node)


def _completed(tree: ast.Module, prelude: ast.Module, later: Sequence[str]) -> ast.Module:
    """The tree, or the later and longer reading that contains it and defines names which it lacks."""
    have = _stored_names(tree) | bound_names(prelude.body) | set(dir(builtins))
    missing = loaded_names(tree.body) - have
    for reading in later[:1] if missing else ():
        try:
            longer = ast.parse(textwrap.dedent(reading))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        same_end = [ast.dump(node) for node in longer.body[-len(tree.body) :]] == [ast.dump(n) for n in tree.body]
        if same_end and bound_names(longer.body) & missing:
            return longer
    return tree


def _stored_names(tree: ast.Module) -> set[str]:
    """Names bound anywhere in it, in functions too."""
    found = bound_names(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, Definition | ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= bound_names([node])
    return found


def _continued(prompt: str, reading: str, names: Collection[str]) -> ast.Module | None:
    """Prompt and reading as one text, if that defines one of the names with a body."""
    if not prompt.strip():
        return None
    prompt_lines = prompt.rstrip().count("\n") + 1
    for text in dict.fromkeys(_continuations(prompt, reading)):
        try:
            tree = ast.parse(text)
            compile(tree, "<program>", "exec")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        found = [node for node in ast.walk(tree) if isinstance(node, Definition) and node.name in names]
        if any((node.end_lineno or 0) > prompt_lines and not is_stub(node) for node in found):
            return tree
    return None


def _continuations(prompt: str, reading: str) -> Iterator[str]:
    start = prompt if prompt.endswith("\n") else prompt + "\n"
    indent = body_indent(prompt)
    yield prompt + reading
    yield start + reading
    yield start + indent + reading.lstrip()
    yield start + textwrap.indent(textwrap.dedent(reading), indent)


def _bound(statements: Sequence[ast.stmt]) -> Iterator[str]:
    for node in statements:
        if isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        else:
            inner = (child for child in ast.walk(node) if isinstance(child, ast.Name))
            yield from (name.id for name in inner if isinstance(name.ctx, ast.Store))
            for field in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)
