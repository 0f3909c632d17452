"""Hostile programs: none passes, exceeds its time or leaves a trace, and the next answer is judged correctly."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rewards.programs.boxes import zygote
from rewards.programs.testing import verify
from rewards.sandbox.process_tree import descendants

CASES = [json.loads(line) for line in (Path(__file__).parent / "attacks.jsonl").read_text().splitlines()]
QUICK = [case for case in CASES if not case.get("hangs")][::4] + [case for case in CASES if case.get("hangs")][::7]
SLOW = [case for case in CASES if case not in QUICK]
HANGING_TIMEOUT_S = 0.4
TIMEOUT_S = 5.0
MARGIN_S = 5.0
"""Allowance for a busy machine, beyond the time of the answer."""
PLACES = ("/", "/etc", "/root", "/home", "/tmp", "/var/tmp", "/var/lib", "/dev/shm", "/run", "/opt", os.getcwd())
PLANTED = """
planted.py sitecustomize.py usercustomize.py json.py .bashrc-planted x f1 d p r s left0 left1 .pythonrc.py
"""

POINT = """class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)
    def same(self, other):
        return self == other
"""
CHECK_ADD = """def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(-5, 7) == 2
    assert candidate(10**20, 1) == 10**20 + 1
"""
EACH = """def check(candidate):
    for got, wanted in zip(map(candidate, [1, 2], [2, 2]), [3, 4]):
        assert got == wanted
"""
GUARDED = """def check(candidate):
    try:
        candidate(1, 2)
    except AssertionError:
        return
    raise RuntimeError
"""
CAUGHT = """def check(candidate):
    for text in ('a', 'b'):
        try:
            candidate(text)
        except:
            pass
    assert True
"""
TEST_CASE = """import unittest
class T(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
"""
CLOSE = """import math
import numpy as np
assert np.allclose(half(3), 1.5)
assert math.isclose(half(3), 1.5)
"""


def function(entry_point: str, tests: str, prompt: str = "") -> dict[str, Any]:
    return {"kind": "assert", "entry_point": entry_point, "tests": tests, "prompt": prompt}


PROBLEMS: dict[str, dict[str, Any]] = {
    "add": function("add", CHECK_ADD),
    "each": function("add", EACH),
    "guarded": function("add", GUARDED),
    "case": function("add", TEST_CASE),
    "half": function("half", "assert abs(half(3) - 1.5) < 1e-6\nassert abs(1.5 - half(3)) < 1e-6"),
    "close": function("half", CLOSE),
    "helped": function("half", "assert same(half(3), 1.5)", "def same(a, b):\n    return abs(a - b) < 1e-6\n"),
    "free": function("", "assert verify(half)(3) == 1.5\nassert half(3) == 1.5"),
    "inside": function("words", "assert 'abc' in words('abc def')"),
    "listed": function("words", "assert list(words('a b')) == ['a', 'b']"),
    "true": function("words", "assert words('a b')"),
    "caught": function("words", CAUGHT),
    "Stack": function("Stack", "s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2\nassert s.pop() == 1"),
    "point": function("mirror", "assert mirror(Point(1, 2)).same(Point(2, 1))", POINT),
    "callback": function("apply", "wanted = [5]\nassert apply(lambda x: x, [5]) == wanted"),
    "sum": {"kind": "stdio", "tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "10 -4\n", "stdout": "6\n"}]},
}
RIGHT_ADD = "def add(a, b):\n    return a + b"
RIGHT_SUM = "print(sum(map(int, input().split())))"


def attack(case: dict[str, Any]) -> None:
    """Judge one hostile answer, then a right one, and check everything that the module docstring lists."""
    answer = case["answer"]
    if isinstance(answer, list):
        answer = "".join(text * times for text, times in answer)
    timeout_s = HANGING_TIMEOUT_S if case.get("hangs") else TIMEOUT_S
    before = left_behind()
    started = time.monotonic()
    verdict = verify(answer, {**PROBLEMS[case["problem"]], "timeout_s": timeout_s})
    seconds = time.monotonic() - started
    assert verdict.reward == 0.0, verdict
    assert verdict.status not in ("correct", "grader_error"), verdict
    assert seconds < 2 * timeout_s + MARGIN_S, verdict
    assert left_behind() == before
    stdio = case["problem"] == "sum"
    following = {**PROBLEMS["sum" if stdio else "add"], "timeout_s": 20}
    assert verify(RIGHT_SUM if stdio else RIGHT_ADD, following).status == "correct"


def left_behind() -> dict[str, Any]:
    """Count what a program could leave: processes, descriptors, files in common directories, System V objects."""
    files = [path for place in PLACES for name in PLANTED.split() if os.path.lexists(path := os.path.join(place, name))]
    system_v = [Path(f"/proc/sysvipc/{kind}").read_text().count("\n") for kind in ("shm", "sem", "msg")]
    return {
        "processes": len(descendants(zygote()._process.pid)),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": files,
        "system_v": system_v,
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case["name"])
def test_a_hostile_program_fails_in_time_without_a_trace(case: dict[str, Any]) -> None:
    attack(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=lambda case: case["name"])
def test_the_other_hostile_programs_fail_in_time_without_a_trace(case: dict[str, Any]) -> None:
    attack(case)


def test_the_right_answers_to_the_attacked_problems_pass() -> None:
    right = {
        "add": RIGHT_ADD,
        "each": RIGHT_ADD,
        "case": RIGHT_ADD,
        "half": "def half(x):\n    return x / 2",
        "close": "def half(x):\n    return x / 2",
        "helped": "def half(x):\n    return x / 2",
        "free": "def half(x):\n    return x / 2\ndef verify(f):\n    return f",
        "inside": "def words(x):\n    return x.split()",
        "listed": "def words(x):\n    return x.split()",
        "true": "def words(x):\n    return x.split()",
        "caught": "def words(x):\n    return x.split()",
        "Stack": "class Stack(list):\n    def push(self, x):\n        self.append(x)\n",
        "point": "def mirror(p):\n    return Point(p.y, p.x)",
        "callback": "def apply(f, xs):\n    return [f(x) for x in xs]",
        "sum": RIGHT_SUM,
    }
    for name, answer in right.items():
        verdict = verify(answer, {**PROBLEMS[name], "timeout_s": 20})
        assert verdict.status == "correct", (name, verdict)
    assert PROBLEMS.keys() - right.keys() == {
        "guarded"
    }  # passes only if a program's exception is taken for the tests' own


def test_every_class_of_attack_has_quick_cases() -> None:
    every, quick = (Counter(case["name"].partition(":")[0] for case in cases) for cases in (CASES, QUICK))
    assert len(CASES) >= 190
    assert every.keys() == quick.keys()
    assert len(every) == 9
