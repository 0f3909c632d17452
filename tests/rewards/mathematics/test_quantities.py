"""Check the reading of numbers with units: table of units, conversions, words that multiply, and nouns."""

from fractions import Fraction

import pytest

from rewards.mathematics.quantities.counted import NOUNS, stem
from rewards.mathematics.quantities.parsing import counted_things, parse_quantity, split_unit
from rewards.mathematics.quantities.unit_reader import NOT_NOUNS
from rewards.mathematics.quantities.units import UNITS, find_unit


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1 mile", "1609.344 m"),
        ("1 inch", "2.54 cm"),
        ("1 yard", "36 inches"),
        ("1 gallon", "16 cups"),
        ("1 gallon", "768 tsp"),
        ("1 pound", "16 oz"),
        ("1 week", "168 hours"),
        ("1 m^2", "10000 cm^2"),
        ("1 litre", "1000 cubic cm"),
        ("36 km/h", r"10\text{ m/s}"),
        ("90 km per hour", r"25\text{ m s^{-1}}"),
        ("1 N", r"1\text{ kg m/s^2}"),
        ("1 kWh", "3600000 joules"),
        ("$5.25", "525 cents"),
        ("1 year", "12 months"),
        ("5 feet 3 inches", "63 inches"),
    ],
)
def test_quantities_of_one_dimension_compare_by_size(one: str, other: str) -> None:
    left, right = parse_quantity(one.replace(" N", r"\text{ N}")), parse_quantity(other)
    assert left is not None and right is not None
    assert left.equals(right) and right.equals(left)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1 mile", "1609 m"),
        ("5 m", "5 m^2"),
        ("5 degrees", "5 radians"),
        ("5 celsius", "5 kelvin"),
        ("1 month", "30 days"),
        ("5 dollars", "5 euros"),
        ("2 hours 30 minutes", "2.3 hours"),
        ("5 km per hour", "5 miles per hour"),
        ("3 cups", "3 apples"),
    ],
)
def test_other_quantities_are_different(one: str, other: str) -> None:
    left, right = parse_quantity(one), parse_quantity(other)
    assert left is not None and right is not None and not left.equals(right) and not right.equals(left)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2.5 million", Fraction(2_500_000)),
        ("3 hundred thousand", Fraction(300_000)),
        ("5 lakh", Fraction(500_000)),
        ("5 dozen", Fraction(60)),
        ("2 thirds", Fraction(2, 3)),
        ("5 tenths", Fraction(1, 2)),
        ("7 thousandths", Fraction(7, 1000)),
        (r"2\text{ halves}", Fraction(1)),
        ("2 million dollars", Fraction(2_000_000)),
        (r"0.\overline{3} cm", Fraction(1, 3)),
    ],
)
def test_a_word_behind_a_number_that_multiplies_it_is_read(text: str, value: Fraction) -> None:
    quantity = parse_quantity(text)
    assert quantity is not None and quantity.value == value


def test_no_word_that_changes_a_number_is_a_noun() -> None:
    changing = """half halve third thirds fourth tenth hundredth thousandth pair couple dozen gross score double triple
    negative minus less fewer more squared cubed inverse reciprocal binary octal percent permille million repeating"""
    assert not {stem(word) for word in changing.split()} & NOUNS
    assert not {word for word in NOT_NOUNS if parse_quantity(f"5 {word}", None) is not None} - {
        "dozen", "half", "hundred", "thousand", "million", "billion", "trillion", "times"
    }  # fmt: skip


def test_the_nouns_of_the_gold_are_open_and_those_of_an_answer_are_closed() -> None:
    gold = parse_quantity("5 wugs", None)
    assert gold is not None and gold.names == {"wug"}
    assert parse_quantity("5 wugs") is None
    assert parse_quantity("5 wugs", gold.names) == gold


def test_a_letter_is_a_unit_only_behind_a_number_or_upright() -> None:
    plain, upright = parse_quantity("5 m"), parse_quantity(r"5\text{ m}")
    assert plain is not None and plain.symbols and upright is not None and not upright.symbols
    assert split_unit(r"\pi r^2 h")[0] == r"\pi r^2 h" and split_unit(r"\mu mg")[0] == r"\mu mg"
    assert split_unit(r"\pi r^2 \text{ h}")[0] == r"\pi r^2" and split_unit(r"9\pi cm")[0] == r"9\pi"


@pytest.mark.parametrize("word", ["M", "T", "xyz", "Cm", "KM", "mins of"])
def test_a_word_that_is_no_unit_of_the_table_is_none(word: str) -> None:
    assert find_unit(word) is None


def test_units_are_found_in_the_singular_and_plural_and_by_abbreviation() -> None:
    assert find_unit("metres") is find_unit("meter") is find_unit("m") is UNITS["metre"]
    assert find_unit("lbs") is find_unit("Pounds") is UNITS["lb"] and find_unit("feet") is UNITS["ft"]


def test_the_things_a_question_counts_are_behind_how_many_and_behind_numbers() -> None:
    assert counted_things("Ann has 3 red boxes. How many wugs fit?") >= {"red", "box", "wug"}
    assert "ann" not in counted_things("Ann has 3 red boxes. How many wugs fit?")
