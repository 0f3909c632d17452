"""The box of a program under function tests: runs the program, and serves the requests of the tests in the other box.

The program can change everything in this process, so its messages are not trusted. The tests accept only plain data,
and numbers that stand for objects. The worker reads nothing from this box; it only observes how the box ended.
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
from rewards.sandbox.inside.source import NoProgram, choose_program

HANDLES_LIMIT = 100_000
"""Maximum number of the program's objects to which the tests can hold handles."""

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
    "slice": lambda sequence, start, stop, step: sequence[start:stop:step],
    "enter": lambda manager: manager.__enter__(),
    "exit": lambda manager: manager.__exit__(None, None, None),
}
KINDS: dict[type, str] = {GeneratorType: "g", CoroutineType: "a"}
"""Kind of a handle. Others are: "f" callable, "v" other value, "c" class, "x" exception class."""


class Candidate:
    """The program's namespace, the objects that the tests have handles of, and the loop that serves requests."""

    def __init__(self, job: dict[str, Any], channel: Channel) -> None:
        self.job = job
        self.channel = channel
        self.codec = Codec(
            self.encode_reference, self.decode_reference, self.by_value, self.new_object, self.by_reference
        )
        self.module = ModuleType("solution")
        self.objects: list[Any] = []
        """Objects that the tests have handles of, by number."""
        self.number_of: dict[int, int] = {}
        self.value_classes: set[str] = set()
        """Names of the classes whose objects are sent by value."""
        self.wanted: set[str] = set()
        """Names of the program that the tests need."""
        self.substitute_classes: dict[str, type] = {}
        """Classes for objects sent by value whose class the program does not define."""

    def serve(self) -> None:
        """Serve requests until the tests close the channel."""
        while True:
            self.serve_request(*self.receive())

    def receive(self) -> tuple[Any, ...]:
        """Return the next message; the reply may be larger than it by `FRAME_LIMIT`."""
        message, length = self.channel.receive()
        self.channel.send_limit = FRAME_LIMIT + length
        return tuple(message)

    def serve_request(self, kind: str, number: int, *rest: Any) -> None:
        """Load the program, or run an operation, and reply."""
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
        """Send a result, and the arguments if they changed. An exception is sent as the names of its classes."""
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
            self.channel.send(["too_large", number, type(error).__name__])

    def load(self, wanted: list[str], value_classes: list[str], entry: str) -> list[Any]:
        """Run the program. The result is that of `Remote.load`."""
        self.value_classes, self.wanted = set(value_classes), set(wanted)
        sys.modules["solution"] = self.module
        namespace = vars(self.module)
        namespace["__annotations__"] = {}
        try:
            program = choose_program(self.job["texts"], self.job["prompt"], entry, self.job["names"])
            for part in program.parts:
                exec(compile(part, "<program>", "exec"), namespace)
        except NoProgram as error:
            return ["rejected" if error.exceeds_parser else "failed", error.cause]
        except BaseException as error:
            return ["failed", type(error).__name__]
        found = {name: self.export(namespace[name]) for name in wanted if name in namespace}
        target = find_entry(namespace, entry) if entry else None
        return ["loaded", None if target is None else self.encode_reference(target), sorted(found.items())]

    def export(self, value: Any) -> Any:
        """Encode the value of a name for the tests: plain data or a handle, and its table of objects."""
        try:
            [encoded], table, _ = self.codec.encode([value])
        except (TooLarge, Unsendable, RecursionError):
            return None
        return [encoded, table]

    def encode_reference(self, value: Any) -> list[Any]:
        """Encode built-in types, members of enumerations, and handles of other objects."""
        if is_builtin_type(value):
            return ["y", value.__name__]
        if isinstance(value, Enum) and type(value).__name__ in self.value_classes:
            return ["E", type(value).__name__, value.name]
        number = self.number_of.get(id(value))
        if number is None:
            if len(self.objects) >= HANDLES_LIMIT:
                raise TooLarge("objects")
            number = self.number_of[id(value)] = len(self.objects)
            self.objects.append(value)
        kind = KINDS.get(type(value)) or ("f" if callable(value) else "v")
        if isinstance(value, type):
            bases = [f"{base.__module__}.{base.__qualname__}" for base in value.__mro__]
            return ["h", number, "x" if issubclass(value, BaseException) else "c", value.__name__, bases]
        return ["h", number, kind, type(value).__name__, []]

    def decode_reference(self, tag: str, parts: list[Any]) -> Any:
        """Decode handles, built-in types, members of enumerations, and callables and iterators of the tests."""
        if tag == "h":
            return self.objects[parts[0]]
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
        """Iterate over an iterator of the tests. `call_back` returns the class `Candidate` at its end."""
        while (outcome := self.call_back(number, (), {}, iterate=True)) is not Candidate:
            yield outcome

    def call_back(self, number: int, arguments: tuple[Any, ...], named: dict[str, Any], iterate: bool = False) -> Any:
        """Call a function of the tests while they wait for the reply to their own request."""
        encoded, table, _ = self.codec.encode([*arguments, *named.values()])
        keywords = [[name, value] for name, value in zip(named, encoded[len(arguments) :], strict=True)]
        self.channel.send(["callback", number, encoded[: len(arguments)], keywords, table])
        while True:
            kind, replied, *rest = self.receive()
            if kind != "returned":
                self.serve_request(kind, replied, *rest)
                continue
            outcome, value, table = rest
            if outcome == "stop" and iterate:
                return Candidate
            if outcome != "ok":
                raise getattr(builtins, outcome, RuntimeError)("raised by a function of the caller")
            [[result], _] = self.codec.decode([value], table)
            return result

    def by_value(self, value: Any) -> bool:
        """Return whether an object is sent by value."""
        kind = type(value)
        return kind.__name__ in self.value_classes and is_plain_class(kind)

    def by_reference(self, value: Any) -> bool:
        """Return whether the tests name the object's class: then they test its methods, so it stays here."""
        name = type(value).__name__
        return name in self.wanted and vars(self.module).get(name) is type(value)

    def new_object(self, name: str) -> Any:
        """Make an object without attributes, of the program's class or a substitute for it."""
        known = vars(self.module).get(name)
        if not isinstance(known, type) or not is_plain_class(known):
            known = self.substitute_classes.setdefault(name, type(name, (), {}))
        return object.__new__(known)


