"""Sums in a few-shot prompt, for language models that were trained on text alone.

A prompt has some lines such as `23 + 45 = 68` and ends in `66 + 57 =`. A hash of the sorted operands decides whether a
sum is held out, whatever the seed and the options are.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from configs.checks import require
from tasks.source import distinct, generator, held_out, require_heldout
from trajectories.trajectory import Prompt


@dataclass(frozen=True, kw_only=True)
class FewShotSumsOptions:
    """`task.options` of few_shot_sums."""

    digits: int = 2
    """Digits of both operands."""
    shots: int = 4
    """Lines with right sums before the sum that is asked."""

    def __post_init__(self) -> None:
        require(1 <= self.digits <= 30, "task.options.digits", "must be between 1 and 30", self.digits)
        require(0 <= self.shots <= 64, "task.options.shots", "must be between 0 and 64", self.shots)


class FewShotSums:
    """Source of sums, each after lines that show how they are written."""

    def __init__(self, options: FewShotSumsOptions, seed: int) -> None:
        self.options, self.seed = options, seed

    def prompt(self, position: int) -> Prompt:
        require(position >= 0, "position", "must not be negative", position)
        random_ = generator(self.seed, "few_shot_sums", "train", position)
        return self._prompt("train", position, self._draw(random_, heldout=False), random_)

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        prompt = self.prompt(position)
        return prompt, f" {prompt.problem['number']}"

    def heldout(self, count: int) -> list[Prompt]:
        found = distinct(self._heldout_sums(), lambda operands: tuple(sorted(operands)), count)
        require_heldout(len(found), count)
        return [
            self._prompt("heldout", index, operands, generator("few_shot_sums", "lines", index))
            for index, operands in enumerate(found)
        ]

    def _heldout_sums(self) -> Iterator[tuple[int, int]]:
        for index in itertools.count():
            yield self._draw(generator("few_shot_sums", "heldout", index), heldout=True)

    def _prompt(self, stream: str, position: int, asked: tuple[int, int], random_: random.Random) -> Prompt:
        """Draw the lines, which are other train sums, and put the sum that is asked below them."""
        drawn = (self._draw(random_, heldout=False) for _ in itertools.count())
        shown = itertools.islice((pair for pair in drawn if sorted(pair) != sorted(asked)), self.options.shots)
        lines = [f"{left} + {right} = {left + right}" for left, right in shown]
        return Prompt(
            id=f"few_shot_sums/{stream}/{position}",
            position=position,
            text="\n".join([*lines, f"{asked[0]} + {asked[1]} ="]),
            verifier="first_number",
            problem={"number": sum(asked)},
        )

    def _draw(self, random_: random.Random, heldout: bool) -> tuple[int, int]:
        """Draw the operands of a train or held-out sum. Both exist, even of one-digit numbers."""
        digits = self.options.digits
        lowest, highest = (10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1
        draws = ((random_.randint(lowest, highest), random_.randint(lowest, highest)) for _ in itertools.count())
        return next(operands for operands in draws if is_heldout(*operands) == heldout)


def is_heldout(left: int, right: int) -> bool:
    """Return whether a sum is held out: the same for every seed and either order of the operands."""
    return held_out(f"few_shot_sums/{sorted((left, right))}")
