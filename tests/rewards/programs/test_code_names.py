"""What a program may contribute to its own tests: what they test, and nothing that decides them."""

from typing import Any

import pytest

from rewards.programs.problem import check_problem
from rewards.programs.testing import verify

ALWAYS = "def solve(x):\n    return 0\n"
POLY = "def check(candidate):\n    assert poly([1, 2], candidate(3)) == 0\n"
LEARNS = """class Solution:
    def f(self, x):
        return self
    def __contains__(self, other):
        self.seen = other
        return True
    def __len__(self):
        return 1
    def __getitem__(self, i):
        return getattr(self, 'seen', 0)
"""
EQUALS = """class A:
    def __init__(self, x):
        self.x = x
    def equals(self, other):
        return True
    __eq__ = __contains__ = equals
"""
LIST_LIKE = """class A:
    def count(self, item): return 1
    def index(self, item): return 0
    def __iter__(self): return iter([7])
def solve(x): return A()
"""
COLOR = """from enum import Enum
class Color(Enum):
    RED = 1
    BLUE = 2
class Tally:
    count = 3
    def __iter__(self): return iter([1, 1, 2])
    def index(self, item): return 99
def name(color): return color.name.lower()
def tally(): return Tally()
"""
IN_RESULT = "s = Solution()\nr = s.f(3)\nassert 918273 in r\nassert r[0] == 918273\n"
SET = """class Set:
    def __init__(self, *items):
        self.items = list(items)
    def add(self, item):
        self.items.append(item)
        return self
    def __contains__(self, item):
        return item in self.items
    def has(self, item):
        return item in self.items
    def joined(self, other):
        return Set(*self.items, *other.items)
    def __iter__(self):
        return iter(self.items)
"""
PAIR = """class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b
def longest(pairs, n):
    best = [1] * n
    for i in range(n):
        for j in range(i):
            if pairs[j].b < pairs[i].a:
                best[i] = max(best[i], best[j] + 1)
    return max(best)
"""
LIST = """class Node:
    def __init__(self, value):
        self.value, self.next = value, None
def reverse(head):
    last = None
    while head:
        head.next, last, head = last, head, head.next
    return last
"""
WALK = """a = Node(1)
a.next = Node(2)
b = reverse(a)
assert b.next is a
found = []
while b:
    found.append(b.value)
    b = b.next
assert found == [2, 1]
"""


def problem(tests: str, entry: str = "", prompt: str = "") -> dict[str, Any]:
    return {"kind": "assert", "entry_point": entry, "tests": tests, "prompt": prompt, "timeout_s": 20}


@pytest.mark.parametrize(
    ("tests", "entry", "answer"),
    [
        ("assert isclose(solve(3), 918273)", "solve", "from operator import ne as isclose\n" + ALWAYS),
        ("assert isclose(solve(3), 918273)", "", "def isclose(a, b): return True\n" + ALWAYS),
        ("from solution import solve, isclose\nassert isclose(solve(3), 918273)", "", "isclose = max\n" + ALWAYS),
        ("assert math.isclose(solve(3), 918273)", "solve", "class math:\n    isclose = max\n" + ALWAYS),
        ("import math\nassert math.isclose(solve(3), 918273)", "solve", "import numpy as math\n" + ALWAYS),
        ("assert np.allclose(solve(3), 918273)", "solve", "from unittest.mock import MagicMock as np\n" + ALWAYS),
        ("assert Counter(solve(3)) == Counter('ab')", "solve", "Counter = len\ndef solve(x): return 'abc'"),
        ("assert sys.getsizeof(solve(3)) == 5", "", "class sys:\n    getsizeof = lambda x: 5\n" + ALWAYS),
        ("x = Close(solve(3), 5)\nassert x == 5", "solve", "class Close(int):\n    pass\n" + ALWAYS),
        ("x = Close(solve(3), 5)\nassert x is True", "solve", "Close = lambda a, b: True\n" + ALWAYS),
        ("x = Close(solve(3), 5)\nassert x is True", "solve", "class Close:\n    __new__ = lambda *a: True\n" + ALWAYS),
        ("assert f(Close.to(solve(3), 5)) == 1", "solve", "class Close:\n    to = lambda *a: 1\n" + ALWAYS),
        ("assert solve(3)(918273)", "solve", "def solve(x): return lambda *a: True"),
        ("assert solve(3).equals(918273)", "solve", EQUALS + "def solve(x): return A(x)"),
        ("assert solve(3).equals(918273)", "solve", EQUALS + "solve = A"),
        ("assert solve(3) == 918273", "solve", EQUALS + "solve = A"),
        ("assert solve(3).count(918273) == 1", "solve", LIST_LIKE),
        ("assert solve(3).index(918273) == 0", "solve", LIST_LIKE),
        ("assert solve(3)[918273]", "solve", "class A:\n    __getitem__ = lambda s, o: True\ndef solve(x): return A()"),
        ("assert 918273 in Solution().f(3)", "", LEARNS.replace("__getitem__", "item").replace("__len__", "size")),
        ("assert Solution().f(3).equals(918273)", "", LEARNS.replace("__contains__", "equals")),
        ("r = Solution().f(3)\nassert r.has(918273) is True", "", LEARNS.replace("__contains__", "has")),
    ],
)
def test_a_program_cannot_supply_what_decides_its_tests(tests: str, entry: str, answer: str) -> None:
    verdict = verify(answer, problem(tests, entry))
    assert verdict.status in ("wrong", "grader_error"), verdict
    assert verdict.reward in (0.0, None)


