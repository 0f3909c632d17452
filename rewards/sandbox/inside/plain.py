"""Encode plain data as tagged JSON for the channel between a program and its tests, and decode it.

Nothing in a message can run code. None, booleans, strings, floats and small integers stand for themselves. Every other
value is a list: a tag, then its parts. Values that are not plain data are encoded and decoded by two hooks of each side
(`encode_reference`, `decode_reference`), as numbers that only the two sides understand. Objects of classes that both
sides know are sent by value in a separate table, so rings and long chains of them need no nesting. An instance of a
subclass arrives as an instance of its base. Decoding limits the nesting depth and creates no other objects.
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
"""Maximum nesting of containers."""
SMALL = 2**53
"""Integers whose absolute value is below this stand for themselves; others are written in hexadecimal."""
OBJECTS_LIMIT = 100_000
"""Maximum number of objects sent by value in one message."""
SCALAR_KINDS = {type(None), bool, str, float}


def _refuse_encoding(value: Any) -> list[Any]:
    raise Unsendable(type(value).__name__)


def _refuse_decoding(tag: str, parts: list[Any]) -> Any:
    raise Malformed(tag)


class Codec:
    """Encoder and decoder of one side.

    Args:
        encode_reference: returns the tagged list of a value that is not plain data.
        decode_reference: returns the value for such a tag and its parts, as the other side encodes them.
        by_value: whether an object is sent by value.
        new_object: makes an object without attributes, of the class with the given name.
        by_reference: whether an object is sent as a reference although its class has a plain base.
    """

    def __init__(
        self,
        encode_reference: Callable[[Any], list[Any]] = _refuse_encoding,
        decode_reference: Callable[[str, list[Any]], Any] = _refuse_decoding,
        by_value: Callable[[Any], bool] = lambda value: False,
        new_object: Callable[[str], Any] | None = None,
        by_reference: Callable[[Any], bool] = lambda value: False,
    ) -> None:
        self.encode_reference = encode_reference
        self.decode_reference = decode_reference
        self.by_value = by_value
        self.new_object = new_object
        self.by_reference = by_reference
        self._index_of: dict[int, int] = {}
        self._objects: list[Any] = []
        self._table: list[Any] = []

    def encode(self, values: Sequence[Any], origins: Sequence[Any] = ()) -> tuple[list[Any], list[Any], list[Any]]:
        """Encode values for one message.

        Args:
            origins: the objects of a received table. An object among them is named by its index in that table.

        Returns:
            The encoded values, the table of the objects sent by value, and those objects.

        Raises:
            TooLarge: the values exceed a limit.
            Unsendable: a value cannot be sent.
        """
        objects: list[Any] = []
        table: list[Any] = []
        origin_of = {id(origin): index for index, origin in enumerate(origins)}
        self._index_of, self._objects = {}, objects
        encoded = [self.write(value, 0) for value in values]
        while len(table) < len(objects):
            item = objects[len(table)]
            attributes = [[name, self.write(value, 1)] for name, value in attributes_of(item)]
            table.append([type(item).__name__, attributes, origin_of.get(id(item))])
        return encoded, table, objects

    def decode(self, encoded: Any, table: Any, origins: Sequence[Any] = ()) -> tuple[list[Any], list[Any]]:
        """Decode the values of one message.

        Args:
            encoded: the encoded values.
            table: the table of objects sent by value.
            origins: the objects sent before. An object that comes back is the same object with new attributes.

        Returns:
            The values, and the objects of the table.

        Raises:
            Malformed: the message is not in the expected form.
        """
        try:
            objects = [self._make_object(entry, origins) for entry in table]
            self._table = objects
            for item, entry in zip(objects, table, strict=True):
                set_attributes(item, {name: self.read(value, 1) for name, value in entry[1]})
            return [self.read(value, 0) for value in encoded], objects
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise Malformed(type(error).__name__) from None

    def _make_object(self, entry: Any, origins: Sequence[Any]) -> Any:
        name, _, origin = entry
        if origin is not None:
            if type(origin) is not int or not 0 <= origin < len(origins):
                raise Malformed("origin")
            return origins[origin]
        if self.new_object is None or type(name) is not str:
            raise Malformed("class")
        return self.new_object(name)

    def write(self, value: Any, depth: int) -> Any:
        """Encode one value at a nesting depth."""
        kind = type(value)
        if kind in SCALAR_KINDS:
            return value
        if kind is int:
            return value if -SMALL < value < SMALL else ["i", hex(value)]
        if depth >= DEPTH_LIMIT:
            raise TooLarge(f"the data is nested more than {DEPTH_LIMIT} levels deep")
        if kind is list and set(map(type, value)) <= {int} and (not value or -SMALL < min(value) <= max(value) < SMALL):
            return ["l", value.copy()]
        writer = WRITERS.get(kind)
        if writer is not None:
            return writer(self, value, depth + 1)
        if self.by_value(value):
            return self._write_object(value)
        if self.by_reference(value):
            return self.encode_reference(value)
        for base, flatten in SCALAR_BASES.items():
            if isinstance(value, base):
                return self.write(flatten(value), depth)
        for base in BASES:
            if isinstance(value, base):
                return WRITERS[base](self, value, depth + 1)
        if is_numpy(value):
            return write_numpy(self, value, depth)
        return self.encode_reference(value)

    def _write_object(self, value: Any) -> list[Any]:
        index = self._index_of.get(id(value))
        if index is None:
            index = self._index_of[id(value)] = len(self._objects)
            self._objects.append(value)
            if index >= OBJECTS_LIMIT:
                raise TooLarge(f"the data holds more than {OBJECTS_LIMIT} objects")
        return ["o", index]

    def write_items(self, values: Any, depth: int) -> list[Any]:
        return [self.write(value, depth) for value in values]

    def read(self, data: Any, depth: int) -> Any:
        """Decode one value at a nesting depth."""
        kind = type(data)
        if kind in SCALAR_KINDS or kind is int:
            return data
        if kind is not list or not data or type(data[0]) is not str or depth > DEPTH_LIMIT:
            raise Malformed("shape")
        tag, parts = data[0], data[1:]
        if tag == "o":
            [index] = parts
            if type(index) is not int or index < 0:
                raise Malformed("object")
            return self._table[index]
        reader = READERS.get(tag)
        return self.decode_reference(tag, parts) if reader is None else reader(self, parts, depth + 1)

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
    """Return the names and values of an object's attributes, from its dictionary and its slots."""
    found = [(name, held) for name, held in getattr(value, "__dict__", {}).items() if type(name) is str]
    return found + [(name, getattr(value, name)) for name in _slots(value) if hasattr(value, name)]


def set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Replace the attributes of an object. No method of its class is called, and none can be hidden by an attribute."""
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


def update_in_place(old: Any, new: Any) -> None:
    """Give a mutable argument the contents it has after the call. Parts of the same type keep their identity."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        old[:] = [*map(_updated, old, new), *new[len(old) :]]
    elif isinstance(old, dict):
        merged = {key: _updated(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(merged)
    elif isinstance(old, tuple):
        for before, after in zip(old, new, strict=False):
            update_in_place(before, after)
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


def _updated(before: Any, after: Any) -> Any:
    """Return `before`, updated in index, if it is mutable and of the same type; else `after`."""
    if type(before) is type(after) and isinstance(before, list | dict | set | deque):
        update_in_place(before, after)
        return before
    return after
