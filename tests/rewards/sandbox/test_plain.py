"""The codec of plain data: values survive encoding and decoding, and malformed messages are refused."""

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.sandbox.inside.kinds import Malformed, TooLarge, Unsendable
from rewards.sandbox.inside.plain import Codec, update_in_place

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.fractions()
    | st.complex_numbers(allow_nan=False)
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(SCALARS, inner)
        | st.sets(SCALARS)
        | st.frozensets(SCALARS)
    ),
    max_leaves=20,
)


def round_trip(value: Any, writer: Codec | None = None, reader: Codec | None = None) -> Any:
    encoded, table, _ = (writer or Codec()).encode([value])
    wire = json.loads(json.dumps([encoded, table]))
    return (reader or Codec()).decode(*wire)[0][0]


def read(data: Any, table: Any = ()) -> Any:
    return Codec().decode([data], list(table))[0][0]


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_plain_data_is_decoded_to_equal_values_of_the_same_types(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert repr(type(back)) == repr(type(value))
    assert round_trip([value]) == [value]


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        10**300,
        -0.0,
        math.inf,
        "\ud800\x00",
        bytearray(b"\xff"),
        range(1, 10**30, 7),
        Decimal("-1.50"),
        date(2024, 2, 29),
        datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
        timedelta(days=-1, microseconds=1),
        Counter("aab"),
        OrderedDict([(2, 1), (1, 2)]),
        deque([1, [2]], maxlen=3),
        {(1, frozenset([2])): [{"a": None}]},
    ],
    ids=repr,
)
def test_less_common_types_are_decoded_to_equal_values(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_nan_views_and_default_dictionaries_are_decoded() -> None:
    assert math.isnan(round_trip(math.nan))
    assert round_trip(10**5000) == 10**5000
    assert list(round_trip({1: 2}.values())) == [2]
    assert round_trip({1: 2}.items()) == {(1, 2)}
    assert round_trip(defaultdict(list, {1: [2]})) == {1: [2]}


def test_arrays_are_decoded_and_numpy_scalars_become_python_scalars() -> None:
    array = numpy.array([[1.5, 2.0]], dtype=numpy.float32)
    back = round_trip(array)
    assert back.dtype == array.dtype and back.shape == (1, 2) and (back == array).all()
    assert type(round_trip(numpy.float64(2.0))) is float
    assert round_trip(numpy.array(["a", None], dtype=object)) == ["a", None]


def test_an_instance_of_a_subclass_arrives_as_its_base_without_the_methods() -> None:
    class Text(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    class Several(list[Any]):
        def __eq__(self, other: object) -> bool:
            return True

    class Level(IntEnum):
        HIGH = 3

    for value, base in ((Text("a"), "a"), (Several([1]), [1]), (Level.HIGH, 3)):
        back = round_trip(value)
        assert type(back) is type(base) and back == base
    assert round_trip(Text("a")) != "b"


def test_a_named_tuple_keeps_its_names() -> None:
    point = round_trip(namedtuple("Point", "x y")(1, [2]))
    assert point == (1, [2])
    assert (point.x, point.y) == (1, [2])


class Node:
    def __init__(self, value: int, following: "Node | None" = None) -> None:
        self.value = value
        self.following = following

    def same(self, other: "Node") -> bool:
        return self.value == other.value


def nodes() -> Codec:
    return Codec(by_value=lambda value: type(value) is Node, new_object=lambda name: object.__new__(Node))


def test_rings_and_long_chains_of_objects_are_sent_by_value() -> None:
    ring = Node(1)
    ring.following = Node(2, ring)
    back = round_trip(ring, nodes(), nodes())
    assert (back.value, back.following.value) == (1, 2)
    assert back.following.following is back
    chain = None
    for value in range(5000):
        chain = Node(value, chain)
    back, count = round_trip(chain, nodes(), nodes()), 0
    while back is not None:
        back, count = back.following, count + 1
    assert count == 5000


def test_an_object_that_is_sent_back_is_the_same_object_with_new_attributes() -> None:
    sent_node = Node(1)
    encoded, table, sent = nodes().encode([sent_node])
    [received_node], received = nodes().decode(encoded, table)
    received_node.value = 7
    encoded, table, _ = nodes().encode([received_node, Node(8)], received)
    [back, new], _ = nodes().decode(encoded, table, sent)
    assert back is sent_node and sent_node.value == 7
    assert new is not sent_node and new.value == 8


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        [1],
        ["l"],
        ["l", [{}]],
        ["l", {}],
        ["zz", 1],
        ["i", 5],
        ["i", "0x"],
        ["i", "g"],
        ["s", [["l", []]]],
        ["d", [[1]]],
        ["d", [[["l", []], 1]]],
        ["q", "1", "0"],
        ["b", "!"],
        ["D", "x"],
        ["T", "datetime", "x"],
        ["T", "eval", "1"],
        ["u", 1.5],
        ["u", 10**20],
        ["r", "0", "1", "0"],
        ["nt", "P", ["x"], [1, 2]],
        ["nt", "P", ["x;y"], [1]],
        ["nt", "P", ["__class__"], [1]],
        ["nt", "P", ["count"], [1]],
        ["N", "|O", [1], "AAAAAAAAAAA="],
        ["N", "<f8", [2**40, 2**40], ""],
        ["N", "<f8", [1], "AA=="],
        ["o", 0],
        ["o", -1],
        ["h", 1],
    ],
    ids=json.dumps,
)
def test_malformed_data_is_refused(data: Any) -> None:
    with pytest.raises(Malformed):
        read(data)
    with pytest.raises(Malformed):
        read(["l", [data]])


def test_a_message_cannot_hide_a_method_or_make_objects_of_another_class() -> None:
    with pytest.raises(Malformed):
        nodes().decode([["o", 0]], [["Node", [["same", 1]], None]])
    with pytest.raises(Malformed):
        nodes().decode([["o", 0]], [["Node", [["__class__", 1]], None]])
    with pytest.raises(Malformed):
        Codec().decode([["o", 0]], [["Node", [], None]])
    with pytest.raises(Malformed):
        nodes().decode([["o", 0]], [["Node", [], 3]])


def test_nesting_depth_is_limited_in_both_directions() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TooLarge):
        Codec().encode([deep])
    data: Any = ["l", []]
    for _ in range(300):
        data = ["l", [data]]
    with pytest.raises(Malformed):
        read(data)
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(TooLarge):
        Codec().encode([ring])


def test_values_that_are_not_plain_data_are_unsendable_without_a_hook() -> None:
    for value in (object(), len, Node(1), json):
        with pytest.raises(Unsendable):
            Codec().encode([value])


def test_an_argument_is_updated_in_place_and_its_parts_keep_their_identity() -> None:
    row, inner = [1, 2], {"a": 1}
    old = [row, inner, (row,), 5]
    update_in_place(old, [[3], {"b": 2}, ([3],), 6, 7])
    assert old == [[3], {"b": 2}, (row,), 6, 7]
    assert old[0] is row and row == [3]
    assert old[1] is inner
    numbers = {1, 2}
    update_in_place(numbers, {3})
    assert numbers == {3}
    update_in_place(numbers, [4])
    assert numbers == {3}
