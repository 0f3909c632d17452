"""Handles: proxies in the tests' box for objects that live in the program's box. Every use is a request to that box.

A handle never equals plain data, whatever the program returns. Only an object of a class under test receives requests
to compare, add or test truth, because such a request gives the program what the tests expect.

Under test are the entry point, the other names that the tests import from the program, and the objects that the tests
make of such a class. Anything else is an object that the program returned. It cannot decide whether a value is right: a
call of it with plain data may not give a boolean, and the tests' box iterates over it to find or count a value in it.
"""

from collections.abc import Generator, Iterator
from typing import Any, Protocol

BINARY = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift"
UNARY = "neg pos abs invert"
COMPARISONS = "lt le gt ge"


class Requester(Protocol):
    """Sends requests to the program's box."""

    named_classes: set[str]
    """Names of the program's classes under test."""
    helper_classes: set[str]
    """Names of the program's classes of which the tests only make arguments."""
    trusted: dict[int, Any]
    """Handles of what is under test, by number."""

    def request(self, operation: str, *arguments: Any, **named: Any) -> Any: ...

    def trust(self, value: Any) -> Any: ...


class Handle:
    """Proxy for an object in the program's box."""

    __slots__ = ("_class_", "_is_tested_", "_kind_", "_number_", "_remote_")
    _class_: str
    _kind_: str
    _number_: int
    _remote_: Requester
    _is_tested_: bool
    """Whether it is under test (see the top of this module)."""

    def __init__(self, remote: Requester, number: int, kind: str, name: str, is_tested: bool = False) -> None:
        values = {"_remote_": remote, "_number_": number, "_kind_": kind, "_class_": name, "_is_tested_": is_tested}
        for slot, value in values.items():
            object.__setattr__(self, slot, value)

    @property
    def _has_named_class_(self) -> bool:
        """Return whether the object's class is under test, and so are its operators."""
        return self._kind_ == "v" and self._class_ in self._remote_.named_classes

    def _request_(self, operation: str, *arguments: Any, **named: Any) -> Any:
        return self._remote_.request(operation, self, *arguments, **named)

    def _request_typed_(self, kind: type, operation: str, *arguments: Any) -> Any:
        """Send a request; raise TypeError if the result is not exactly of the type `kind`."""
        value = self._request_(operation, *arguments)
        if type(value) is not kind:
            raise TypeError(f"{operation} should return {kind.__name__}")
        return value

    def _answer_(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Send a request with values of the tests. Raise TypeError if the program decides about them by a boolean."""
        value = self._request_(operation, *arguments, **named)
        given = [*arguments, *named.values()]
        if type(value) is bool and not self._is_tested_ and not all(type(one) is Handle for one in given):
            raise TypeError("an object that the program returned cannot decide whether a value is right")
        return value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        value = self._answer_("call", *arguments, **named)
        if self._kind_ != "c":
            return value
        if self._is_helper_class_ and type(value) is not Handle:
            raise TypeError(f"{self._class_} is no class")
        return self._remote_.trust(value) if self._is_tested_ and self._class_ in self._remote_.named_classes else value

    @property
    def _is_helper_class_(self) -> bool:
        return self._kind_ == "c" and not self._is_tested_ and self._class_ in self._remote_.helper_classes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__", "__qualname__"):
            raise AttributeError(name)
        value = self._request_("getattr", name)
        if type(value) is not Handle:
            if self._is_helper_class_:
                raise AttributeError(name)
            return value
        if self._is_helper_class_ and value._kind_ == "f":
            raise AttributeError(name)
        if self._is_tested_ and (value._kind_ == "f" or value._number_ in self._remote_.trusted):
            return self._remote_.trust(value)
        if not self._is_tested_ and self._kind_ == "v" and value._kind_ == "f" and name in ("count", "index"):
            return lambda item: getattr(list(self), name)(item)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._request_("setattr", name, value)

    def __delattr__(self, name: str) -> None:
        self._request_("delattr", name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._request_("slice", key.start, key.stop, key.step)
        return self._answer_("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._request_("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._request_("delitem", key)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._request_("iter")
        if not isinstance(iterator, Handle):
            raise TypeError("iter() did not return an iterator")
        return iterator

    def __next__(self) -> Any:
        return self._request_("next")

    def __len__(self) -> int:
        length: int = self._request_typed_(int, "len")
        return length

    def __contains__(self, item: Any) -> bool:
        if not (self._has_named_class_ and self._is_tested_):
            return any(item == held for held in iter(self))
        return bool(self._request_typed_(bool, "contains", item))

    def __bool__(self) -> bool:
        if self._has_named_class_:
            return bool(self._request_typed_(bool, "bool"))
        if self._kind_ == "v" and self._class_ in ("Match", *self._remote_.helper_classes):
            return True
        raise TypeError(f"the truth of an object of class {self._class_} is unknown to the tests")

    def __eq__(self, other: object) -> bool:
        if type(other) is not Handle:
            return False
        if other._number_ == self._number_:
            return True
        return self._has_named_class_ and other._has_named_class_ and bool(self._request_typed_(bool, "eq", other))

    def __hash__(self) -> int:
        return int(self._request_typed_(int, "hash")) if self._has_named_class_ else self._number_

    def __str__(self) -> str:
        return str(self._request_typed_(str, "str"))

    def __repr__(self) -> str:
        return str(self._request_typed_(str, "repr"))

    def __format__(self, form: str) -> str:
        return str(self._request_typed_(str, "format", form))

    def __reversed__(self) -> Any:
        return self._request_("reversed")

    def __enter__(self) -> Any:
        return self._request_("enter")

    def __exit__(self, *_: object) -> None:
        self._request_("exit")

    def __copy__(self) -> Any:
        return self._request_("copy")

    def __deepcopy__(self, _: Any) -> Any:
        return self._request_("deepcopy")

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Handle and bool(value._request_typed_(bool, "isinstance", self))

    def __subclasscheck__(self, value: Any) -> bool:
        return type(value) is Handle and bool(value._request_typed_(bool, "issubclass", self))


def generator(handle: Handle) -> Generator[Any, Any, None]:
    """Wrap the handle of a generator as a generator of the tests' box."""
    sent = None
    while True:
        try:
            value = handle._request_("send", sent)
        except StopIteration:
            return
        sent = yield value


async def coroutine(handle: Handle) -> Any:
    """Wrap the handle of a coroutine as a coroutine. The program's box runs it to its end."""
    return handle._request_("await")


def _arithmetic(name: str, reflected: bool = False) -> Any:
    """Make an arithmetic method.

    Combined with plain data, the result must be another object. A plain number would let the program choose the result
    that the tests compare with a tolerance.
    """

    def apply(self: Handle, *others: Any) -> Any:
        if not self._has_named_class_:
            return NotImplemented
        value = self._remote_.request(name, *((*others, self) if reflected else (self, *others)))
        if isinstance(value, Handle) or all(isinstance(other, Handle) for other in others):
            return value
        raise TypeError(f"{name} with plain data should give an object")

    return apply


def _comparison(name: str) -> Any:
    """Make an ordering method, which compares two handles only."""

    def apply(self: Handle, other: Any) -> Any:
        if type(other) is not Handle or not self._has_named_class_:
            return NotImplemented
        return self._request_typed_(bool, name, other)

    return apply


def _install_operators() -> None:
    for name in [*BINARY.split(), *UNARY.split()]:
        setattr(Handle, f"__{name}__", _arithmetic(name))
    for name in BINARY.split():
        setattr(Handle, f"__r{name}__", _arithmetic(name, reflected=True))
    for name in COMPARISONS.split():
        setattr(Handle, f"__{name}__", _comparison(name))


_install_operators()
