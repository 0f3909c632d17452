"""The box of a program under function tests: runs it, and does what the tests in the other box ask of it.

Everything here is at the program's mercy, so nothing here is believed: the tests see plain data and numbers that stand
for objects, and the worker sees nothing of this box but that it ended.
"""

import builtins
import contextlib
import copy
import importlib
import io
import operator
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from types import CoroutineType, GeneratorType, ModuleType
from typing import Any

from rewards.sandbox.inside.channel import FRAME_LIMIT, REQUEST_LIMIT, Channel, read_all
from rewards.sandbox.inside.kinds import TooLarge, Unsendable
from rewards.sandbox.inside.plain import Codec
from rewards.sandbox.inside.source import NoProgram, choose

LENDABLE = """
math cmath statistics collections itertools functools operator fractions decimal datetime string re heapq bisect random
json copy typing numpy
"""
LENT = frozenset(LENDABLE.split())
"""Modules that tests may use because the program imported them; the tests' box imports its own."""
HANDLES_LIMIT = 100_000

OPERATORS = """
lt le gt ge eq add sub mul truediv floordiv mod pow matmul and or xor lshift rshift neg pos abs invert contains getitem
setitem delitem
"""
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(len, iter, next, reversed, bool, str, repr, format, hash, divmod, isinstance, issubclass),
    *(getattr, setattr, delattr, copy.copy, copy.deepcopy),
)
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, f"__{name}__") for name in OPERATORS.split()},
    **{function.__name__: function for function in FUNCTIONS},
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "send": lambda generator, value: generator.send(value),
    "await": lambda coroutine: importlib.import_module("asyncio").run(coroutine),
    "slice": lambda held, start, stop, step: held[start:stop:step],
    "enter": lambda manager: manager.__enter__(),
    "exit": lambda manager: manager.__exit__(None, None, None),
}
KINDS: dict[type, str] = {GeneratorType: "g", CoroutineType: "a"}


