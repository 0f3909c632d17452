"""Addition with a scratchpad (arXiv:2502.06533): sums of numbers longer than those the policy was trained on.

The answer adds column by column. Each line holds the remaining digits of both numbers, the digits of the sum so far
and the carry; the result follows. A hash of the sorted numbers decides whether a problem is held out, whatever the seed
and the options are.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.checks import require
from tasks.source import distinct, generator, held_out, require_heldout
from trajectories.trajectory import Prompt

MAX_DRAWS = 1_000
"""Random draws for one problem. They are enough: 1 in 8 problems is held out even of one-digit numbers, the fewest."""


@dataclass(frozen=True, kw_only=True)
class ScratchpadAdditionOptions:
    """`task.options` of scratchpad_addition."""

    trained_digits: int = 3
    """N: digits of the longest numbers that the policy was trained on."""
    digits: int = 4
    """Digits of the longest operand. If at most N, both operands have 1 to `digits` digits, uniformly. If above N, one
    of the operands, chosen at random, has `digits`; the other has at most N digits with probability 1/2, else more."""

    def __post_init__(self) -> None:
        for name in ("trained_digits", "digits"):
            value = getattr(self, name)
            require(1 <= value <= 30, f"task.options.{name}", "must be between 1 and 30", value)


class ScratchpadAddition:
    """Source of sums such as `Input:\\n583+96\\nTarget:`."""

    def __init__(self, options: ScratchpadAdditionOptions, seed: int) -> None:
        self.options = options
        self.seed = seed

    def prompt(self, position: int) -> Prompt:
        require(position >= 0, "position", "must not be negative", position)
        random_ = generator(self.seed, "scratchpad_addition", "train", position)
        return _prompt("train", position, self._draw(random_, heldout=False))

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        prompt = self.prompt(position)
        return prompt, scratchpad(*prompt.problem["operands"])

    def heldout(self, count: int) -> list[Prompt]:
        found = distinct(self._heldout_draws(), lambda operands: tuple(sorted(operands)), count)
        require_heldout(len(found), count)
        return [_prompt("heldout", index, operands) for index, operands in enumerate(found)]

    def _heldout_draws(self) -> Iterator[tuple[int, int]]:
        for index in itertools.count():
            yield self._draw(generator("scratchpad_addition", "heldout", index), heldout=True)

    def _draw(self, random_: random.Random, heldout: bool) -> tuple[int, int]:
        """Draw the operands of a train or held-out problem."""
        for _ in range(MAX_DRAWS):
            left, right = (_number(random_, length) for length in self._lengths(random_))
            if is_heldout(left, right) == heldout:
                return left, right
        raise AssertionError(f"no problem in {MAX_DRAWS} draws of {self.options}")

    def _lengths(self, random_: random.Random) -> Sequence[int]:
        """Draw the numbers of digits of both operands."""
        trained, longest = self.options.trained_digits, self.options.digits
        if longest <= trained:
            return random_.randint(1, longest), random_.randint(1, longest)
        other = random_.randint(1, trained) if random_.random() < 0.5 else random_.randint(trained + 1, longest)
        return random_.sample((longest, other), 2)


def is_heldout(left: int, right: int) -> bool:
    """Return whether a problem is held out; the same for every seed, every option and either order of the operands."""
    return held_out(f"scratchpad_addition/{sorted((left, right))}")


def scratchpad(left: int, right: int) -> str:
    """Return the right answer: a line for each column from the last to the first, a final line, and the result.

    The layout is that of the paper's scratchpads, which follow arXiv:2307.03381, including its one irregularity: the
    final line has no comma between A and C.
    """
    left_digits, right_digits = list(str(left)), list(str(right))
    digits_of_sum: list[str] = []
    carry = 0
    lines = ["", "<scratch>"]
    while left_digits or right_digits:
        state = f"{_listed(left_digits)} + {_listed(right_digits)} , A={_listed(digits_of_sum)} , C={carry}"
        x, y = (digits.pop() if digits else "0" for digits in (left_digits, right_digits))
        column = int(x) + int(y) + carry
        lines.append(f"{state} , {x}+{y}+{carry}={column} , A->{column % 10} , C->{column // 10}")
        digits_of_sum.insert(0, str(column % 10))
        carry = column // 10
    lines.append(f"[] + [] , A={_listed(digits_of_sum)} C={carry} , END")
    result = [str(carry), *digits_of_sum] if carry else digits_of_sum
    return "\n".join([*lines, "</scratch>", " ".join(result), ""])


def _listed(digits: list[str]) -> str:
    return f"[{','.join(digits)}]"


def _number(random_: random.Random, length: int) -> int:
    """Draw a number of `length` digits, uniformly. 0 has one digit."""
    return random_.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _prompt(stream: str, position: int, operands: tuple[int, int]) -> Prompt:
    return Prompt(
        id=f"scratchpad_addition/{stream}/{position}",
        position=position,
        text=f"Input:\n{operands[0]}+{operands[1]}\nTarget:",
        verifier="scratchpad_sum",
        problem={"operands": list(operands)},
    )
