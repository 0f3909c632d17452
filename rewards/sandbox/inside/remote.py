"""The tests' side of the channel: sends requests to the program's box, and accepts only plain data and handles."""

import builtins
import sys
from collections.abc import Callable
from enum import Enum, EnumMeta
from types import CoroutineType
from typing import Any, NoReturn

from rewards.sandbox.inside.candidate import is_builtin_type, is_plain_class
from rewards.sandbox.inside.channel import FRAME_LIMIT, Channel, Closed
from rewards.sandbox.inside.errors import KNOWN_ERRORS, NEVER_RERAISED, ProgramError, ProgramLost, stand_in
from rewards.sandbox.inside.handles import Handle, coroutine, generator
from rewards.sandbox.inside.kinds import Malformed, TooLarge, Unsendable
from rewards.sandbox.inside.plain import Codec, update_in_place

WRAPPERS: dict[str, Callable[[Handle], Any]] = {"g": generator, "a": coroutine}
ABSENT = object()
"""Stands for a name of the program that cannot be passed to the tests."""


class Remote:
    """The program as the tests see it.

    Args:
        channel: the tests' end of the channel.
        namespace: the namespace in which the tests run.
    """

    def __init__(self, channel: Channel, namespace: dict[str, Any]) -> None:
        self.channel = channel
        self.namespace = namespace
        self.codec = Codec(self.encode_reference, self.decode_reference, self.by_value, self.new_object)
        self.requests = 0
        self.uses = 0
        """Requests made by the tests."""
        self.broken = ""
        """Why the channel cannot be used any more: "closed" or "malformed"; empty while it works. Never reset."""
        self.too_large = ""
        """Which limit a value exceeded, if one did."""
        self.raised = ""
        """Class of the last exception of the program."""
        self.unsendable = ""
        """Type of the first value of the tests that could not be sent."""
        self.named_classes: set[str] = set()
        """Names of the program's classes under test."""
        self.helper_classes: set[str] = set()
        """Names of the program's classes of which the tests only make arguments."""
        self.value_classes: set[str] = set()
        """Names of the classes whose objects are sent by value."""
        self.errors: dict[str, type[Exception]] = {}
        """Stand-ins for the program's exception classes."""
        self.callables: list[Any] = []
        """Functions of the tests that the program can call, by number."""
        self.handles: dict[int, Any] = {}
        """Handles of objects that the program returned, by number."""
        self.trusted: dict[int, Handle] = {}
        """Handles of what is under test, by number."""
        self.entry: Any = None
        """The program's entry point, once it is loaded and there is one."""
        self.plain_names: set[str] = set()
        """Names bound in the tests to plain data of the program."""

    def load(self, wanted: list[str], entry: str) -> list[Any]:
        """Run the program.

        Args:
            wanted: names of the program that the tests need.
            entry: the entry point, or "".

        Returns:
            ["loaded", encoded entry point, exported names], or ["failed" or "rejected", cause].
        """
        self.requests += 1
        self.send(["load", self.requests, wanted, sorted(self.value_classes), entry])
        kind, number, outcome, *rest = self.receive()
        if kind != "ok" or number != self.requests or outcome not in ("loaded", "failed", "rejected"):
            self.fail("malformed")
        return [outcome, *rest]

    def request(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Run an operation on objects of the program, and return its result or raise its exception.

        Raises:
            ProgramError: the exception cannot be raised under its own class, or the result is too large.
            ProgramLost: the program's box has ended or sent a malformed message.
            TooLarge: an argument exceeds a limit.
            Unsendable: an argument cannot be sent.
        """
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
            self.too_large = self.too_large or str(error)
            raise
        while True:
            kind, replied, *rest = self.receive()
            if kind == "callback":
                self.serve_callback(replied, *rest)
                continue
            if replied != number:
                self.fail("malformed")
            if kind == "too_large":
                self.too_large = "a result is too large or too deep"
                raise ProgramError(self.too_large)
            if kind == "stop" and operation in ("next", "send"):
                raise StopIteration
            return self.read_reply(kind, rest, [*arguments, *named.values()], objects)

    def read_reply(self, kind: str, rest: list[Any], arguments: list[Any], objects: list[Any]) -> Any:
        """Update the arguments that the program changed, then return the result or raise the exception in a reply."""
        try:
            head, value, changed, table, printed = rest
            if type(printed) is str:
                sys.stdout.write(printed)
            values, _ = self.codec.decode([value, *(changed or [])], table, objects)
            for old, new in zip(arguments, values[1:], strict=False):
                update_in_place(old, new)
            if kind == "ok":
                return values[0]
            if kind != "raise":
                raise Malformed("kind")
            [classes, text], [arguments, attributes] = head, values[0]
            error = self.exception(classes, text, arguments, attributes)
        except (Malformed, TypeError, ValueError):
            self.fail("malformed")
        raise error

    def exception(self, classes: Any, text: Any, arguments: Any, attributes: Any) -> Exception:
        """Make the exception: of the first class in the list that the tests know, or ProgramError if that one is in
        `NEVER_RERAISED`."""
        if type(classes) is not list or not all(type(name) is str for name in classes) or type(text) is not str:
            raise Malformed("exception")
        self.raised = classes[0].rpartition(".")[2] if classes else ""
        known: type[Exception] = ProgramError
        for name in classes:
            module, _, last = name.rpartition(".")
            found: Any = getattr(builtins, last, None) if module == "builtins" else None
            if module == "solution":
                found = self.errors.get(last) or (self.namespace.get(last) if last in self.value_classes else None)
            if name in KNOWN_ERRORS:
                found = getattr(sys.modules.get(KNOWN_ERRORS[name]), last, None)
            if isinstance(found, type) and issubclass(found, Exception):
                known = ProgramError if issubclass(found, NEVER_RERAISED) else found
                break
        given = tuple(arguments) if type(arguments) is list else ()
        try:
            error = known(*given)
        except Exception:  # a class whose constructor takes other arguments
            error = known.__new__(known)
            error.args = given
        if known in self.errors.values():
            error.__dict__["program_text"] = text
            kept = attributes.items() if type(attributes) is dict else ()
            error.__dict__.update((k, v) for k, v in kept if type(k) is str and not hasattr(known, k))
        return error

    def serve_callback(self, number: Any, encoded: Any, named: Any, table: Any) -> None:
        """Call a function of the tests for the program, and send its result."""
        try:
            values, _ = self.codec.decode([*encoded, *(value for _, value in named)], table)
            keywords = dict(zip((name for name, _ in named), values[len(encoded) :], strict=True))
            function = self.callables[range(len(self.callables))[number]]
        except (Malformed, TypeError, ValueError, IndexError):
            self.fail("malformed")
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
        """Return the value of a name under test: plain data, a handle, an exception class, or ABSENT."""
        value = self.exported(export)
        if not isinstance(value, Handle):
            self.plain_names |= {name} if value is not ABSENT else set()
        elif value._kind_ == "c" and name[:1].isupper():
            self.named_classes.add(value._class_)
        return self.trust(value)

    def bind_class(self, export: Any) -> Any:
        """Return a class or an exception class of the program that is not under test, or ABSENT."""
        value = self.exported(export)
        if isinstance(value, type) and value in self.errors.values():
            return value
        if type(value) is not Handle or value._kind_ != "c":
            return ABSENT
        self.helper_classes.add(value._class_)
        return value

    def exported(self, export: Any) -> Any:
        """Decode an exported value. Return ABSENT if it cannot be."""
        try:
            encoded, table = export
            [value], _ = self.codec.decode([encoded], table)
        except (Malformed, TypeError, ValueError):
            return ABSENT
        return value

    def trust(self, value: Any) -> Any:
        """Return the handle of something under test for a handle, and any other value unchanged."""
        if type(value) is not Handle:
            return value
        known = Handle(self, value._number_, value._kind_, value._class_, is_tested=True)
        return self.trusted.setdefault(value._number_, known)

    def encode_reference(self, value: Any) -> list[Any]:
        """Encode handles, built-in types, members of enumerations, and functions and iterators of the tests."""
        if type(value) is Handle:
            return ["h", value._number_]
        if is_builtin_type(value):
            return ["y", value.__name__]
        if isinstance(value, Enum) and type(value).__name__ in self.value_classes:
            return ["E", type(value).__name__, value.name]
        if isinstance(value, CoroutineType):
            raise TypeError("a coroutine of the tests cannot be an argument")
        iterates = hasattr(value, "__next__")
        if not iterates and not callable(value):
            raise Unsendable(type(value).__name__)
        self.callables.append(value.__next__ if iterates else value)
        name: Any = getattr(value, "__name__", "")
        return ["k", len(self.callables) - 1, "iterator" if iterates else "function", name if type(name) is str else ""]

    def decode_reference(self, tag: str, parts: list[Any]) -> Any:
        """Decode built-in types, members of enumerations, and handles of the program's objects."""
        if tag == "y":
            found = getattr(builtins, parts[0], None) if type(parts[0]) is str else None
            if not isinstance(found, type):
                raise Malformed("type")
            return found
        if tag == "E" and type(parts[0]) is str and parts[0] in self.value_classes and type(parts[1]) is str:
            known = self.namespace.get(parts[0])
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
        """Return a stand-in for an exception class of the program, with the same built-in base class."""
        if name not in self.errors:
            self.errors[name] = stand_in(name, bases)
        return self.errors[name]

    def by_value(self, value: Any) -> bool:
        """Return whether an object is sent by value: the tests define its class, which has only attributes as state."""
        kind = type(value)
        return (
            self.namespace.get(kind.__name__) is kind and kind.__name__ in self.value_classes and is_plain_class(kind)
        )

    def new_object(self, name: str) -> Any:
        """Make an object, without attributes, of a class of the tests."""
        kind = self.namespace.get(name) if name in self.value_classes else None
        if not isinstance(kind, type) or not is_plain_class(kind):
            raise Malformed("class")
        return object.__new__(kind)

    def send(self, message: list[Any]) -> None:
        """Send a message; the reply may be larger than it by `FRAME_LIMIT`. Raises ProgramLost."""
        if self.broken:
            raise ProgramLost(self.broken)
        try:
            self.channel.receive_limit = FRAME_LIMIT + self.channel.send(message)
        except Closed:
            self.fail("closed")

    def receive(self) -> list[Any]:
        """Return the next message. Raises ProgramLost."""
        try:
            message, _ = self.channel.receive()
        except Closed:
            self.fail("closed")
        except Malformed:
            self.fail("malformed")
        if len(message) < 3:
            self.fail("malformed")
        return message

    def fail(self, reason: str) -> NoReturn:
        """Mark the channel as broken and raise ProgramLost."""
        self.broken = reason
        raise ProgramLost(reason)
