"""Addition with a scratchpad (arXiv:2502.06533): sums column by column, of numbers longer than those the policy knows.

The answer writes down what is left of both numbers, the digits found so far and the carry, one column a line, then the
result. Whether a problem is for training or held out is read off a hash of its numbers, in any order: no seed, and no
number of digits asked for, can move it across.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as integers

from configs.checks import require
from tasks.source import digest, generator
from trajectories.trajectory import Prompt

HELDOUT_SHARE = 1 / 8
PATIENCE = 2_000
"""Held-out draws in a row without a new problem after which none is thought to be left."""
TRIES = 1_000
"""Random problems tried for one of a side; of one-digit numbers, the fewest, 1 in 8 is held out."""


@dataclass(frozen=True, kw_only=True)
class ScratchpadAdditionOptions:
    """`task.options` of scratchpad_addition."""

    trained_digits: int = 3
    """N: digits of the longest numbers the policy was trained on."""
    digits: int = 4
    """Digits of the longest numbers asked. At most trained_digits: every operand has 1 to `digits` of them, evenly.
    Above: one operand, either, has `digits`; the other has at most trained_digits half of the time, else more."""

    def __post_init__(self) -> None:
        for name in ("trained_digits", "digits"):
            value = getattr(self, name)
            require(1 <= value <= 30, f"task.options.{name}", "must be between 1 and 30", value)


class ScratchpadAddition:
    """A Source of sums such as `Input:\\n583+96\\nTarget:`."""

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
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        misses = 0
        for index in integers():
            if len(found) == count or misses == PATIENCE:
                break
            operands = self._draw(generator("scratchpad_addition", "heldout", index), heldout=True)
            same = tuple(sorted(operands))
            misses = misses + 1 if same in found else 0
            found.setdefault(same, operands)
        rule = f"must be at most the {len(found)} held-out problems that fit task.options"
        require(len(found) == count, "task.heldout_prompts", rule, count)
        return [_prompt("heldout", index, operands) for index, operands in enumerate(found.values())]

    def _draw(self, random_: random.Random, heldout: bool) -> tuple[int, int]:
        """A random problem of one side."""
        for _ in range(TRIES):
            left, right = (_number(random_, length) for length in self._lengths(random_))
            if is_heldout(left, right) == heldout:
                return left, right
        raise AssertionError(f"no problem in {TRIES} draws of {self.options}")

    def _lengths(self, random_: random.Random) -> Sequence[int]:
        """Digits of both operands."""
        known, asked = self.options.trained_digits, self.options.digits
        if asked <= known:
            return random_.randint(1, asked), random_.randint(1, asked)
        other = random_.randint(1, known) if random_.random() < 0.5 else random_.randint(known + 1, asked)
        return random_.sample((asked, other), 2)


def is_heldout(left: int, right: int) -> bool:
    """The side of a problem: the same for every seed and option, and in either order."""
    return digest(f"scratchpad_addition/{sorted((left, right))}") < HELDOUT_SHARE * 2**64


def scratchpad(left: int, right: int) -> str:
    """The right answer: a line for every column from the last, one with nothing left, and the result.

    The layout is that of the paper's scratchpads, which is that of arXiv:2307.03381 with its one irregular separator:
    none stands between A and C in the last line.
    """
    left_digits, right_digits = list(str(left)), list(str(right))
    found: list[str] = []
    carry = 0
    lines = ["", "<scratch>"]
    while left_digits or right_digits:
        state = f"{_listed(left_digits)} + {_listed(right_digits)} , A={_listed(found)} , C={carry}"
        x, y = (digits.pop() if digits else "0" for digits in (left_digits, right_digits))
        column = int(x) + int(y) + carry
        lines.append(f"{state} , {x}+{y}+{carry}={column} , A->{column % 10} , C->{column // 10}")
        found.insert(0, str(column % 10))
        carry = column // 10
    lines.append(f"[] + [] , A={_listed(found)} C={carry} , END")
    result = [str(carry), *found] if carry else found
    return "\n".join([*lines, "</scratch>", " ".join(result), ""])


def _listed(digits: list[str]) -> str:
    return f"[{','.join(digits)}]"


def _number(random_: random.Random, length: int) -> int:
    """A number of so many digits, evenly; 0 has one."""
    return random_.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _prompt(stream: str, position: int, operands: tuple[int, int]) -> Prompt:
    return Prompt(
        id=f"scratchpad_addition/{stream}/{position}",
        position=position,
        text=f"Input:\n{operands[0]}+{operands[1]}\nTarget:",
        verifier="scratchpad_sum",
        problem={"operands": list(operands)},
    )
