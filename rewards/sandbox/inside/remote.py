"""The tests' side of the channel: asks the program's box for things, and keeps to plain data and handles."""

import builtins
import importlib
import sys
from collections.abc import Callable
from enum import Enum, EnumMeta
from types import CoroutineType
from typing import Any, NoReturn

from rewards.sandbox.inside.candidate import LENT, is_builtin, makeable
from rewards.sandbox.inside.channel import FRAME_LIMIT, Channel, Closed
from rewards.sandbox.inside.handles import Handle, coroutine, generator
from rewards.sandbox.inside.kinds import Malformed, TooLarge, Unsendable
from rewards.sandbox.inside.plain import Codec, restore

NOT_RAISED = (AssertionError, StopIteration, StopAsyncIteration, BaseExceptionGroup)
"""Exceptions of the program that the tests could mistake for their own or for the end of a loop."""
KNOWN_ERRORS = {
    "json.decoder.JSONDecodeError": "json",
    "decimal.InvalidOperation": "decimal",
    "decimal.DivisionByZero": "decimal",
    "re.error": "re",
    "queue.Empty": "queue",
    "queue.Full": "queue",
    "struct.error": "struct",
    "binascii.Error": "binascii",
    "zlib.error": "zlib",
    "statistics.StatisticsError": "statistics",
    "dataclasses.FrozenInstanceError": "dataclasses",
}


WRAPPERS: dict[str, Callable[[Handle], Any]] = {"g": generator, "a": coroutine}
ABSENT = object()
"""In place of a name of the program that the tests cannot have."""


class ProgramLost(BaseException):
    """The program's box is gone or speaks no sense; no test may catch it."""


class ProgramError(Exception):
    """The program raised what is not raised again here under its own name."""


