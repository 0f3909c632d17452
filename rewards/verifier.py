"""Verifier: one row of the registry of built-in verifiers, its test problems and the fields of its input rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JSON_TYPES = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object", bool: "a boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A problem with a right and a wrong answer, judged in the worker processes to test the verifier."""

    problem: Mapping[str, Any]
    right: str
    wrong: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field that an input row of `breadth verify` must have, besides `id` and `answer`."""

    name: str
    types: tuple[type, ...]
    """JSON types that are allowed. A boolean is never a number."""
    key: str = ""
    """Key of the value in the problem, where it is not the field's name."""

    @property
    def allowed(self) -> str:
        """The allowed types as text, for help and errors."""
        return " or ".join(dict.fromkeys(JSON_TYPES[kind] for kind in self.types))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """A built-in verifier: where it is, how it is run and tested, and what `breadth verify` needs.

    Example: Verifier(path="rewards.arithmetic.countdown:verify", help="arithmetic with given numbers", deadline=1.0)
    """

    path: str
    """Import path, `package.module:function`."""
    help: str
    """One line for `breadth verify --help`."""
    deadline: float | str
    """Wall seconds one answer may take, or the import path of a function problem -> seconds."""
    isolation: int = 0
    """Highest isolation level at which the verifier executes answers (queries, programs). 0: it executes none, and
    `sandbox.require` does not apply."""
    forked: bool = False
    """Whether workers are forked from a process that has loaded it. Its `prepare` must start no process or thread."""
    fields: tuple[Field, ...] = ()
    canaries: tuple[Canary, ...] = ()
    faults: str = ""
    """Import path of a function problem -> faults of its gold, for `breadth verify --task`. Empty: none is known."""
    package: str = ""
    """Package that the verifier needs and that an extra of the same name installs. Empty: Breadth has all it needs."""
