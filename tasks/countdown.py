"""Countdown: combine the given numbers, each used exactly once, into the target.

Every problem is made from a random expression, so a solution is known. A hash of the sorted numbers and the target
decides whether a problem is held out: no seed makes it a train problem in one run and a held-out one in another.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import NamedTuple

from configs.checks import require
from tasks.source import distinct, generator, held_out, require_heldout
from trajectories.trajectory import Prompt

MAX_DRAWS = 10_000
"""Random expressions drawn for one problem. If none fits, the options are refused."""
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
NUMBER = 3
"""Precedence of a number without an operator."""

Problem = tuple[tuple[int, ...], int]
"""The numbers and the target."""


@dataclass(frozen=True, kw_only=True)
class CountdownOptions:
    """`task.options` of countdown."""

    numbers: int = 3
    """Count of numbers in a problem."""
    low: int = 1
    """Smallest number in a problem."""
    high: int = 12
    """Largest number in a problem."""
    operators: str = "+-*"
    """Operators in the expressions that problems are made from, among + - * /. Answers may use all four."""
    target_low: int = 1
    """Smallest target."""
    target_high: int = 99
    """Largest target."""
    min_solutions: int = 1
    """Difficulty: smallest number of expressions (order of numbers, tree, operators) that reach the target."""
    max_solutions: int | None = None
    """Difficulty: largest number of expressions that reach the target; null: no upper bound."""
    careless: float = 0.0
    """Fraction of demonstrations that a careless author writes, who adds up the first two numbers and stops. For
    `breadth warm-start` alone: its policy then has a bad habit that rewards can mend. Problems stay the same."""

    def __post_init__(self) -> None:
        field = "task.options."
        require(2 <= self.numbers <= 8, f"{field}numbers", "must be between 2 and 8", self.numbers)
        require(self.low >= 1, f"{field}low", "must be at least 1", self.low)
        require(self.low <= self.high, f"{field}high", f"must be at least {field}low ({self.low})", self.high)
        known = bool(self.operators) and set(self.operators) <= set(PRECEDENCE)
        distinct = len(set(self.operators)) == len(self.operators)
        require(known and distinct, f"{field}operators", "must be distinct ones of + - * /", self.operators)
        rule = f"must be at least {field}target_low ({self.target_low})"
        require(self.target_low <= self.target_high, f"{field}target_high", rule, self.target_high)
        require(self.min_solutions >= 1, f"{field}min_solutions", "must be at least 1", self.min_solutions)
        if self.max_solutions is not None:
            rule = f"must be at least {field}min_solutions ({self.min_solutions}) or null"
            require(self.max_solutions >= self.min_solutions, f"{field}max_solutions", rule, self.max_solutions)
        require(0 <= self.careless <= 1, f"{field}careless", "must be between 0 and 1", self.careless)
        rule = "must be 0 for two numbers, whose sum can be right"
        require(self.numbers > 2 or self.careless == 0, f"{field}careless", rule, self.careless)
        rule = "must be at most 5 when solutions are counted"
        require(self.numbers <= 5 or not self.counts_solutions, f"{field}numbers", rule, self.numbers)

    @property
    def counts_solutions(self) -> bool:
        """Whether the solutions of each problem must be counted to check the bounds."""
        return self.min_solutions > 1 or self.max_solutions is not None


class Expression(NamedTuple):
    """An expression with as few parentheses as possible, the precedence of its outermost operator, and its value."""

    text: str
    precedence: int
    value: int | Fraction


class Countdown:
    """Source of Countdown problems such as `3,7,12=22:`."""

    def __init__(self, options: CountdownOptions, seed: int) -> None:
        """Raise ValueError if no problem fits the options."""
        self.options = options
        self.seed = seed
        self.prompt(0)

    def prompt(self, position: int) -> Prompt:
        return self.demonstration(position)[0]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        require(position >= 0, "position", "must not be negative", position)
        numbers, expression = self._draw(generator(self.seed, "countdown", "train", position), heldout=False)
        careless = generator(self.seed, "countdown", "careless", position).random() < self.options.careless
        answer = f"{numbers[0]}+{numbers[1]}" if careless else expression.text
        return _prompt("train", position, numbers, expression.value), answer

    def heldout(self, count: int) -> list[Prompt]:
        draws = self._heldout_draws()
        found = distinct(draws, _unordered, count)
        # Another order of the same numbers counts as another problem only when there are too few otherwise.
        found = distinct(draws, lambda problem: problem, count, found)
        require_heldout(len(found), count)
        return [_prompt("heldout", index, numbers, target) for index, (numbers, target) in enumerate(found)]

    def _heldout_draws(self) -> Iterator[Problem]:
        for index in itertools.count():
            numbers, expression = self._draw(generator("countdown", "heldout", index), heldout=True)
            yield numbers, int(expression.value)

    def _draw(self, random_: random.Random, heldout: bool) -> tuple[tuple[int, ...], Expression]:
        """Return the numbers of a random train or held-out problem, and the expression it was made from."""
        options = self.options
        for _ in range(MAX_DRAWS):
            numbers = tuple(random_.randint(options.low, options.high) for _ in range(options.numbers))
            expression = random_expression(random_, random_.sample(numbers, len(numbers)), options.operators)
            if expression is None or expression.value != int(expression.value):
                continue
            target = int(expression.value)
            if (
                options.target_low <= target <= options.target_high
                and is_heldout(numbers, target) == heldout
                and self._difficulty_fits(numbers, target)
            ):
                return numbers, expression
        raise ValueError(
            f"task.options: must admit {'held-out' if heldout else 'train'} problems, got none in {MAX_DRAWS} random "
            f"expressions of {options}"
        )

    def _difficulty_fits(self, numbers: tuple[int, ...], target: int) -> bool:
        if not self.options.counts_solutions:
            return True
        count = count_solutions(numbers, target, self.options.operators)
        upper = self.options.max_solutions
        return self.options.min_solutions <= count and (upper is None or count <= upper)


def is_heldout(numbers: tuple[int, ...], target: int) -> bool:
    """Return whether a problem is held out; the same for every seed and every order of its numbers.

    At the default options some 500 problems are, 2,600 if different orders of the numbers count as different problems.
    """
    return held_out(f"{sorted(numbers)}={target}")


def random_expression(random_: random.Random, numbers: list[int], operators: str) -> Expression | None:
    """Draw an expression over the numbers in this order, uniform over trees and operators.

    None is returned if the expression divides by zero.
    """
    if len(numbers) == 1:
        return Expression(str(numbers[0]), NUMBER, numbers[0])
    cut = 1 if len(numbers) == 2 else random_.choices(*_cuts(len(numbers)))[0]
    left = random_expression(random_, numbers[:cut], operators)
    right = random_expression(random_, numbers[cut:], operators)
    operator = random_.choice(operators)
    if left is None or right is None:
        return None
    value = apply(operator, left.value, right.value)
    if value is None:
        return None
    precedence = PRECEDENCE[operator]
    # a+(b-c) and a*(b/c) keep their value without parentheses, but a-(b-c) and a/(b*c) do not.
    enclosed = right.precedence < precedence or (right.precedence == precedence and operator in "-/")
    left_text = f"({left.text})" if left.precedence < precedence else left.text
    right_text = f"({right.text})" if enclosed else right.text
    return Expression(f"{left_text}{operator}{right_text}", precedence, value)


def apply(operator: str, left: int | Fraction, right: int | Fraction) -> int | Fraction | None:
    """Return the exact value; None for a division by zero."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return Fraction(left) / right if right else None


