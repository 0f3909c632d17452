"""The code verifier on honest programs, right and wrong, in all forms of responses and tests."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rewards.programs import boxes
from rewards.programs.extraction import canonical, extract_programs
from rewards.programs.problem import budget_s, check_problem, parse
from rewards.programs.stdio_tests import same_output
from rewards.programs.testing import prepare, verify
from rewards.sandbox.box import Zygote

CASES = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()]
ADD = {"kind": "assert", "entry_point": "add", "tests": "assert add(1, 2) == 3\nassert add(0, 5) == 5", "timeout_s": 20}
RIGHT = "def add(a, b):\n    return a + b"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_an_honest_program_gets_the_expected_verdict(case: dict[str, Any]) -> None:
    verdict = verify(case["answer"], {"timeout_s": 20, **case["problem"]})
    assert (verdict.status, verdict.reason) == (case["status"], verdict.reason)
    assert verdict.reward == case.get("reward", float(case["status"] == "correct"))
    assert verdict.tests_passed == case.get("passed", verdict.tests_passed)


def test_a_verdict_contains_test_counts_time_and_isolation_level() -> None:
    verdict = verify("def add(a, b):\n    return 3", ADD)
    assert (verdict.tests_passed, verdict.tests_total) == (1, 2)
    assert verdict.isolation == boxes.zygote().level
    assert verdict.seconds > 0
    assert verdict.cpu_seconds > 0


def test_a_reason_contains_no_expected_value_and_no_text_of_the_tests() -> None:
    tests = "def check(candidate):\n    assert candidate(1, 2) == 'secret', 'hidden words'\n"
    verdict = verify("def add(a, b):\n    return a.nothing", {**ADD, "tests": tests})
    assert verdict.reason == "test 1 of 1 raised AttributeError"
    verdict = verify(RIGHT, {**ADD, "tests": tests})
    assert verdict.reason == "test 1 of 1 failed"


def test_input_and_output_may_be_larger_than_a_pipe() -> None:
    text = "x" * 1_000_000
    echo = {"kind": "stdio", "tests": [{"stdin": text, "stdout": text}], "timeout_s": 20}
    assert verify("print(input())", echo).status == "correct"
    assert verify("print(input()[1:])", echo).status == "wrong"
    unread = {"kind": "stdio", "tests": [{"stdin": text, "stdout": "done"}], "timeout_s": 20}
    assert verify("print('done')", unread).status == "correct"


def test_a_large_argument_and_a_large_result_can_be_sent() -> None:
    tests = "x = list(range(300000))\nassert f(x) == x[::-1]\nassert x[0] == 0"
    problem = {"kind": "assert", "entry_point": "f", "tests": tests, "timeout_s": 30}
    assert verify("def f(x):\n    return x[::-1]", problem).status == "correct"


def test_an_answer_leaves_nothing_for_the_next_one() -> None:
    planted = (
        "import builtins, json, os, sys\n"
        "json.planted = builtins.planted = 1\nsys.modules['planted'] = json\nos.environ['PLANTED'] = '1'\n"
        "for place in ('/tmp/json.py', '/tmp/planted.py', '/dev/shm/planted'):\n"
        "    try:\n        open(place, 'w').write('planted = 1')\n    except OSError:\n        pass\n" + RIGHT
    )
    looking = (
        "import builtins, json, os, sys\n"
        "def add(a, b):\n"
        "    found = [hasattr(json, 'planted'), hasattr(builtins, 'planted'), 'planted' in sys.modules]\n"
        "    found += ['PLANTED' in os.environ, any(map(os.path.exists, ('/tmp/json.py', '/dev/shm/planted')))]\n"
        "    return a + b + sum(found)\n"
    )
    assert verify(planted, ADD).status == "correct"
    assert verify(looking, ADD).status == "correct"


def test_a_dead_zygote_is_replaced_and_the_answer_is_judged() -> None:
    prepare()
    os.kill(boxes.zygote()._process.pid, signal.SIGKILL)
    assert verify(RIGHT, ADD).status == "correct"


@pytest.mark.parametrize("level", [1, 2])
def test_lower_isolation_levels_give_the_same_verdicts_and_report_their_level(
    level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Zygote(level) as lower:
        monkeypatch.setattr(boxes, "_ZYGOTES", [lower])
        verdicts = [verify(RIGHT, ADD), verify("def add(a, b):\n    return 3", ADD)]
        stdio = {"kind": "stdio", "tests": [{"stdin": "4\n", "stdout": "16\n"}], "timeout_s": 20}
        verdicts += [verify("print(int(input()) ** 2)", stdio), verify("print(4)", stdio)]
    assert [verdict.status for verdict in verdicts] == ["correct", "wrong", "correct", "wrong"]
    assert {verdict.isolation for verdict in verdicts} == {level}


@pytest.mark.parametrize(
    ("problem", "field"),
    [
        ({}, "kind"),
        ({"kind": "assert", "entry_point": "f"}, "tests"),
        ({"kind": "assert", "entry_point": "f", "tests": "assert f()", "timeout_s": True}, "timeout_s"),
        ({"kind": "assert", "entry_point": "f", "tests": "assert f()", "timeout_s": float("nan")}, "timeout_s"),
        ({"kind": "assert", "entry_point": "f", "tests": "assert f()", "timeout_s": 61}, "timeout_s"),
        ({"kind": "assert", "entry_point": "f(x)", "tests": "assert f()"}, "entry_point"),
        ({"kind": "assert", "entry_point": 5, "tests": "assert f()"}, "entry_point"),
        ({"kind": "stdio", "tests": "x"}, "tests"),
        ({"kind": "stdio", "tests": [{"stdin": "", "stdout": " \n"}]}, "tests"),
        ({"kind": "stdio", "tests": [{"stdin": b"", "stdout": "1"}]}, "tests"),
    ],
)
def test_a_malformed_row_is_refused_and_the_field_is_named(problem: Mapping[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: must "):
        parse(problem)
    assert verify(RIGHT, problem).status == "grader_error"
    assert check_problem(problem)[0].startswith(f"{field}: must ")


def test_problems_are_checked_without_an_answer() -> None:
    usable = [case["problem"] for case in CASES if case["status"] != "grader_error"]
    assert usable and [check_problem(problem) for problem in usable] == [[]] * len(usable)
    broken = ADD | {"tests": "assert add(1, 2) == 3\nassert add(0, 5) = 5"}
    [fault] = check_problem(broken)
    assert fault.startswith("tests: must be Python, got ") and fault.endswith(" in line 2 of them")


def test_the_budget_covers_every_test_on_a_busy_machine_and_is_bounded() -> None:
    pair = {"stdin": "", "stdout": "1"}
    assert budget_s({"kind": "assert", "tests": "", "timeout_s": 3}) == 16
    assert budget_s({"kind": "stdio", "tests": [pair] * 4, "timeout_s": 2}) == 26
    assert budget_s({"kind": "stdio", "tests": [pair] * 1000}) == 130
    assert budget_s({"timeout_s": "x"}) == 10


@pytest.mark.parametrize(
    ("response", "names", "first"),
    [
        ("```python\nx = 1\n```", (), "x = 1"),
        ("a\n```python\nx = 1\n```\nb\n```python\nx = 2\n```", (), "x = 2"),
        ("```\nx = 1\n```\n```python\nx = 2\n```\n```\n3\n```", (), "x = 2"),
        ("```python\ndef f(): 1\n```\n```python\nf()\n```", ("f",), "def f(): 1"),
        ("```python\ndef f(): 1\n```\n```python\ndef f(): 2\n```", ("f",), "def f(): 2"),
        ("```text\nhello\n```\n```\ndef f(): 1\n```", ("f",), "def f(): 1"),
        ("```python\nx = '''\n~~~\n'''\n```", (), "x = '''\n~~~\n'''"),
        ("````\n```\nx = 1\n```\n````", (), "```\nx = 1\n```"),
        ("<think>```python\nx = 1\n```</think>x = 2", (), "x = 2"),
        ("x = 1\n<think>x = 2", (), "x = 1\n"),
    ],
)
def test_the_program_is_extracted_from_a_response(response: str, names: tuple[str, ...], first: str) -> None:
    assert extract_programs(response, names)[0].strip() == first.strip()


@pytest.mark.parametrize("response", ["", "   ", "<think>x = 1", "No idea.", "```python\n```", "```\n\n"])
def test_a_response_without_code_has_no_program(response: str) -> None:
    assert extract_programs(response, ("f",)) == []
    assert verify(response, ADD).status == "no_answer"


def test_output_is_compared_by_line_without_trailing_blanks() -> None:
    assert same_output(b"a \t\r\nb\n\n \n", b"a\nb")
    assert same_output(b"", b"\n")
    assert not same_output(b" a", b"a")
    assert not same_output(b"a\n\nb", b"a\nb")
    assert not same_output(b"a b", b"a  b")
    assert not same_output("a\u00a0".encode(), b"a")


def test_right_programs_have_one_key_if_they_differ_in_comments_blank_lines_and_spaces() -> None:
    alike = [RIGHT, f"```python\n{RIGHT}\n```", "def add(a,b):  # the sum\n\n  # of both\n  return a+b"]
    keys = {verify(answer, ADD).semantic_key for answer in alike}
    assert keys == {"def add ( a , b ) : NEWLINE INDENT return a + b NEWLINE DEDENT ENDMARKER"}
    assert verify("def add(a, b):\n    return b + a", ADD).semantic_key not in {"", *keys}
    assert verify("def add(a, b):\n    return a - b", ADD).semantic_key == ""


@pytest.mark.parametrize(
    "text", ["def f(:\n  '''", "  x\n y", "(" * 5_000, "\0", "'", "\\", "x = \ud800", "\x0c\r0xz 1__0"]
)
def test_a_text_that_is_no_program_has_a_form_or_none_and_never_raises(text: str) -> None:
    assert isinstance(canonical(text), str)
