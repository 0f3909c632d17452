"""Programs: write the Python function that has the given examples, such as `f(1)=3 f(2)=5 f(7)=15`.

A problem is a set of examples of one function of a fixed list. The examples determine the function: no other function
of the list has all of them. A hash of the sorted examples decides whether a problem is held out, whatever the seed is.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from configs.checks import require
from tasks.source import distinct, generator, held_out, require_heldout
from trajectories.trajectory import Prompt

MAX_DRAWS = 1_000
"""Random sets of examples drawn for one problem. If none fits, the options are refused."""
KINDS = ("number", "text")
HIDDEN_NUMBERS = (-7, -2, 0, 1, 3, 8, 12, 25)
HIDDEN_TEXTS = ("a", "ba", "abc", "eeda", "Cab", "deadbeef")
"""Inputs of the hidden tests. Every two functions of the list differ on one of them."""
LETTERS = "abcde"
"""Letters of the texts in examples."""
TIMEOUT_S = 2


@dataclass(frozen=True, kw_only=True)
class ProgramsOptions:
    """`task.options` of programs."""

    examples: int = 3
    """Number of examples in a problem."""
    inputs: int = 9
    """Largest number that an example has as input; the smallest is 0."""
    constants: int = 9
    """Largest constant in a function on numbers."""
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    """Inputs of the functions: number (whole numbers), text (short strings)."""

    def __post_init__(self) -> None:
        name = "task.options."
        require(2 <= self.examples <= 6, f"{name}examples", "must be between 2 and 6", self.examples)
        require(
            self.examples <= self.inputs + 1 <= 100, f"{name}inputs", "must be between examples - 1 and 99", self.inputs
        )
        require(2 <= self.constants <= 99, f"{name}constants", "must be between 2 and 99", self.constants)
        known = (
            bool(self.kinds) and all(kind in KINDS for kind in self.kinds) and len(set(self.kinds)) == len(self.kinds)
        )
        require(known, f"{name}kinds", f"must be distinct ones of {', '.join(KINDS)}", list(self.kinds))


class Function(NamedTuple):
    """A Python function, and expressions in x that compute it."""

    kind: str
    apply: Callable[[Any], Any]
    expressions: tuple[str, ...]


class Programs:
    """Source of small functions to write from examples."""

    def __init__(self, options: ProgramsOptions, seed: int) -> None:
        """Raise ValueError if no problem fits the options."""
        self.options = options
        self.seed = seed
        self._families = families(options.constants)
        self.prompt(0)

    def prompt(self, position: int) -> Prompt:
        return self.demonstration(position)[0]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        require(position >= 0, "position", "must not be negative", position)
        random_ = generator(self.seed, "programs", "train", position)
        function, inputs = self._draw(random_, heldout=False)
        answer = f"def f(x):return {random_.choice(function.expressions)}"
        return _prompt("train", position, function, inputs), answer

    def heldout(self, count: int) -> list[Prompt]:
        found = distinct(self._heldout_draws(), lambda problem: shown(problem[0], sorted(problem[1])), count)
        require_heldout(len(found), count)
        return [_prompt("heldout", index, *problem) for index, problem in enumerate(found)]

    def _heldout_draws(self) -> Iterator[tuple[Function, list[Any]]]:
        for index in itertools.count():
            yield self._draw(generator("programs", "heldout", index), heldout=True)

    def _draw(self, random_: random.Random, heldout: bool) -> tuple[Function, list[Any]]:
        """Draw a function and the inputs of its examples. Kind, form and constant are uniform, one after the other."""
        options = self.options
        for _ in range(MAX_DRAWS):
            kind = random_.choice(options.kinds)
            function = random_.choice(random_.choice(self._families[kind]))
            if kind == "number":
                inputs: list[Any] = sorted(random_.sample(range(options.inputs + 1), options.examples))
            else:
                inputs = _texts(random_, options.examples)
            if is_heldout(function, inputs) == heldout and self._determined(function, inputs):
                return function, inputs
        split = "held-out" if heldout else "train"
        raise ValueError(f"task.options: must admit {split} problems, got none in {MAX_DRAWS} draws of {options}")

    def _determined(self, function: Function, inputs: list[Any]) -> bool:
        """Return whether no other function has all the examples."""
        values = [_exact(function.apply(x)) for x in inputs]
        return not any(
            other is not function and all(_exact(other.apply(x)) == y for x, y in zip(inputs, values, strict=True))
            for family in self._families[function.kind]
            for other in family
        )


def shown(function: Function, inputs: list[Any]) -> str:
    """Return the examples as the prompt shows them, in the order of `inputs`."""
    return " ".join(f"f({x!r})={function.apply(x)!r}" for x in inputs)


def is_heldout(function: Function, inputs: list[Any]) -> bool:
    """Return whether a problem is held out: a function of its examples alone, the same for every seed."""
    return held_out(f"programs/{shown(function, sorted(inputs))}")


@lru_cache(maxsize=8)
def families(constants: int) -> dict[str, list[list[Function]]]:
    """Return all functions of each kind, as one list per form. No two functions compute the same values."""
    forms: dict[str, list[Function]] = {}
    for b in range(1, constants + 1):
        for form, function in _number_functions(b):
            forms.setdefault(form, []).append(function)
    return {"number": list(forms.values()), "text": [[function] for function in _text_functions()]}


def _number_functions(b: int) -> Iterator[tuple[str, Function]]:
    """Yield the functions on numbers with the constant `b`, each with the name of its form."""

    def number(form: str, apply: Callable[[int], int], *expressions: str) -> tuple[str, Function]:
        return form, Function("number", apply, expressions)

    yield number("more", lambda x: x + b, f"x+{b}", f"{b}+x")
    yield number("less", lambda x: x - b, f"x-{b}", f"-{b}+x")
    yield number("rest", lambda x: b - x, f"{b}-x", f"-x+{b}")
    yield number("double", lambda x: 2 * x + b, f"2*x+{b}", f"x*2+{b}", f"{b}+2*x", f"{b}+x*2", f"x+x+{b}")
    yield number("square", lambda x: x * x + b, f"x*x+{b}", f"{b}+x*x", f"x**2+{b}", f"{b}+x**2")
    yield number("larger", lambda x: max(x, b), f"max(x,{b})", f"max({b},x)", f"x if x>{b} else {b}")
    yield number("smaller", lambda x: min(x, b), f"min(x,{b})", f"min({b},x)", f"x if x<{b} else {b}")
    yield number("distance", lambda x: abs(x - b), f"abs(x-{b})", f"abs({b}-x)")
    if b > 1:
        sums = ["+".join("x" * b)] if b <= 3 else []
        yield number("times", lambda x: b * x, f"{b}*x", f"x*{b}", *sums)
        yield number("remainder", lambda x: x % b, f"x%{b}", f"x-x//{b}*{b}")


def _text_functions() -> Iterator[Function]:
    def text(apply: Callable[[str], Any], *expressions: str) -> Function:
        return Function("text", apply, expressions)

    yield text(lambda x: x[::-1], "x[::-1]", "''.join(reversed(x))")
    yield text(lambda x: x + x, "x+x", "x*2", "2*x")
    yield text(lambda x: x[0], "x[0]", "x[:1]")
    yield text(lambda x: x[-1], "x[-1]", "x[-1:]", "x[::-1][0]")
    yield text(lambda x: x[1:], "x[1:]")
    yield text(lambda x: x[:-1], "x[:-1]", "x[0:-1]")
    yield text(lambda x: len(x), "len(x)", "x.__len__()")
    yield text(lambda x: x.upper(), "x.upper()")
    yield text(lambda x: "".join(sorted(x)), "''.join(sorted(x))")
    yield text(lambda x: max(x), "max(x)", "sorted(x)[-1]")
    yield text(lambda x: min(x), "min(x)", "sorted(x)[0]")
    yield text(lambda x: len(x) + 1, "len(x)+1", "1+len(x)")


def _texts(random_: random.Random, count: int) -> list[Any]:
    """Draw distinct texts of 1 to 4 letters."""
    found: list[str] = []
    while len(found) < count:
        text = "".join(random_.choice(LETTERS) for _ in range(random_.randint(1, 4)))
        if text not in found:
            found.append(text)
    return found


def _exact(value: Any) -> tuple[type, Any]:
    """Return a value that differs for 1, 1.0 and True, which are equal in Python."""
    return type(value), value


def _prompt(stream: str, position: int, function: Function, inputs: list[Any]) -> Prompt:
    hidden = HIDDEN_NUMBERS if function.kind == "number" else HIDDEN_TEXTS
    asserted = [*inputs, *(x for x in hidden if x not in inputs)]
    return Prompt(
        id=f"programs/{stream}/{position}",
        position=position,
        text=shown(function, inputs),
        verifier="code",
        problem={
            "kind": "assert",
            "prompt": "",
            "entry_point": "f",
            "tests": "".join(f"assert f({x!r}) == {function.apply(x)!r}\n" for x in asserted),
            "timeout_s": TIMEOUT_S,
        },
    )
