"""The rows of built-in verifiers, and look-up of verifiers by name and by import path."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rewards.arithmetic import countdown as countdown_answer
from rewards.registry import BUDGET_MARGIN_S, check, deadline_s, resolve, version_of
from rewards.verdict import Verdict

HERE = "unruly_verifiers"


def judged(function: str, answer: str = "abc", **problem: object) -> Verdict:
    return resolve(f"{HERE}:{function}")(answer, problem)


@pytest.mark.parametrize("name", ["countdown", "math", f"{HERE}:truth", f"{HERE}:patient_lengths", f"{HERE}:patient"])
def test_known_names_and_import_paths_pass_the_check(name: str) -> None:
    check(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coutdown", "did you mean 'countdown'"),
        ("", "must be one of countdown, math"),
        ("no_such_module:verify", "ModuleNotFoundError"),
        (f"{HERE}:no_such_function", "must name a function"),
        (f"{HERE}:NOT_CALLABLE", "must name a function"),
        (f"{HERE}:takes_nothing", "must take, by these names, (answer, problem)"),
        (f"{HERE}:", "package.module:function"),
    ],
)
def test_a_name_without_a_function_is_refused_with_the_name_of_the_setting(name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(name)
    assert str(caught.value).startswith("task.verifier: ")
    assert message in str(caught.value)


def test_a_bool_a_float_a_verdict_and_their_async_forms_all_become_verdicts() -> None:
    assert judged("truth", answer="abc").status == "grader_error"  # the problem lacks the field it reads
    assert resolve(f"{HERE}:truth")("abc", {"answer": "abc"}).reward == 1.0
    assert resolve(f"{HERE}:truth")("abd", {"answer": "abc"}) == Verdict(reward=0.0, status="wrong")
    assert judged("verdict", "yes").reason == "well said"
    assert judged("patient") == Verdict(reward=0.25, status="wrong")


@pytest.mark.parametrize("function", ["not_a_number", "words", "too_many", "named_columns"])
def test_a_verifier_that_returns_no_number_or_raises_is_a_grader_error(function: str) -> None:
    verdict = judged(function)
    assert (verdict.reward, verdict.status) == (None, "grader_error")
    assert verdict.reason


def test_the_reason_of_a_raising_verifier_names_it() -> None:
    reason = judged("obeys", "raise").reason
    assert "unruly_verifiers:obeys raised RuntimeError: no reward" in reason
    file, _, line = reason.rpartition("(")[2].rstrip(")").rpartition(":")
    assert "no reward for you" in Path(file).read_text().splitlines()[int(line) - 1]


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError, "memory"), (RecursionError, "rejected"), (ZeroDivisionError, "grader_error")]
)
def test_memory_and_recursion_errors_in_a_built_in_verifier_are_the_fault_of_the_answer(
    error: type[Exception], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(answer: str, problem: Mapping[str, Any]) -> Verdict:
        raise error

    monkeypatch.setattr(countdown_answer, "verify", fails)
    assert resolve("countdown")("1", {}).status == status
    assert judged("runs_out_of_memory").status == "grader_error"


def test_the_deadline_is_that_of_the_verifier_within_the_bound() -> None:
    assert [deadline_s(name, {}, 6.0) for name in ("countdown", "math", "sql")] == [1.0, 3.0, 5.0]
    assert deadline_s("math", {}, 0.5) == 0.5
    assert deadline_s("package.module:function", {}, 60.0) == 60.0


def test_the_deadline_of_a_program_follows_its_problem_plus_a_margin() -> None:
    short, long = ({"kind": "assert", "tests": "assert f(1) == 1", "timeout_s": limit} for limit in (1.0, 9.0))
    assert deadline_s("code", short, 0.5) > 1.0 + BUDGET_MARGIN_S
    assert deadline_s("code", long, 0.5) > deadline_s("code", short, 0.5)


def test_a_version_names_the_verifier_and_changes_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert version_of("math").startswith("math@")
    assert version_of("math").partition("@")[2] == version_of("countdown").partition("@")[2]  # one set of sources
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, body in (("version_one", "0.0"), ("version_two", "1.0")):
        (tmp_path / f"{name}.py").write_text(f"def verify(answer, problem):\n    return {body}\n")
    versions = [version_of(f"version_{number}:verify") for number in ("one", "two")]
    assert versions[0].startswith("version_one:verify@")
    assert versions[0].partition("@")[2] != versions[1].partition("@")[2]


def test_importing_rewards_and_tasks_loads_neither_torch_nor_the_mathematics_library() -> None:
    program = (
        "import sys, rewards.registry, rewards.arithmetic.countdown, rewards.workers.pool, tasks.registry\n"
        "assert not {'math_verify', 'sympy'} & set(sys.modules), 'eager'\n"
        "import rewards.mathematics.answer\n"
        "assert not {'torch', 'ray', 'vllm'} & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
