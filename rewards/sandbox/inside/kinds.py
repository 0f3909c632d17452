"""Write each type of plain value as tagged JSON, and read it back without running any code from the message.

A reader accepts only its tag's parts in the expected form, and raises an exception otherwise. The codec of `plain.py`
turns that exception into Malformed.
"""

import base64
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter
from typing import Any, Protocol

ARRAY = re.compile(r"[<>|=][biufc][0-9]{1,2}")
"""Type strings of numpy arrays whose elements are plain numbers."""


class Unsendable(Exception):
    """A value of this type cannot be sent."""


class TooLarge(Exception):
    """A value is nested too deep, or a message holds too much."""


class Malformed(Exception):
    """A received message is not in the expected form."""


class ItemCodec(Protocol):
    """The methods of `Codec` that writers and readers of containers call for the items."""

    def write(self, value: Any, depth: int) -> Any: ...

    def write_items(self, values: Any, depth: int) -> list[Any]: ...

    def read_items(self, items: Any, depth: int) -> list[Any]: ...

    def read_pairs(self, pairs: Any, depth: int) -> dict[Any, Any]: ...


def _parse_integer(text: Any) -> int:
    if type(text) is not str:
        raise Malformed("integer")
    return int(text, 16)


def _expect_text(text: Any) -> str:
    if type(text) is not str:
        raise Malformed("text")
    return text


def _expect_integers(items: Any) -> list[int]:
    if type(items) is not list or not all(type(item) is int for item in items):
        raise Malformed("numbers")
    return items


def is_numpy(value: Any) -> bool:
    """Return whether the value is a numpy array or scalar."""
    return type(value).__module__ == "numpy" and hasattr(value, "tolist") and hasattr(value, "dtype")


def write_numpy(codec: ItemCodec, value: Any, depth: int) -> Any:
    """Write arrays of numbers as bytes, other arrays as lists, and scalars as Python scalars."""
    if value.shape == () or not ARRAY.fullmatch(value.dtype.str):
        return codec.write(value.tolist(), depth)
    return ["N", value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]


def _read_numpy(codec: ItemCodec, parts: list[Any], depth: int) -> Any:
    import numpy

    kind, shape, data = parts
    if not ARRAY.fullmatch(_expect_text(kind)):
        raise Malformed("array")
    return numpy.frombuffer(base64.b64decode(_expect_text(data)), dtype=kind).reshape(_expect_integers(shape)).copy()


def _write_tuple(codec: ItemCodec, value: Any, depth: int) -> list[Any]:
    fields = getattr(type(value), "_fields", None)
    items = codec.write_items(tuple.__iter__(value), depth)
    if type(fields) is tuple and len(fields) == len(items):
        return ["nt", type(value).__name__, list(fields), items]
    return ["t", items]


def _read_named(codec: ItemCodec, parts: list[Any], depth: int) -> Any:
    """Make a named tuple without `collections.namedtuple`, which evaluates code made from the names."""
    name, fields, items = parts
    values = codec.read_items(items, depth)
    properties = {}
    for index, field in enumerate(fields):
        if not _expect_text(field).isidentifier() or field.startswith("_") or hasattr(tuple, field):
            raise Malformed("field")
        properties[field] = property(itemgetter(index))
    if len(properties) != len(values):
        raise Malformed("fields")
    return type(_expect_text(name), (tuple,), properties | {"__slots__": (), "_fields": tuple(fields)})(values)


def _write_pairs(codec: ItemCodec, value: Any, depth: int) -> list[Any]:
    return [[codec.write(key, depth), codec.write(item, depth)] for key, item in value.items()]


def _read_deque(codec: ItemCodec, parts: list[Any], depth: int) -> Any:
    items, max_length = parts
    return deque(codec.read_items(items, depth), None if max_length is None else _expect_integers([max_length])[0])


def _read_counter(codec: ItemCodec, parts: list[Any], depth: int) -> Any:
    counter: Counter[Any] = Counter()
    dict.update(counter, codec.read_pairs(parts[0], depth))
    return counter


