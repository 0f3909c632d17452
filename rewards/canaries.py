"""Canaries: for each verifier of ours an answer that is right and one that is wrong, judged where real answers are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    problem: Mapping[str, Any]
    right: str
    wrong: str


CANARIES: dict[str, tuple[Canary, ...]] = {
    "countdown": (Canary(problem={"numbers": [3, 7, 12], "target": 22}, right="3+7+12", wrong="3*7+12"),),
    "math": (
        Canary(problem={"answer": r"\frac{1}{2}+x"}, right=r"\boxed{x+0.5}", wrong=r"\boxed{x+0.6}"),
        Canary(problem={"answer": "72"}, right=r"so \boxed{72}", wrong=r"so \boxed{27}"),
    ),
    "sql": (
        Canary(
            problem={
                "schema_sql": "CREATE TABLE birds (name TEXT, grams INTEGER);"
                "INSERT INTO birds VALUES ('wren', 9), ('canary', 20), ('rook', 450), ('owl', 300);",
                "gold_sql": "SELECT name FROM birds WHERE grams > 10 ORDER BY grams",
            },
            right="SELECT b.name FROM birds AS b WHERE NOT b.grams <= 10 ORDER BY b.grams ASC",
            wrong="SELECT name FROM birds WHERE grams > 10 ORDER BY grams DESC",
        ),
    ),
    "code": (
        Canary(
            problem={
                "kind": "assert",
                "prompt": 'def twice(x):\n    """The value added to itself."""\n',
                "entry_point": "twice",
                "tests": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate('ab') == 'abab'\n",
            },
            right="def twice(x):\n    return x + x\n",
            wrong="def twice(x):\n    return x if x == 6 else 6\n",
        ),
        Canary(
            problem={
                "kind": "stdio",
                "tests": [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "4 4\n", "stdout": "8\n"}],
            },
            right="a, b = map(int, input().split())\nprint(a + b)\n",
            wrong="input()\nprint(5)\n",
        ),
    ),
    "scratchpad_sum": (
        Canary(problem={"operands": [95, 7]}, right="</scratch>\n1 0 2\n", wrong="102</scratch>\n0 2\n"),
    ),
}