class Remote:
    """The program, seen from the tests. `broken` is set for good once it has not kept to the language."""

    def __init__(self, channel: Channel, space: dict[str, Any]) -> None:
        self.channel = channel
        self.space = space
        self.codec = Codec(self.refer, self.resolve, self.shared, self.blank)
        self.requests = 0
        self.uses = 0
        self.broken = ""
        self.beyond = ""
        """What an answer of the program was too large or too deep in, if one was."""
        self.raised = ""
        """Class of the last exception of the program."""
        self.unsendable = ""
        self.named_classes: set[str] = set()
        self.shared_names: set[str] = set()
        self.errors: dict[str, type[Exception]] = {}
        self.lent: list[Any] = []
        self.handles: dict[int, Any] = {}
        self.entry: Any = None
        """The program's entry point, once it is loaded and there is one."""
        self.data: set[str] = set()
        """Names under which the tests have plain data of the program, or what it imported."""

    def load(self, wanted: list[str], entry: str) -> list[Any]:
        """Have the program run. Returns ["loaded", entry point, names], or what went wrong."""
        self.requests += 1
        self.send(["load", self.requests, wanted, sorted(self.shared_names), entry])
        kind, number, outcome, *rest = self.receive()
        if kind != "ok" or number != self.requests or outcome not in ("loaded", "failed", "rejected"):
            self.lose("malformed")
        return [outcome, *rest]

    def request(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Ask for an operation on objects of the program; its result, or its exception."""
        self.uses += 1
        self.requests += 1
        number = self.requests
        try:
            encoded, table, objects = self.codec.encode([*arguments, *named.values()])
            count = len(arguments)
            keywords = [[name, value] for name, value in zip(named, encoded[count:], strict=True)]
            self.send(["op", number, operation, encoded[:count], keywords, table, sys.stdout is not sys.__stdout__])
        except Unsendable as error:
            self.unsendable = self.unsendable or str(error)
            raise
        except TooLarge as error:
            self.beyond = self.beyond or str(error)
            raise
        while True:
            kind, answered, *rest = self.receive()
            if kind == "callback":
                self.serve_callback(answered, *rest)
                continue
            if answered != number:
                self.lose("malformed")
            if kind == "beyond":
                self.beyond = "a result is too large or too deep"
                raise ProgramError(self.beyond)
            if kind == "stop" and operation in ("next", "send"):
                raise StopIteration
            return self.outcome(kind, rest, [*arguments, *named.values()], objects)

    def outcome(self, kind: str, rest: list[Any], arguments: list[Any], objects: list[Any]) -> Any:
        try:
            head, value, changed, table, printed = rest
            if type(printed) is str:
                sys.stdout.write(printed)
            values, _ = self.codec.decode([value, *(changed or [])], table, objects)
            for old, new in zip(arguments, values[1:], strict=False):
                restore(old, new)
            if kind == "ok":
                return values[0]
            if kind != "raise":
                raise Malformed("kind")
            [classes, text], [arguments, attributes] = head, values[0]
            error = self.exception(classes, text, arguments, attributes)
        except (Malformed, TypeError, ValueError):
            self.lose("malformed")
        raise error

    def exception(self, classes: Any, text: Any, arguments: Any, attributes: Any) -> Exception:
        """An exception of the first class in the list that the tests know, none that means something to them."""
        if type(classes) is not list or not all(type(name) is str for name in classes) or type(text) is not str:
            raise Malformed("exception")
        self.raised = classes[0].rpartition(".")[2] if classes else ""
        known: type[Exception] = ProgramError
        for name in classes:
            module, _, last = name.rpartition(".")
            found: Any = getattr(builtins, last, None) if module == "builtins" else None
            if module == "solution":
                found = self.errors.get(last) or (self.space.get(last) if last in self.shared_names else None)
            if name in KNOWN_ERRORS:
                found = getattr(sys.modules.get(KNOWN_ERRORS[name]), last, None)
            if isinstance(found, type) and issubclass(found, Exception):
                known = ProgramError if issubclass(found, NOT_RAISED) else found
                break
        given = tuple(arguments) if type(arguments) is list else ()
        try:
            error = known(*given)
        except Exception:  # a class with arguments of its own
            error = known.__new__(known)
            error.args = given
        if known in self.errors.values():
            error.__dict__["program_text"] = text
            kept = attributes.items() if type(attributes) is dict else ()
            error.__dict__.update((k, v) for k, v in kept if type(k) is str and not hasattr(known, k))
        return error

    def serve_callback(self, number: Any, encoded: Any, named: Any, table: Any) -> None:
        """Call one of the tests' own functions for the program."""
        try:
            values, _ = self.codec.decode([*encoded, *(value for _, value in named)], table)
            keywords = dict(zip((name for name, _ in named), values[len(encoded) :], strict=True))
            function = self.lent[range(len(self.lent))[number]]
        except (Malformed, TypeError, ValueError, IndexError):
            self.lose("malformed")
        try:
            result = function(*values[: len(encoded)], **keywords)
            [value], table, _ = self.codec.encode([result])
        except StopIteration:
            self.send(["returned", number, "stop", None, []])
        except (Unsendable, TooLarge):
            self.send(["returned", number, "TypeError", None, []])
        except Exception as error:
            self.send(["returned", number, type(error).__name__, None, []])
        else:
            self.send(["returned", number, "ok", value, table])

    def bind(self, name: str, export: Any) -> Any:
        """What a name of the program is to the tests: plain data, a handle, an exception class, a module, or ABSENT."""
        try:
            kind, *parts = export
            if kind == "import":
                module, attribute = parts
                if module.split(".")[0] not in LENT:
                    raise Malformed("import")
                found = importlib.import_module(module)
                self.data.add(name)
                return found if attribute is None else getattr(found, attribute)
            [value], _ = self.codec.decode([parts[0]], parts[1])
        except (Malformed, TypeError, ValueError, AttributeError, ImportError):
            return ABSENT
        if not isinstance(value, Handle):
            self.data.add(name)
        elif value._kind_ == "c" and name[:1].isupper():
            self.named_classes.add(value._class_)
        return value

    def refer(self, value: Any) -> list[Any]:
        if type(value) is Handle:
            return ["h", value._number_]
        if is_builtin(value):
            return ["y", value.__name__]
        if isinstance(value, Enum) and type(value).__name__ in self.shared_names:
            return ["E", type(value).__name__, value.name]
        if isinstance(value, CoroutineType):
            raise TypeError("a coroutine cannot be an argument here")
        iterates = hasattr(value, "__next__")
        if not iterates and not callable(value):
            raise Unsendable(type(value).__name__)
        self.lent.append(value.__next__ if iterates else value)
        name: Any = getattr(value, "__name__", "")
        return ["k", len(self.lent) - 1, "iterator" if iterates else "function", name if type(name) is str else ""]

    def resolve(self, tag: str, parts: list[Any]) -> Any:
        if tag == "y":
            found = getattr(builtins, parts[0], None) if type(parts[0]) is str else None
            if not isinstance(found, type):
                raise Malformed("type")
            return found
        if tag == "E" and type(parts[0]) is str and parts[0] in self.shared_names and type(parts[1]) is str:
            known = self.space.get(parts[0])
            if isinstance(known, EnumMeta):
                return known[parts[1]]
        if tag != "h":
            raise Malformed("tag")
        number, kind, name, bases = parts
        if type(number) is not int or kind not in ("f", "v", "c", "x", "g", "a") or type(name) is not str:
            raise Malformed("handle")
        if kind == "x":
            return self.error_class(name, bases)
        if number not in self.handles:
            handle = Handle(self, number, kind, name)
            wrap = WRAPPERS.get(kind)
            self.handles[number] = wrap(handle) if wrap else handle
        return self.handles[number]

    def error_class(self, name: str, bases: Any) -> type[Exception]:
        """An exception class of the tests' own for one of the program, below the same built-in one."""
        if name not in self.errors:
            base: Any = Exception
            for known in bases:
                found = getattr(builtins, known.removeprefix("builtins."), None) if type(known) is str else None
                if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, NOT_RAISED):
                    base = found
                    break
            show = {"__str__": lambda error: error.__dict__.get("program_text", base.__str__(error))}
            self.errors[name] = type(name, (base,), show)
        return self.errors[name]

    def shared(self, value: Any) -> bool:
        kind = type(value)
        return self.space.get(kind.__name__) is kind and kind.__name__ in self.shared_names and makeable(kind)

    def blank(self, name: str) -> Any:
        kind = self.space.get(name) if name in self.shared_names else None
        if not isinstance(kind, type) or not makeable(kind):
            raise Malformed("class")
        return object.__new__(kind)

    def send(self, message: list[Any]) -> None:
        if self.broken:
            raise ProgramLost(self.broken)
        try:
            self.channel.receives = FRAME_LIMIT + self.channel.send(message)
        except Closed:
            self.lose("closed")

    def receive(self) -> list[Any]:
        try:
            message, _ = self.channel.receive()
        except Closed:
            self.lose("closed")
        except Malformed:
            self.lose("malformed")
        if len(message) < 3:
            self.lose("malformed")
        return message

    def lose(self, how: str) -> NoReturn:
        self.broken = how
        raise ProgramLost(how)
