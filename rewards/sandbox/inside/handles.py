"""Objects of the program, as the tests have them: every use is asked of the program's box.

A handle is equal to no plain data, whatever the program says: only an object of a class that the tests name is asked to
compare, add, contain or be true, since such a question hands the program what the tests expect.
"""

from collections.abc import Generator, Iterator
from typing import Any, Protocol

BINARY = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift"
UNARY = "neg pos abs invert"
COMPARISONS = "lt le gt ge"


class Asked(Protocol):
    """Whoever carries questions to the program's box."""

    named_classes: set[str]

    def request(self, operation: str, *arguments: Any, **named: Any) -> Any: ...


class Handle:
    """An object that lives in the program's box."""

    __slots__ = ("_class_", "_kind_", "_number_", "_remote_")
    _class_: str
    _kind_: str
    _number_: int
    _remote_: Asked

    def __init__(self, remote: Asked, number: int, kind: str, name: str) -> None:
        held = {"_remote_": remote, "_number_": number, "_kind_": kind, "_class_": name}
        for slot, value in held.items():
            object.__setattr__(self, slot, value)

    @property
    def _authored_(self) -> bool:
        """Whether the tests name its class, so that its own operators are what they test."""
        return self._kind_ == "v" and self._class_ in self._remote_.named_classes

    def _ask_(self, operation: str, *arguments: Any, **named: Any) -> Any:
        return self._remote_.request(operation, self, *arguments, **named)

    def _typed_(self, kind: type, operation: str, *arguments: Any) -> Any:
        value = self._ask_(operation, *arguments)
        if type(value) is not kind:
            raise TypeError(f"{operation} should return {kind.__name__}")
        return value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask_("call", *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__", "__qualname__"):
            raise AttributeError(name)
        return self._ask_("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask_("setattr", name, value)

    def __delattr__(self, name: str) -> None:
        self._ask_("delattr", name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._ask_("slice", key.start, key.stop, key.step)
        return self._ask_("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask_("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask_("delitem", key)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask_("iter")
        if not isinstance(iterator, Handle):
            raise TypeError("iter returned no iterator")
        return iterator

    def __next__(self) -> Any:
        return self._ask_("next")

    def __len__(self) -> int:
        length: int = self._typed_(int, "len")
        return length

    def __contains__(self, item: Any) -> bool:
        if not self._authored_:
            return any(item == held for held in iter(self))
        return bool(self._typed_(bool, "contains", item))

    def __bool__(self) -> bool:
        if self._authored_:
            return bool(self._typed_(bool, "bool"))
        if self._kind_ == "v" and self._class_ == "Match":
            return True
        raise TypeError(f"whether an object of class {self._class_} is true is not known here")

    def __eq__(self, other: object) -> bool:
        if type(other) is not Handle:
            return False
        if other._number_ == self._number_:
            return True
        return self._authored_ and other._authored_ and bool(self._typed_(bool, "eq", other))

    def __hash__(self) -> int:
        return int(self._typed_(int, "hash")) if self._authored_ else self._number_

    def __str__(self) -> str:
        return str(self._typed_(str, "str"))

    def __repr__(self) -> str:
        return str(self._typed_(str, "repr"))

    def __format__(self, form: str) -> str:
        return str(self._typed_(str, "format", form))

    def __reversed__(self) -> Any:
        return self._ask_("reversed")

    def __enter__(self) -> Any:
        return self._ask_("enter")

    def __exit__(self, *_: object) -> None:
        self._ask_("exit")

    def __copy__(self) -> Any:
        return self._ask_("copy")

    def __deepcopy__(self, _: Any) -> Any:
        return self._ask_("deepcopy")

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Handle and bool(value._typed_(bool, "isinstance", self))

    def __subclasscheck__(self, value: Any) -> bool:
        return type(value) is Handle and bool(value._typed_(bool, "issubclass", self))


def generator(handle: Handle) -> Generator[Any, Any, None]:
    """A generator of the program, as one here."""
    sent = None
    while True:
        try:
            value = handle._ask_("send", sent)
        except StopIteration:
            return
        sent = yield value


async def coroutine(handle: Handle) -> Any:
    """A coroutine of the program, run to its end there."""
    return handle._ask_("await")


def _arithmetic(name: str, reflected: bool = False) -> Any:
    """With plain data, only what gives another object: a number would be the program's word against a tolerance."""

    def apply(self: Handle, *others: Any) -> Any:
        if not self._authored_:
            return NotImplemented
        value = self._remote_.request(name, *((*others, self) if reflected else (self, *others)))
        if isinstance(value, Handle) or all(isinstance(other, Handle) for other in others):
            return value
        raise TypeError(f"{name} with plain data should give an object")

    return apply


def _comparison(name: str) -> Any:
    def apply(self: Handle, other: Any) -> Any:
        if type(other) is not Handle or not self._authored_:
            return NotImplemented
        return self._typed_(bool, name, other)

    return apply


def _install_operators() -> None:
    for name in [*BINARY.split(), *UNARY.split()]:
        setattr(Handle, f"__{name}__", _arithmetic(name))
    for name in BINARY.split():
        setattr(Handle, f"__r{name}__", _arithmetic(name, reflected=True))
    for name in COMPARISONS.split():
        setattr(Handle, f"__{name}__", _comparison(name))


_install_operators()
