"""How each kind of plain value is written as tagged JSON, and read back without running anything.

A tag and its parts are all a reader accepts; what does not fit raises, and the codec of `plain.py` calls it malformed.
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
"""Types of array elements that are plain numbers."""


class Unsendable(Exception):
    """A value of this kind cannot cross."""


class TooLarge(Exception):
    """A value is nested or numerous beyond the limits."""


class Malformed(Exception):
    """What arrived is no message of this language."""


class Walker(Protocol):
    """What a codec offers the kinds that hold other values."""

    def write(self, value: Any, depth: int) -> Any: ...

    def write_items(self, values: Any, depth: int) -> list[Any]: ...

    def read_items(self, items: Any, depth: int) -> list[Any]: ...

    def read_pairs(self, pairs: Any, depth: int) -> dict[Any, Any]: ...


def _integer(text: Any) -> int:
    if type(text) is not str:
        raise Malformed("integer")
    return int(text, 16)


def _text(text: Any) -> str:
    if type(text) is not str:
        raise Malformed("text")
    return text


def _numbers(items: Any) -> list[int]:
    if type(items) is not list or not all(type(item) is int for item in items):
        raise Malformed("numbers")
    return items


def is_numpy(value: Any) -> bool:
    """Whether it is an array or a scalar of numpy's."""
    return type(value).__module__ == "numpy" and hasattr(value, "tolist") and hasattr(value, "dtype")


def write_numpy(codec: Walker, value: Any, depth: int) -> Any:
    """Arrays of numbers as their bytes, other arrays as lists, scalars as Python's own."""
    if value.shape == () or not ARRAY.fullmatch(value.dtype.str):
        return codec.write(value.tolist(), depth)
    return ["N", value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]


def _read_numpy(codec: Walker, parts: list[Any], depth: int) -> Any:
    import numpy

    kind, shape, data = parts
    if not ARRAY.fullmatch(_text(kind)):
        raise Malformed("array")
    return numpy.frombuffer(base64.b64decode(_text(data)), dtype=kind).reshape(_numbers(shape)).copy()


def _write_tuple(codec: Walker, value: Any, depth: int) -> list[Any]:
    fields = getattr(type(value), "_fields", None)
    items = codec.write_items(tuple.__iter__(value), depth)
    if type(fields) is tuple and len(fields) == len(items):
        return ["nt", type(value).__name__, list(fields), items]
    return ["t", items]


def _read_named(codec: Walker, parts: list[Any], depth: int) -> Any:
    """A tuple whose items have names; made without the code that collections.namedtuple evaluates."""
    name, fields, items = parts
    values = codec.read_items(items, depth)
    named = {}
    for place, field in enumerate(fields):
        if not _text(field).isidentifier() or field.startswith("_") or hasattr(tuple, field):
            raise Malformed("field")
        named[field] = property(itemgetter(place))
    if len(named) != len(values):
        raise Malformed("fields")
    return type(_text(name), (tuple,), named | {"__slots__": (), "_fields": tuple(fields)})(values)


def _pairs_of(codec: Walker, value: Any, depth: int) -> list[Any]:
    return [[codec.write(key, depth), codec.write(item, depth)] for key, item in value.items()]


def _deque(codec: Walker, parts: list[Any], depth: int) -> Any:
    items, bound = parts
    return deque(codec.read_items(items, depth), None if bound is None else _numbers([bound])[0])


def _counter(codec: Walker, parts: list[Any], depth: int) -> Any:
    counter: Counter[Any] = Counter()
    dict.update(counter, codec.read_pairs(parts[0], depth))
    return counter


Writer = Callable[[Walker, Any, int], Any]
WRITERS: dict[type, Writer] = {
    list: lambda c, v, d: ["l", c.write_items(v, d)],
    tuple: _write_tuple,
    dict: lambda c, v, d: ["d", _pairs_of(c, v, d)],
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
    Counter: lambda c, v, d: ["dC", _pairs_of(c, v, d)],
    OrderedDict: lambda c, v, d: ["dO", _pairs_of(c, v, d)],
    defaultdict: lambda c, v, d: ["dD", _pairs_of(c, v, d)],
    deque: lambda c, v, d: ["Q", c.write_items(v, d), v.maxlen],
    type({}.keys()): lambda c, v, d: ["vk", c.write_items(v, d)],
    type({}.values()): lambda c, v, d: ["vv", c.write_items(v, d)],
    type({}.items()): lambda c, v, d: ["vi", [[c.write(k, d), c.write(i, d)] for k, i in v]],
}
SCALAR_BASES: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
BASES = [*(base for base in WRITERS if base is not dict), dict]
"""A dictionary last: some of the others are one too."""
TIMES: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}
Reader = Callable[[Walker, list[Any], int], Any]
READERS: dict[str, Reader] = {
    "i": lambda c, p, d: _integer(*p),
    "l": lambda c, p, d: c.read_items(p[0], d),
    "t": lambda c, p, d: tuple(c.read_items(p[0], d)),
    "nt": _read_named,
    "d": lambda c, p, d: c.read_pairs(p[0], d),
    "s": lambda c, p, d: set(c.read_items(p[0], d)),
    "z": lambda c, p, d: frozenset(c.read_items(p[0], d)),
    "b": lambda c, p, d: base64.b64decode(_text(*p), validate=True),
    "B": lambda c, p, d: bytearray(base64.b64decode(_text(*p), validate=True)),
    "c": lambda c, p, d: complex(*map(float, p)),
    "r": lambda c, p, d: range(*map(_integer, p)),
    "q": lambda c, p, d: Fraction(*map(_integer, p)),
    "D": lambda c, p, d: Decimal(_text(*p)),
    "T": lambda c, p, d: TIMES[p[0]].fromisoformat(_text(p[1])),
    "u": lambda c, p, d: timedelta(*_numbers(p)),
    "dC": _counter,
    "dO": lambda c, p, d: OrderedDict(c.read_pairs(p[0], d)),
    "dD": lambda c, p, d: defaultdict(None, c.read_pairs(p[0], d)),
    "Q": _deque,
    "vk": lambda c, p, d: dict.fromkeys(c.read_items(p[0], d)).keys(),
    "vv": lambda c, p, d: dict(enumerate(c.read_items(p[0], d))).values(),
    "vi": lambda c, p, d: c.read_pairs(p[0], d).items(),
    "N": _read_numpy,
}
