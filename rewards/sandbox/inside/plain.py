"""Plain data on the wire between a program and its tests: tagged JSON, nothing that can run.

None, booleans, strings, floats and small integers stand for themselves; everything else is a list of a tag and its
parts. Values of other kinds go through the two hooks `refer` and `resolve` of a side, as numbers that mean something to
the other side only. Objects of classes that both sides know travel by value in a table of their own, so that rings and
long chains of them need no depth. Subclasses arrive as their base. Decoding bounds depth and makes no object but these.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rewards.sandbox.inside.kinds import (
    BASES,
    READERS,
    SCALAR_BASES,
    WRITERS,
    Malformed,
    TooLarge,
    Unsendable,
    is_numpy,
    write_numpy,
)

DEPTH_LIMIT = 200
"""Containers within containers."""
SMALL = 2**53
"""Integers below it in size stand for themselves, others in hexadecimal."""
OBJECTS_LIMIT = 100_000
"""Objects by value in one message."""
SCALAR_KINDS = {type(None), bool, str, float}


def _no_reference(value: Any) -> list[Any]:
    raise Unsendable(type(value).__name__)


def _no_resolution(tag: str, parts: list[Any]) -> Any:
    raise Malformed(tag)


class Codec:
    """Both directions for one side.

    `refer` gives the tagged list of a value that is not plain, `resolve` its inverse for the other side's tags,
    `shared` says which objects travel by value, `stays` which ones do not although their class is below a plain one,
    and `blank` makes an empty object of the class with a given name.
    """

    def __init__(
        self,
        refer: Callable[[Any], list[Any]] = _no_reference,
        resolve: Callable[[str, list[Any]], Any] = _no_resolution,
        shared: Callable[[Any], bool] = lambda value: False,
        blank: Callable[[str], Any] | None = None,
        stays: Callable[[Any], bool] = lambda value: False,
    ) -> None:
        self.refer = refer
        self.resolve = resolve
        self.shared = shared
        self.blank = blank
        self.stays = stays
        self._places: dict[int, int] = {}
        self._objects: list[Any] = []
        self._table: list[Any] = []

    def encode(self, values: Sequence[Any], origins: Sequence[Any] = ()) -> tuple[list[Any], list[Any], list[Any]]:
        """Encoded values, the table of objects among them, and those objects; `origins` are the objects of a received
        table, named by their places there."""
        objects: list[Any] = []
        table: list[Any] = []
        came = {id(origin): place for place, origin in enumerate(origins)}
        self._places, self._objects = {}, objects
        encoded = [self.write(value, 0) for value in values]
        while len(table) < len(objects):
            item = objects[len(table)]
            attributes = [[name, self.write(value, 1)] for name, value in attributes_of(item)]
            table.append([type(item).__name__, attributes, came.get(id(item))])
        return encoded, table, objects

    def decode(self, encoded: Any, table: Any, origins: Sequence[Any] = ()) -> tuple[list[Any], list[Any]]:
        """Values and the objects of the table; objects that come back are the same ones, with new attributes.
        Raises Malformed."""
        try:
            objects = [self._object(entry, origins) for entry in table]
            self._table = objects
            for item, entry in zip(objects, table, strict=True):
                set_attributes(item, {name: self.read(value, 1) for name, value in entry[1]})
            return [self.read(value, 0) for value in encoded], objects
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise Malformed(type(error).__name__) from None

    def _object(self, entry: Any, origins: Sequence[Any]) -> Any:
        name, _, origin = entry
        if origin is not None:
            if type(origin) is not int or not 0 <= origin < len(origins):
                raise Malformed("origin")
            return origins[origin]
        if self.blank is None or type(name) is not str:
            raise Malformed("class")
        return self.blank(name)

    def write(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in SCALAR_KINDS:
            return value
        if kind is int:
            return value if -SMALL < value < SMALL else ["i", hex(value)]
        if depth >= DEPTH_LIMIT:
            raise TooLarge(f"data is nested more than {DEPTH_LIMIT} deep")
        if kind is list and set(map(type, value)) <= {int} and (not value or -SMALL < min(value) <= max(value) < SMALL):
            return ["l", value.copy()]
        writer = WRITERS.get(kind)
        if writer is not None:
            return writer(self, value, depth + 1)
        if self.shared(value):
            return self._by_value(value)
        if self.stays(value):
            return self.refer(value)
        for base, flatten in SCALAR_BASES.items():
            if isinstance(value, base):
                return self.write(flatten(value), depth)
        for base in BASES:
            if isinstance(value, base):
                return WRITERS[base](self, value, depth + 1)
        if is_numpy(value):
            return write_numpy(self, value, depth)
        return self.refer(value)

    def _by_value(self, value: Any) -> list[Any]:
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self._objects)
            self._objects.append(value)
            if place >= OBJECTS_LIMIT:
                raise TooLarge(f"data holds more than {OBJECTS_LIMIT} objects")
        return ["o", place]

    def write_items(self, values: Any, depth: int) -> list[Any]:
        return [self.write(value, depth) for value in values]

    def read(self, data: Any, depth: int) -> Any:
        kind = type(data)
        if kind in SCALAR_KINDS or kind is int:
            return data
        if kind is not list or not data or type(data[0]) is not str or depth > DEPTH_LIMIT:
            raise Malformed("shape")
        tag, parts = data[0], data[1:]
        if tag == "o":
            [place] = parts
            if type(place) is not int or place < 0:
                raise Malformed("object")
            return self._table[place]
        reader = READERS.get(tag)
        return self.resolve(tag, parts) if reader is None else reader(self, parts, depth + 1)

    def read_items(self, items: Any, depth: int) -> list[Any]:
        if type(items) is not list:
            raise Malformed("items")
        if list not in set(map(type, items)):
            if not set(map(type, items)) <= SCALAR_KINDS | {int}:
                raise Malformed("items")
            return list(items)
        return [self.read(item, depth) for item in items]

    def read_pairs(self, pairs: Any, depth: int) -> dict[Any, Any]:
        return {self.read(key, depth): self.read(value, depth) for key, value in pairs}


def attributes_of(value: Any) -> list[tuple[str, Any]]:
    """Names and values an object holds, in its dictionary and its slots."""
    found = [(name, held) for name, held in getattr(value, "__dict__", {}).items() if type(name) is str]
    return found + [(name, getattr(value, name)) for name in _slots(value) if hasattr(value, name)]


def set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Make these the attributes of an object, without calling any method of its class and without hiding one."""
    held = getattr(value, "__dict__", None)
    if held is not None:
        held.clear()
    for name, attribute in attributes.items():
        if type(name) is not str or callable(getattr(type(value), name, None)):
            raise Malformed("name")
        if name in _slots(value):
            object.__setattr__(value, name, attribute)
        elif held is not None:
            held[name] = attribute
        else:
            raise Malformed("name")


def _slots(value: Any) -> list[str]:
    found: list[str] = []
    for owner in type(value).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        found += (slots,) if isinstance(slots, str) else slots
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def restore(old: Any, new: Any) -> None:
    """Give a mutable argument the contents it has after the call, its parts keeping who they are where they fit."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        old[:] = [*map(_kept, old, new), *new[len(old) :]]
    elif isinstance(old, dict):
        merged = {key: _kept(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(merged)
    elif isinstance(old, tuple):
        for before, after in zip(old, new, strict=False):
            restore(before, after)
    elif isinstance(old, set):
        old.clear()
        old.update(new)
    elif isinstance(old, deque):
        old.clear()
        old.extend(new)
    elif type(old).__module__ == "numpy" and getattr(old, "shape", None) == getattr(new, "shape", None):
        old[...] = new
    elif isinstance(old, bytearray):
        old[:] = new


def _kept(before: Any, after: Any) -> Any:
    if type(before) is type(after) and isinstance(before, list | dict | set | deque):
        restore(before, after)
        return before
    return after