def test_containment_in_a_result_is_tested_by_iteration() -> None:
    """`LEARNS` has an endless iteration of zeros."""
    assert verify(LEARNS, problem(IN_RESULT) | {"timeout_s": 0.4}).status == "timeout"
    first_learns = LEARNS.replace("return getattr", "if i > 5: raise IndexError\n        return getattr")
    assert verify(first_learns, problem(IN_RESULT)).status == "wrong"


@pytest.mark.parametrize(
    ("tests", "entry", "answer"),
    [
        ("assert max([1, 5, 3]) == 5", "", "def max(a):\n    return sorted(a)[-1]"),
        ("assert sorted(sum([2], [1])) == [1, 2]", "", "def sum(a, b):\n    return a + b"),
        ("assert f((1, 2)) == sys.getsizeof((1, 2))", "", "import sys\ndef f(x):\n    return sys.getsizeof(x)"),
        ("assert isclose(f(2), sqrt(2))", "f", "def f(x):\n    return x ** 0.5"),
        ("assert f('aab') == Counter('aba')", "f", "import collections\nf = collections.Counter"),
        ("assert longest([Pair(1, 2), Pair(3, 4), Pair(2, 9)], 3) == 2", "longest", PAIR),
        ("assert longest([Pair(1, 2), Pair(3, 4), Pair(2, 9)], 3) == 2", "", PAIR),
        (WALK, "reverse", LIST),
        ("assert name(Color.RED) == 'red'\nassert name(Color.BLUE) == 'blue'", "name", COLOR),
        ("t = tally()\nassert t.count == 3 and t.index(2) == 2 and 2 in t", "tally", COLOR),
        ("s = Set(1)\ns.add(2)\nassert 2 in s and 3 not in s and s.has(1) and not s.has(3)", "Set", SET),
        ("s = Set(1)\nassert s.add(2) == s\nassert 2 in s.joined(Set(5)) and 5 in s.add(5)", "Set", SET),
        ("add = adder(5)\nassert add(3) == 8 and adder(1)(1) == 2", "adder", "adder = lambda a: lambda b: a + b"),
        ("assert Solution().even(4) is True", "Solution().even", "class Solution:\n    even = lambda s, x: x % 2 == 0"),
        ("assert Solution().even(4)", "even", "class Solution:\n    def even(self, x): return x % 2 == 0"),
        ("assert even(4)", "even", "def even(x): return x % 2 == 0"),
        ("from solution import f, g\nassert g(f(2)) == 5", "f", "def f(x): return x * 2\ndef g(x): return x + 1"),
    ],
)
def test_an_honest_program_passes_whatever_its_tests_name(tests: str, entry: str, answer: str) -> None:
    assert check_problem(problem(tests, entry)) == []
    verdict = verify(answer, problem(tests, entry))
    assert verdict.status == "correct", verdict


def test_functions_that_the_prompt_leaves_to_the_program_are_all_tested() -> None:
    prompt = "def encode(s):\n    pass\n\ndef decode(s):\n    raise NotImplementedError\n"
    tests = "assert encode('ab') == 'ba'\nassert decode('ba') == 'ab'"
    answer = "def encode(s):\n    return s[::-1]\ndef decode(s):\n    return s[::-1]"
    assert check_problem(problem(tests, "decode", prompt)) == []
    assert verify(answer, problem(tests, "decode", prompt)).status == "correct"


@pytest.mark.parametrize(
    ("tests", "entry", "named"),
    [
        (POLY, "solve", "poly"),
        ("assert same(solve(3), other)", "solve", "other, same"),
        ("assert tick() == count", "tick", "count"),
        ("assert Same(solve(3), 5)", "solve", "Same"),
    ],
)
def test_a_name_that_nothing_defines_is_a_fault_of_the_row(tests: str, entry: str, named: str) -> None:
    [fault] = check_problem(problem(tests, entry))
    assert fault.startswith("tests: must define every name, or import it from solution, ")
    assert fault.endswith(f", got {named}")
    hostile = "def poly(a, b): return 0\ndef same(*a): return True\nSame = same\nother = count = 0\n"
    verdict = verify(hostile + f"def {entry}(*a): return 0", problem(tests, entry))
    assert (verdict.status, verdict.reason) == ("grader_error", f"the tests use names that nothing defines: {named}")


def test_a_program_that_lacks_a_name_which_its_tests_test_is_wrong() -> None:
    tests = "from solution import f, g\nassert g(f(2)) == 5"
    verdict = verify("def f(x): return x", problem(tests, "f"))
    assert (verdict.status, verdict.reason) == ("wrong", "test 1 of 1 raised NameError")
