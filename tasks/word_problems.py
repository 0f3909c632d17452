"""Arithmetic word problems with worked examples in the prompt, for language models.

A problem is a story around one calculation, such as `14 + 23`. A hash of the calculation decides whether a problem is
held out, whatever the story, the seed and the options are.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from configs.checks import require
from tasks.source import distinct, generator, held_out, require_heldout
from trajectories.trajectory import Prompt

INSTRUCTION = "Solve the last problem like the others."
NAMES = ("Ada", "Ben", "Eva", "Leo", "Lucy", "Max", "Mia", "Sam")
THINGS = ("apples", "books", "cards", "coins", "pears", "pens", "shells", "stamps")
STORIES = {
    "+": (
        "{name} has {left} {things} and buys {right} more. How many {things} does {name} have now?",
        "There are {left} {things} in a box and {right} on a table. How many {things} are there?",
    ),
    "-": (
        "{name} has {left} {things} and gives away {right}. How many {things} are left?",
        "A shop has {left} {things} and sells {right}. How many {things} are left?",
    ),
    "*": (
        "{name} has {left} boxes with {right} {things} each. How many {things} does {name} have?",
        "A shop sells {left} bags of {right} {things}. How many {things} does it sell?",
    ),
}
"""The stories of each operation."""


class Calculation(NamedTuple):
    """Two numbers and the operation between them."""

    left: int
    operation: str
    right: int

    @property
    def result(self) -> int:
        left, right = self.left, self.right
        return {"+": left + right, "-": left - right, "*": left * right}[self.operation]

    @property
    def key(self) -> str:
        """Identify the calculation; `14 + 23` and `23 + 14` are the same one."""
        numbers = [self.left, self.right] if self.operation == "-" else sorted((self.left, self.right))
        return f"word_problems/{numbers[0]} {self.operation} {numbers[1]}"

    @property
    def solution(self) -> str:
        return f"{self.left} {self.operation} {self.right} = {self.result}. The answer is {self.result}."


@dataclass(frozen=True, kw_only=True)
class WordProblemsOptions:
    """`task.options` of word_problems."""

    largest: int = 50
    """Largest number in a problem, its answer included."""
    examples: int = 2
    """Solved problems before the problem that is asked."""

    def __post_init__(self) -> None:
        require(10 <= self.largest <= 10**9, "task.options.largest", "must be between 10 and 10^9", self.largest)
        require(0 <= self.examples <= 16, "task.options.examples", "must be between 0 and 16", self.examples)


class WordProblems:
    """Source of word problems, each after solved ones."""

    def __init__(self, options: WordProblemsOptions, seed: int) -> None:
        self.options, self.seed = options, seed

    def prompt(self, position: int) -> Prompt:
        return self._train(position)[0]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        prompt, calculation = self._train(position)
        return prompt, calculation.solution

    def heldout(self, count: int) -> list[Prompt]:
        draws = (self._draw(generator("word_problems", "heldout", i), heldout=True) for i in itertools.count())
        found = distinct(draws, lambda calculation: calculation.key, count)
        require_heldout(len(found), count)
        return [
            self._prompt("heldout", index, calculation, generator("word_problems", "stories", index))
            for index, calculation in enumerate(found)
        ]

    def _train(self, position: int) -> tuple[Prompt, Calculation]:
        require(position >= 0, "position", "must not be negative", position)
        random_ = generator(self.seed, "word_problems", "train", position)
        calculation = self._draw(random_, heldout=False)
        return self._prompt("train", position, calculation, random_), calculation

    def _prompt(self, stream: str, position: int, asked: Calculation, random_: random.Random) -> Prompt:
        """Draw the examples, which are other train problems, and put the problem that is asked below them."""
        drawn = (self._draw(random_, heldout=False) for _ in itertools.count())
        shown = itertools.islice((one for one in drawn if one.key != asked.key), self.options.examples)
        examples = [f"Q: {_story(one, random_)}\nA: {one.solution}" for one in shown]
        return Prompt(
            id=f"word_problems/{stream}/{position}",
            position=position,
            text="\n".join([*([INSTRUCTION] if examples else []), *examples, f"Q: {_story(asked, random_)}\nA:"]),
            verifier="math",
            problem={"answer": asked.result},
        )

    def _draw(self, random_: random.Random, heldout: bool) -> Calculation:
        """Draw a train or held-out calculation. Both exist, even with the smallest `largest`."""
        return next(one for one in self._draws(random_) if held_out(one.key) == heldout)

    def _draws(self, random_: random.Random) -> Iterator[Calculation]:
        """Draw calculations of numbers and results between 2 and `largest`."""
        largest = self.options.largest
        while True:
            operation = random_.choice(list(STORIES))
            if operation == "*":
                left = random_.randint(2, largest // 2)
                yield Calculation(left, "*", random_.randint(2, largest // left))
            else:
                part = random_.randint(2, largest - 2)
                other = random_.randint(2, largest - part)
                yield Calculation(part, "+", other) if operation == "+" else Calculation(part + other, "-", other)


def _story(calculation: Calculation, random_: random.Random) -> str:
    story = random_.choice(STORIES[calculation.operation])
    name, things = random_.choice(NAMES), random_.choice(THINGS)
    return story.format(name=name, things=things, left=calculation.left, right=calculation.right)