class Candidate:
    """The program's namespace, the objects the tests hold numbers of, and the loop that serves them."""

    def __init__(self, job: dict[str, Any], channel: Channel) -> None:
        self.job = job
        self.channel = channel
        self.codec = Codec(self.refer, self.resolve, self.shared, self.blank, self.stays)
        self.module = ModuleType("solution")
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.shared_names: set[str] = set()
        self.wanted: set[str] = set()
        self.stand_ins: dict[str, type] = {}

    def serve(self) -> None:
        """Answer requests until the tests are done."""
        while True:
            self.answer(*self.receive())

    def receive(self) -> tuple[Any, ...]:
        message, length = self.channel.receive()
        self.channel.sends = FRAME_LIMIT + length
        return tuple(message)

    def answer(self, kind: str, number: int, *rest: Any) -> None:
        if kind == "load":
            self.channel.send(["ok", number, *self.load(*rest)])
            return
        operation, encoded, named, table, captures = rest
        values, objects = self.codec.decode([*encoded, *(value for _, value in named)], table)
        arguments = values[: len(encoded)]
        keywords = dict(zip((name for name, _ in named), values[len(encoded) :], strict=True))
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed) if captures else contextlib.nullcontext():
                outcome = ["ok", OPERATIONS[operation](*arguments, **keywords)]
        except StopIteration as stop:
            outcome = ["stop" if operation in ("next", "send") else "raise", stop]
        except BaseException as error:
            outcome = ["raise", error]
        self.reply([*outcome, printed.getvalue() or None], number, encoded, values, objects)

    def reply(self, outcome: list[Any], number: int, encoded: list[Any], values: list[Any], objects: list[Any]) -> None:
        """Send a result with the arguments as they are now; an exception by the names of its classes."""
        kind, value, printed = outcome
        head = []
        try:
            if kind == "stop":
                value = None
            if kind == "raise":
                head = [[f"{c.__module__}.{c.__qualname__}" for c in type(value).__mro__], _text(value)]
                value = [list(value.args), dict(vars(value))]
            parts, table, _ = self.codec.encode([value, *values], objects)
            now = parts[1:]
            changed = now if table or now[: len(encoded)] != encoded or len(now) > len(encoded) else None
            self.channel.send([kind, number, head, parts[0], changed, table, printed])
        except (TooLarge, Unsendable, RecursionError, MemoryError) as error:
            self.channel.send(["beyond", number, type(error).__name__])

    def load(self, wanted: list[str], shared: list[str], entry: str) -> list[Any]:
        """Run the program; what it defines of the wanted names, and its entry point."""
        self.shared_names, self.wanted = set(shared), set(wanted)
        sys.modules["solution"] = self.module
        space = vars(self.module)
        space["__annotations__"] = {}
        try:
            program = choose(self.job["readings"], self.job["prompt"], entry, self.job["names"])
            for part in program.parts:
                exec(compile(part, "<program>", "exec"), space)
        except NoProgram as error:
            return ["rejected" if error.beyond else "failed", error.cause]
        except BaseException as error:
            return ["failed", type(error).__name__]
        found = {name: self.export(name, space[name]) for name in wanted if name in space}
        target = entry_value(space, entry) if entry else None
        return ["loaded", None if target is None else self.refer(target), sorted(found.items())]

    def export(self, name: str, value: Any) -> Any:
        """A name for the tests: plain data, the number of an object, or where to import it from."""
        if isinstance(value, ModuleType):
            return ["import", value.__name__, None] if value.__name__.split(".")[0] in LENT else None
        home: Any = getattr(value, "__module__", None)
        last: Any = getattr(value, "__name__", None)
        lent = isinstance(home, str) and isinstance(last, str) and home.split(".")[0].lstrip("_") in LENT
        for module in sorted(LENT & set(sys.modules)) if lent else ():
            if getattr(sys.modules[module], last, None) is value:
                return ["import", module, last]
        try:
            [encoded], table, _ = self.codec.encode([value])
        except (TooLarge, Unsendable, RecursionError):
            return None
        return ["value", encoded, table]

    def refer(self, value: Any) -> list[Any]:
        if is_builtin(value):
            return ["y", value.__name__]
        if isinstance(value, Enum) and type(value).__name__ in self.shared_names:
            return ["E", type(value).__name__, value.name]
        number = self.numbers.get(id(value))
        if number is None:
            if len(self.kept) >= HANDLES_LIMIT:
                raise TooLarge("objects")
            number = self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        kind = KINDS.get(type(value)) or ("f" if callable(value) else "v")
        if isinstance(value, type):
            bases = [f"{base.__module__}.{base.__qualname__}" for base in value.__mro__]
            return ["h", number, "x" if issubclass(value, BaseException) else "c", value.__name__, bases]
        return ["h", number, kind, type(value).__name__, []]

    def resolve(self, tag: str, parts: list[Any]) -> Any:
        """Objects of ours that come back, the tests' callables and iterators, types by name."""
        if tag == "h":
            return self.kept[parts[0]]
        if tag == "y":
            return getattr(builtins, parts[0])
        if tag == "E":
            return vars(self.module)[parts[0]][parts[1]]
        number, kind, name = parts
        if kind == "iterator":
            return self.remote_iterator(number)

        def remote(*arguments: Any, **named: Any) -> Any:
            return self.call_back(number, arguments, named)

        remote.__name__ = remote.__qualname__ = name
        return remote

    def remote_iterator(self, number: int) -> Iterator[Any]:
        while (outcome := self.call_back(number, (), {}, iterate=True)) is not Candidate:
            yield outcome

    def call_back(self, number: int, arguments: tuple[Any, ...], named: dict[str, Any], iterate: bool = False) -> Any:
        """Call a function of the tests while they wait for one of ours."""
        encoded, table, _ = self.codec.encode([*arguments, *named.values()])
        keywords = [[name, value] for name, value in zip(named, encoded[len(arguments) :], strict=True)]
        self.channel.send(["callback", number, encoded[: len(arguments)], keywords, table])
        while True:
            kind, answered, *rest = self.receive()
            if kind != "returned":
                self.answer(kind, answered, *rest)
                continue
            outcome, value, table = rest
            if outcome == "stop" and iterate:
                return Candidate
            if outcome != "ok":
                raise getattr(builtins, outcome, RuntimeError)("raised by a function of the caller")
            [[result], _] = self.codec.decode([value], table)
            return result

    def shared(self, value: Any) -> bool:
        kind = type(value)
        return kind.__name__ in self.shared_names and makeable(kind)

    def stays(self, value: Any) -> bool:
        """Whether the tests name its class, and so mean its methods."""
        name = type(value).__name__
        return name in self.wanted and vars(self.module).get(name) is type(value)

    def blank(self, name: str) -> Any:
        known = vars(self.module).get(name)
        if not isinstance(known, type) or not makeable(known):
            known = self.stand_ins.setdefault(name, type(name, (), {}))
        return object.__new__(known)


def is_builtin(value: Any) -> bool:
    """Whether it is a type that every Python has under its name."""
    return isinstance(value, type) and getattr(builtins, value.__name__, None) is value


def makeable(kind: type) -> bool:
    """Whether objects of the class are nothing but their attributes."""
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return not issubclass(kind, Enum)


def entry_value(space: dict[str, Any], entry: str) -> Any:
    """What the entry point names: a top-level name, or the method of a new object for each call; None if nothing."""
    parts = entry.replace("()", "").split(".")
    if len(parts) == 1 and entry in space:
        return space[entry]
    name = parts[-1]
    owners = [space.get(parts[0])] if len(parts) > 1 else [space.get("Solution"), *space.values()]
    for owner in owners:
        if isinstance(owner, type) and hasattr(owner, name) and getattr(owner, "__module__", "") == "solution":
            made: type = owner
            return lambda *arguments, **named: getattr(made(), name)(*arguments, **named)
    return None


def _text(error: BaseException) -> str:
    try:
        return str(error)[:10_000]
    except BaseException:
        return ""


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    confine()
    job, reading, writing = descriptors
    channel = Channel(reading, writing, FRAME_LIMIT, REQUEST_LIMIT)
    Candidate(read_all(job), channel).serve()
