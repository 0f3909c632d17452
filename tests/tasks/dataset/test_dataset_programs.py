"""Dataset rows whose answers are programs: their prompts, problems and right answers."""

import base64
import json
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.dataset.format_rows import (
    CASES,
    CODE,
    CONTEST,
    ECHO,
    HUMANEVAL,
    MBPP,
    METHOD,
    ROWS,
    packed,
    shown,
    source,
    without_fence,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def passes(problem: Mapping[str, Any], solution: str) -> bool:
    """Whether a trusted solution passes the tests of its row; runs without a sandbox."""
    names: dict[str, Any] = {}
    exec(problem.get("prompt", "") if "class Solution" in solution else "", names)
    exec(solution, names)
    candidate = eval(problem["entry_point"], names)
    try:
        exec(problem["tests"], names)
        if "check" in names:
            names["check"](candidate)
    except AssertionError:
        return False
    return True


def test_a_code_row_keeps_its_tests_out_of_the_prompt(folder: Path) -> None:
    prompt, answer = source(folder, "code", CODE).demonstration(0)
    assert prompt.problem == {
        "kind": "assert",
        "entry_point": "double",
        "tests": "assert double(4) == 8",
        "timeout_s": 2,
    }
    assert prompt.text.startswith("Return the double of a number.\n\nWrite the Python function `double`.")
    assert "assert" not in prompt.text
    assert passes(prompt.problem, without_fence(answer, "python"))
    signature = {"kind": "assert", "prompt": "def f():\n    ...", "tests": "assert f()", "entry_point": "f"}
    assert shown(folder, "code", signature).text.startswith("```python\ndef f():\n    ...\n```\n\nWrite the Python")
    assert shown(folder, "code", signature).problem == signature


def test_the_prompt_of_a_stdio_row_asks_for_a_program_that_reads_standard_input(folder: Path) -> None:
    prompt, answer = source(folder, "code", ECHO | {"tests": [ECHO["tests"][0] | {"note": "x"}]}).demonstration(0)
    assert prompt.problem == {"kind": "stdio", "tests": ECHO["tests"]}
    assert shown(folder, "code", ECHO | {"compare": "tokens"}).problem["compare"] == "tokens"
    assert "reads from standard input" in prompt.text
    assert without_fence(answer, "python") == ECHO["solution"] + "\n"
    with pytest.raises(ValueError, match=r"must be a format whose rows hold right answers, got 'code' and a row w"):
        source(folder, "code", {k: v for k, v in ECHO.items() if k != "solution"}).demonstration(0)


def test_a_humaneval_answer_completes_the_function_of_the_prompt(folder: Path) -> None:
    prompt, answer = source(folder, "humaneval", HUMANEVAL).demonstration(0)
    assert prompt.problem == {
        "kind": "assert",
        "prompt": HUMANEVAL["prompt"],
        "entry_point": "halve",
        "tests": HUMANEVAL["test"],
    }
    assert f"```python\n{HUMANEVAL['prompt']}```" in prompt.text
    assert "candidate" not in prompt.text
    assert passes(prompt.problem, without_fence(answer, "python"))
    assert not passes(prompt.problem, "def halve(number):\n    return number")


def test_an_mbpp_row_names_the_tested_function_and_has_all_its_tests(folder: Path) -> None:
    prompt, answer = source(folder, "mbpp", MBPP).demonstration(0)
    assert prompt.problem["kind"] == "assert" and prompt.problem["entry_point"] == "join_words"
    assert prompt.problem["tests"].splitlines() == [*MBPP["test_list"], *MBPP["challenge_test_list"]]
    assert MBPP["test_list"][0] in prompt.text and MBPP["test_list"][1] not in prompt.text
    assert passes(prompt.problem, without_fence(answer, "python"))
    assert not passes(prompt.problem, "def join_words(words):\n    return 'a-b'")


def test_the_cleaned_mbpp_with_its_imports_is_read_too(folder: Path) -> None:
    row = {
        "prompt": "Write a function for the length of a diagonal.",
        "code": "import math\ndef diagonal(a, b):\n    return math.hypot(a, b)",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(diagonal(3, 4), 5)"],
    }
    prompt, answer = source(folder, "mbpp", row).demonstration(0)
    assert prompt.problem["entry_point"] == "diagonal"
    assert prompt.problem["tests"].startswith("import math\nassert")
    assert passes(prompt.problem, without_fence(answer, "python"))
    bare = {"text": "?", "test_list": ["assert set(unique([1, 1])) == {1}"]}
    assert shown(folder, "mbpp", bare).problem["entry_point"] == "unique"


def test_contest_programs_get_public_and_private_tests(folder: Path) -> None:
    prompt = shown(folder, "livecodebench", CONTEST)
    assert prompt.problem == {
        "kind": "stdio",
        "tests": [{"stdin": "3\n", "stdout": "9\n"}, {"stdin": "4\n", "stdout": "16\n"}],
        "compare": "tokens",
    }
    assert prompt.text.startswith("Print the square of the number.\n\nWrite a Python program that reads from")
    with pytest.raises(ValueError, match=r"rows hold right answers, got 'livecodebench'"):
        source(folder, "livecodebench", CONTEST).demonstration(0)


def test_contest_methods_become_assertions(folder: Path) -> None:
    prompt = shown(folder, "livecodebench", METHOD)
    assert prompt.problem["kind"] == "assert" and prompt.problem["entry_point"] == "Solution().pair"
    assert "Start from this code:\n\n```python\nclass Solution:" in prompt.text
    solution = (
        "class Solution:\n    def pair(self, numbers: List[int], offset: float):\n"
        "        total = sum(numbers) + offset\n        return total, total % 2 == 0\n"
    )
    assert passes(prompt.problem, solution)
    assert not passes(prompt.problem, solution.replace("+ offset", ""))
    assert passes(prompt.problem, solution.replace("return total,", "return total + 1e-9 * (total % 1),"))
    assert not passes(prompt.problem, solution.replace("return total,", "return total + 1e-3,"))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_packed_private_tests_are_read_without_unpickling(folder: Path, protocol: int) -> None:
    pickled = pickle.dumps(json.dumps(CASES[1:] * 50), protocol=protocol)
    row = CONTEST | {"private_test_cases": base64.b64encode(zlib.compress(pickled)).decode()}
    assert len(shown(folder, "livecodebench", row).problem["tests"]) == 51


class Payload:
    def __reduce__(self) -> Any:
        return open, ("proof", "w")


@pytest.mark.parametrize("value", [Payload(), ["[]", Payload()], ["[]"], {"[]": 1}, 5, b"[]"])
def test_a_pickle_of_anything_but_one_string_is_refused_and_never_run(
    folder: Path, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"line 1: field 'private_test_cases' is a pickle of more than one string"):
        source(folder, "livecodebench", CONTEST | {"private_test_cases": packed(value)})
    assert not (folder / "proof").exists()


def test_packed_tests_that_are_too_large_when_unpacked_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.dataset.contests.UNPACKED_LIMIT", 10_000)
    with pytest.raises(ValueError, match=r"must be at most 10000 bytes when unpacked"):
        source(folder, "livecodebench", CONTEST | {"private_test_cases": packed("[" + " " * 20_000 + "]")})


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("code", CODE | {"kind": "exec"}, "field 'kind' must be 'assert' or 'stdio', got 'exec'"),
    ("code", CODE | {"tests": []}, "field 'tests' must be a non-empty string"),
    ("code", CODE | {"entry_point": "a b"}, "field 'entry_point' must be a name or a method"),
    ("code", CODE | {"timeout_s": 0}, "field 'timeout_s' must be in (0, 60] seconds, got 0"),
    ("code", CODE | {"timeout_s": True}, "field 'timeout_s' must be in (0, 60] seconds, got True"),
    ("code", CODE | {"reward": "half"}, "field 'reward' must be 'all' or 'fraction', got 'half'"),
    (
        "code",
        {"kind": "assert", "question": "?", "tests": "def check(candidate):\n    assert candidate()"},
        "must have the field 'entry_point', because its tests define check(candidate)",
    ),
    ("code", ECHO | {"compare": "some"}, "field 'compare' must be one of exact, tokens, got 'some'"),
    ("code", ECHO | {"tests": []}, "field 'tests' must be a non-empty list of objects with stdin and stdout"),
    ("code", ECHO | {"tests": [{"stdin": "a"}]}, "field 'tests' must hold objects with the strings stdin and stdout"),
    ("humaneval", HUMANEVAL | {"entry_point": None}, "field 'entry_point' must be a non-empty string, got None"),
    ("humaneval", HUMANEVAL | {"test": ""}, "field 'test' must be a non-empty string, got ''"),
    ("mbpp", MBPP | {"test_list": []}, "field 'test_list' must hold at least one assertion"),
    ("mbpp", MBPP | {"test_list": ["assert 1 =="]}, "field 'test_list' must be Python (SyntaxError"),
    ("mbpp", MBPP | {"test_list": ["assert other(1)"]}, "field 'test_list' must call the function it tests, got none"),
    ("mbpp", MBPP | {"code": "def"}, "field 'code' must be Python"),
    ("mbpp", MBPP | {"test_imports": [3]}, "field 'test_imports' must be a list of non-empty strings"),
    (
        "livecodebench",
        CONTEST | {"private_test_cases": "!"},
        "field 'private_test_cases' must be JSON, or JSON pickled",
    ),
    ("livecodebench", CONTEST | {"public_test_cases": "[3]"}, "must hold objects with input, output and testtype"),
    (
        "livecodebench",
        CONTEST | {"public_test_cases": "", "private_test_cases": None},
        "all of type 'stdin' or all of type 'functional', got no tests",
    ),
    ("livecodebench", METHOD | {"public_test_cases": CONTEST["public_test_cases"]}, "got functional, stdin"),
    ("livecodebench", METHOD | {"metadata": "{}"}, "field 'metadata' must give the func_name of functional tests"),
    (
        "livecodebench",
        METHOD | {"private_test_cases": METHOD["private_test_cases"].replace("true", "True")},
        "functional test 2 must hold JSON",
    ),
]


@pytest.mark.parametrize(("format_name", "row", "reason"), MALFORMED)
def test_a_row_that_does_not_fit_its_format_is_refused_with_file_line_and_reason(
    folder: Path, format_name: str, row: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError) as caught:
        source(folder, format_name, ROWS[format_name], row)
    assert str(caught.value).startswith(f"{folder / format_name}.jsonl, line 2: ")
    assert reason in str(caught.value)
