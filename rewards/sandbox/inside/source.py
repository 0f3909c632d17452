"""Analyse Python source: find the helpers in a prompt, the names that a text defines, and which text of a response is
the program.

Runs only in boxes, because parsing hostile text can crash the parser's process.
"""

import ast
import builtins
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

INTEGER_DIGITS = 50_000
"""Digits of an integer that programs and tests may convert to and from text. Python's own limit is 4,300."""
HELPER_STATEMENTS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NoProgram(Exception):
    """None of the texts is a program."""

    def __init__(self, cause: str, exceeds_parser: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        """Class of the exception that the first text raised."""
        self.exceeds_parser = exceeds_parser
        """Whether the text is too large or nested too deep for the parser."""


@dataclass(frozen=True)
class Program:
    """Modules that are run one after the other in one namespace."""

    parts: tuple[ast.Module, ...]


def parsed_prompt(prompt: str) -> list[ast.stmt]:
    """Return the statements of a prompt, or [] for prose. A header without a body at the end gets `pass`."""
    for text in (prompt, prompt.rstrip() + "\n" + body_indent(prompt) + "pass\n"):
        try:
            return ast.parse(text).body
        except (SyntaxError, ValueError):
            continue
    return []


def helpers(prompt: str, entry: str) -> list[ast.stmt]:
    """Return the statements of the prompt that programs and tests use, without what the program must define."""
    return [
        node for node in parsed_prompt(prompt) if isinstance(node, HELPER_STATEMENTS) and not _is_requested(node, entry)
    ]


def requested_names(prompt: str, entry: str) -> set[str]:
    """Return the names of the functions and classes that the prompt leaves to the program."""
    return bound_names([node for node in parsed_prompt(prompt) if _is_requested(node, entry)])


def bound_names(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that top-level statements bind, also inside if, try, with and loops."""
    return set(_bound(statements))


def loaded_names(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that the statements read anywhere."""
    nodes = (node for statement in statements for node in ast.walk(statement))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def choose_program(texts: Sequence[str], prompt: str, entry: str, names: Collection[str]) -> Program:
    """Return the first text that is a program: it defines one of the names, or continues the prompt.

    If no text is, the first text that parses is the program.

    Args:
        texts: candidate texts, best first.
        prompt: code that the program may continue.
        entry: the entry point, or "".
        names: names of which a program defines at least one; if empty, any text that parses is a program.

    Raises:
        NoProgram: no text parses.
    """
    failure: Exception | None = None
    fallback: Program | None = None
    prelude = ast.Module(helpers(prompt, entry), [])
    for index, text in enumerate(texts):
        try:
            tree = ast.parse(textwrap.dedent(text))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            failure = failure or error
        else:
            if not names or defines(tree.body, names):
                return Program((prelude, _completed(tree, prelude, texts[index + 1 :])))
            fallback = fallback or Program((prelude, tree))
        continued = _continued(prompt, text, names)
        if continued is not None:
            return Program((continued,))
    if fallback is not None:
        return fallback
    exceeds_parser = isinstance(failure, MemoryError | RecursionError)
    raise NoProgram(type(failure).__name__ if failure else "nothing", exceeds_parser)


def defines(statements: Sequence[ast.stmt], names: Collection[str]) -> bool:
    """Return whether the statements bind one of the names at the top level, or as a method of a class there."""
    if bound_names(statements) & set(names):
        return True
    classes = [node for node in statements if isinstance(node, ast.ClassDef)]
    return any(bound_names(node.body) & set(names) for node in classes)


def body_indent(prompt: str) -> str:
    """Return the indentation of the next line of a function that the prompt leaves unfinished."""
    lines = [line for line in prompt.splitlines() if line.strip()]
    if not lines:
        return ""
    indent = lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())]
    return indent + "    " if lines[-1].rstrip().endswith(":") else indent or "    "


def is_stub(node: Definition) -> bool:
    """Return whether a function is a stub (no body but `pass` or NotImplementedError) or a class of stubs."""
    body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if isinstance(node, ast.ClassDef):
        inner = [n for n in body if isinstance(n, Definition)]
        return bool(inner) and len(inner) == len(body) and all(map(is_stub, inner))
    return all(isinstance(n, ast.Pass) or _not_implemented(n) for n in body)


def _not_implemented(node: ast.stmt) -> bool:
    return isinstance(node, ast.Raise) and "NotImplementedError" in loaded_names([node])


def _is_requested(node: ast.stmt, entry: str) -> bool:
    """Return whether the prompt asks the program to define this: it has the entry point's name, or is a stub."""
    if not isinstance(node, Definition):
        return False
    name = entry.replace("()", "").split(".")[-1]
    owner = isinstance(node, ast.ClassDef) and name in bound_names(node.body)
    return node.name in (name, entry) or owner or is_stub(node)


def _completed(tree: ast.Module, prelude: ast.Module, later: Sequence[str]) -> ast.Module:
    """Return the tree, or the next text if it ends with the same statements and defines names that the tree lacks."""
    defined = _stored_names(tree) | bound_names(prelude.body) | set(dir(builtins))
    missing = loaded_names(tree.body) - defined
    for text in later[:1] if missing else ():
        try:
            longer = ast.parse(textwrap.dedent(text))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        same_end = [ast.dump(node) for node in longer.body[-len(tree.body) :]] == [ast.dump(n) for n in tree.body]
        if same_end and bound_names(longer.body) & missing:
            return longer
    return tree


def _stored_names(tree: ast.Module) -> set[str]:
    """Return the names bound anywhere in the tree, also in functions."""
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


def _continued(prompt: str, text: str, names: Collection[str]) -> ast.Module | None:
    """Return prompt and text as one module, if the text gives one of the names a body that is no stub."""
    if not prompt.strip():
        return None
    prompt_lines = prompt.rstrip().count("\n") + 1
    for joined in dict.fromkeys(_continuations(prompt, text)):
        try:
            tree = ast.parse(joined)
            compile(tree, "<program>", "exec")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        found = [node for node in ast.walk(tree) if isinstance(node, Definition) and node.name in names]
        if any((node.end_lineno or 0) > prompt_lines and not is_stub(node) for node in found):
            return tree
    return None


def _continuations(prompt: str, text: str) -> Iterator[str]:
    """Yield prompt and text joined in several ways: as they are, on a new line, and with the indentation of a body."""
    start = prompt if prompt.endswith("\n") else prompt + "\n"
    indent = body_indent(prompt)
    yield prompt + text
    yield start + text
    yield start + indent + text.lstrip()
    yield start + textwrap.indent(textwrap.dedent(text), indent)


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