def is_builtin_type(value: Any) -> bool:
    """Return whether the value is a built-in type."""
    return isinstance(value, type) and getattr(builtins, value.__name__, None) is value


def is_plain_class(kind: type) -> bool:
    """Return whether objects of the class have no state but their attributes."""
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return not issubclass(kind, Enum)


def find_entry(namespace: dict[str, Any], entry: str) -> Any:
    """Return what the entry point names, or None.

    It is a top-level name, or a function that calls the method on a new object each time.
    """
    parts = entry.replace("()", "").split(".")
    if len(parts) == 1 and entry in namespace:
        return namespace[entry]
    name = parts[-1]
    owners = [namespace.get(parts[0])] if len(parts) > 1 else [namespace.get("Solution"), *namespace.values()]
    for owner in owners:
        if isinstance(owner, type) and hasattr(owner, name) and getattr(owner, "__module__", "") == "solution":
            made: type = owner
            return lambda *arguments, **named: getattr(made(), name)(*arguments, **named)
    return None


def _text(error: BaseException) -> str:
    """Return the text of an exception, at most 10,000 characters; empty if its `__str__` fails."""
    try:
        return str(error)[:10_000]
    except BaseException:
        return ""


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    """Serve requests. The descriptors are the job, the requests and the replies."""
    confine()
    job, reading, writing = descriptors
    channel = Channel(reading, writing, FRAME_LIMIT, REQUEST_LIMIT)
    Candidate(read_all(job), channel).serve()