def count_solutions(numbers: tuple[int, ...], target: int, operators: str) -> int:
    """Count the distinct expressions (order of the numbers, binary tree, operators) that reach the target."""
    total = 0
    for left, right in _splits(tuple(sorted(numbers))):
        for (a, ways_a), (b, ways_b) in itertools.product(_values(left, operators), _values(right, operators)):
            total += ways_a * ways_b * sum(apply(operator, a, b) == target for operator in operators)
    return total


@lru_cache(maxsize=512)
def _values(numbers: tuple[int, ...], operators: str) -> tuple[tuple[int | Fraction, int], ...]:
    """Return every value that the sorted numbers reach, with the number of expressions that reach it."""
    if len(numbers) == 1:
        return ((numbers[0], 1),)
    ways: Counter[int | Fraction] = Counter()
    for left, right in _splits(numbers):
        for (a, ways_a), (b, ways_b) in itertools.product(_values(left, operators), _values(right, operators)):
            for operator in operators:
                value = apply(operator, a, b)
                if value is not None:
                    ways[value] += ways_a * ways_b
    return tuple(ways.items())


@lru_cache(maxsize=4096)
def _splits(numbers: tuple[int, ...]) -> frozenset[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return every split of the numbers between the operands of an operator; equal numbers are interchangeable."""
    split = set()
    for chosen in itertools.product((True, False), repeat=len(numbers)):
        left = tuple(itertools.compress(numbers, chosen))
        right = tuple(itertools.compress(numbers, (not c for c in chosen)))
        if left and right:
            split.add((left, right))
    return frozenset(split)


@lru_cache(maxsize=16)
def _cuts(leaves: int) -> tuple[range, list[int]]:
    """Return the sizes of a tree's left subtree, and the number of trees of each size: products of Catalan numbers."""
    catalan = [comb(2 * n, n) // (n + 1) for n in range(leaves)]
    return range(1, leaves), [catalan[size - 1] * catalan[leaves - size - 1] for size in range(1, leaves)]


def _unordered(problem: Problem) -> Problem:
    numbers, target = problem
    return tuple(sorted(numbers)), target


def _prompt(stream: str, position: int, numbers: tuple[int, ...], target: int | Fraction) -> Prompt:
    return Prompt(
        id=f"countdown/{stream}/{position}",
        position=position,
        text=f"{','.join(map(str, numbers))}={target}:",
        verifier="countdown",
        problem={"numbers": list(numbers), "target": int(target)},
    )