Writer = Callable[[ItemCodec, Any, int], Any]
WRITERS: dict[type, Writer] = {
    list: lambda c, v, d: ["l", c.write_items(v, d)],
    tuple: _write_tuple,
    dict: lambda c, v, d: ["d", _write_pairs(c, v, d)],
    set: lambda c, v, d: ["s", c.write_items(v, d)],
    frozenset: lambda c, v, d: ["z", c.write_items(v, d)],
    bytes: lambda c, v, d: ["b", base64.b64encode(v).decode()],
    bytearray: lambda c, v, d: ["B", base64.b64encode(v).decode()],
    complex: lambda c, v, d: ["c", v.real, v.imag],
    range: lambda c, v, d: ["r", hex(v.start), hex(v.stop), hex(v.step)],
    Fraction: lambda c, v, d: ["q", hex(v.numerator), hex(v.denominator)],
    Decimal: lambda c, v, d: ["D", str(v)],
    datetime: lambda c, v, d: ["T", "datetime", v.isoformat()],
    date: lambda c, v, d: ["T", "date", v.isoformat()],
    time: lambda c, v, d: ["T", "time", v.isoformat()],
    timedelta: lambda c, v, d: ["u", v.days, v.seconds, v.microseconds],
    Counter: lambda c, v, d: ["dC", _write_pairs(c, v, d)],
    OrderedDict: lambda c, v, d: ["dO", _write_pairs(c, v, d)],
    defaultdict: lambda c, v, d: ["dD", _write_pairs(c, v, d)],
    deque: lambda c, v, d: ["Q", c.write_items(v, d), v.maxlen],
    type({}.keys()): lambda c, v, d: ["vk", c.write_items(v, d)],
    type({}.values()): lambda c, v, d: ["vv", c.write_items(v, d)],
    type({}.items()): lambda c, v, d: ["vi", [[c.write(k, d), c.write(i, d)] for k, i in v]],
}
SCALAR_BASES: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
BASES = [*(base for base in WRITERS if base is not dict), dict]
"""Types whose subclasses are sent as the type. `dict` is last, because some of the others are subclasses of it."""
TIMES: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}
Reader = Callable[[ItemCodec, list[Any], int], Any]
READERS: dict[str, Reader] = {
    "i": lambda c, p, d: _parse_integer(*p),
    "l": lambda c, p, d: c.read_items(p[0], d),
    "t": lambda c, p, d: tuple(c.read_items(p[0], d)),
    "nt": _read_named,
    "d": lambda c, p, d: c.read_pairs(p[0], d),
    "s": lambda c, p, d: set(c.read_items(p[0], d)),
    "z": lambda c, p, d: frozenset(c.read_items(p[0], d)),
    "b": lambda c, p, d: base64.b64decode(_expect_text(*p), validate=True),
    "B": lambda c, p, d: bytearray(base64.b64decode(_expect_text(*p), validate=True)),
    "c": lambda c, p, d: complex(*map(float, p)),
    "r": lambda c, p, d: range(*map(_parse_integer, p)),
    "q": lambda c, p, d: Fraction(*map(_parse_integer, p)),
    "D": lambda c, p, d: Decimal(_expect_text(*p)),
    "T": lambda c, p, d: TIMES[p[0]].fromisoformat(_expect_text(p[1])),
    "u": lambda c, p, d: timedelta(*_expect_integers(p)),
    "dC": _read_counter,
    "dO": lambda c, p, d: OrderedDict(c.read_pairs(p[0], d)),
    "dD": lambda c, p, d: defaultdict(None, c.read_pairs(p[0], d)),
    "Q": _read_deque,
    "vk": lambda c, p, d: dict.fromkeys(c.read_items(p[0], d)).keys(),
    "vv": lambda c, p, d: dict(enumerate(c.read_items(p[0], d))).values(),
    "vi": lambda c, p, d: c.read_pairs(p[0], d).items(),
    "N": _read_numpy,
}
