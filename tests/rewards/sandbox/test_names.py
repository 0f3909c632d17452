"""Where each name that tests use and do not define comes from."""

import ast
import collections
import datetime
import math
from typing import Any

import pytest

from rewards.sandbox.inside.names import find_in_library, sort_names


@pytest.mark.parametrize(
    ("tests", "entry", "program", "classes", "library", "undefined"),
    [
        ("assert f(3) == 9", "f", "f", "", "", ""),
        ("assert f(3) == 9", "", "f", "", "", ""),
        ("assert isclose(f(3), 9)", "f", "f", "", "isclose", ""),
        ("assert isclose(f(3), 9)", "", "f", "", "isclose", ""),
        ("assert same(f(3), 9)", "f", "f", "", "", "same"),
        ("assert same(f(3), 9)", "", "f", "", "", "same"),
        ("assert math.isclose(f(3), 9)", "f", "f", "", "math", ""),
        ("assert np.allclose(f(3), 9)", "f", "f", "", "np", ""),
        ("assert f(3) == sys.maxsize", "", "f", "", "sys", ""),
        ("assert count == f(3)", "f", "f", "", "", "count"),
        ("assert f() == [next(count(3))]", "f", "f", "", "count", ""),
        ("def check(candidate):\n    assert poly([1], candidate(3)) == 0", "f", "", "", "", "poly"),
        ("def check(candidate):\n    xs = [x for x in (1, 2)]\n    assert candidate(xs) == xs", "f", "", "", "", ""),
        ("from solution import f, g as h\nassert h(f(1)) == 3", "f", "f g", "", "", ""),
        ("from solution import f, isclose\nassert isclose(f(3), 9)", "", "f", "", "isclose", ""),
        ("from solution import gcd\nassert gcd(4, 6) == 2", "", "gcd", "", "", ""),
        ("from solution import *\nassert g(f(1)) == sqrt(4)", "f", "f g", "", "sqrt", ""),
        ("assert gcd(4, 6) == 2", "", "gcd", "", "", ""),
        ("assert sqrt(16) == f(2)", "", "f", "", "sqrt", ""),
        ("assert max([1, 5]) == 5", "", "max", "", "", ""),
        ("assert sorted(max([1, 5])) == [5]", "", "max", "", "", ""),
        ("assert set(f([1, 5])) == {5}", "", "f", "", "", ""),
        ("assert verify(f)(3) == 9", "", "f verify", "", "", ""),
        ("assert longest([Pair(1, 2), Pair(3, 4)], 2) == 2", "longest", "longest", "Pair", "", ""),
        ("assert longest([Pair(1, 2), Pair(3, 4)], 2) == 2", "", "longest", "Pair", "", ""),
        ("assert Same(f(3), 9)", "f", "f", "", "", "Same"),
        ("assert not Other(f(3), 9) and f(4)", "f", "f", "", "", "Other"),
        ("assert f(Color.RED) == 'red'", "f", "f", "Color", "", ""),
        ("assert f('red') == Color.RED", "f", "f", "", "", "Color"),
        ("assert f(3) in [Pair(1, 2)]", "f", "f", "", "", "Pair"),
        ("assert isinstance(f(3), Pair)", "f", "f", "Pair", "", ""),
        ("try:\n    f(3)\nexcept TooPoor as error:\n    assert error.short == 2", "f", "f", "TooPoor", "", ""),
        ("s = Stack()\ns.push(1)\nassert s.pop() == 1", "", "Stack", "", "", ""),
        ("assert Solution().f(3) == 9", "Solution().f", "Solution", "", "", ""),
        ("assert Solution().f(3) == 9", "f", "Solution", "", "", ""),
        ("assert __name__ == '__main__' and f(3)", "f", "f", "", "", ""),
        ("class T(TestCase):\n    def test(self):\n        self.assertEqual(f(1), n)", "f", "f", "TestCase", "", "n"),
    ],
)
def test_every_free_name_of_the_tests_has_one_source(
    tests: str, entry: str, program: str, classes: str, library: str, undefined: str
) -> None:
    names = sort_names(tests, ast.parse(tests), entry, ())
    found = [" ".join(sorted(group)) for group in (names.program, names.classes, names.library, names.undefined)]
    assert found == [program, classes, library, undefined]


def test_a_name_that_the_prompt_defines_is_not_free_and_one_that_it_requests_is_the_programs() -> None:
    tests = "assert decode(encode('a')) == same('a')"
    assert sort_names(tests, ast.parse(tests), "decode", {"encode", "same"}).undefined == set()
    assert sort_names(tests, ast.parse(tests), "decode", {"same"}, {"encode"}).program == {"decode", "encode"}


@pytest.mark.parametrize(
    ("name", "tests", "found"),
    [
        ("datetime", "assert f(datetime(2020, 1, 1))", datetime.datetime),
        ("datetime", "assert f(datetime.strptime('1', '%d'))", datetime.datetime),
        ("datetime", "assert f(datetime.date(2020, 1, 1))", datetime),
        ("Counter", "assert f() == Counter('a')", collections.Counter),
        ("isclose", "assert isclose(f(), 1)", math.isclose),
        ("pi", "assert f() == pi", math.pi),
        ("os", "assert f() == os", __import__("os")),
        ("subprocess", "subprocess.run(f())", None),
        ("_heapq", "_heapq(f())", None),
    ],
)
def test_a_name_of_the_library_is_found_by_its_use(name: str, tests: str, found: Any) -> None:
    assert find_in_library(name, ast.parse(tests)) is found
