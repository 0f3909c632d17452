"""The verifier math_verify: the package's own verdicts, in a worker process that alone loads it."""

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from configs.task import TaskConfig
from rewards import registry
from rewards.judge import judge_all
from rewards.registry import VERIFIERS, check, version_of
from tasks.registry import build

NEEDS = "the package math-verify is not installed (pip install '.[math_verify]')"
installed = pytest.mark.skipif(registry.find_spec("math_verify") is None, reason=NEEDS)

PAIRS = [
    ("1/2", r"so \boxed{0.5}", "correct"),
    (r"\frac12", "it is $0.5$", "correct"),
    ("6*12 = 72\n#### 72", "72", "correct"),
    (r"so \boxed{x^2-1}", r"\boxed{(x-1)(x+1)}", "correct"),
    (72, r"\boxed{71}", "wrong"),
    ([3, "4"], r"\boxed{4}", "correct"),
    ([3, "4"], r"\boxed{5}", "wrong"),
    ("72", "I do not know", "no_answer"),
    ("72", r"<think>\boxed{72}</think> I do not know", "no_answer"),
    ("72", "<think>it may be 72", "no_answer"),
    ("", "72", "grader_error"),
    (None, "72", "grader_error"),
    ([], "72", "grader_error"),
    (["72", ""], "72", "grader_error"),
    (True, "1", "grader_error"),
]
HOSTILE = [r"\boxed{9^{9^{9^{9}}}}", rf"\boxed{{{'(' * 3_000}5}}", r"\boxed{5!!!!!!!!!}", "\ud800", "", "$" * 5_000]


@installed
def test_the_verdicts_are_those_of_the_package() -> None:
    verdicts = judge_all("math_verify", [({"answer": gold}, answer) for gold, answer, _ in PAIRS], workers=1)
    assert [verdict.status for verdict in verdicts] == [status for _, _, status in PAIRS]
    assert [verdict.extracted for verdict in verdicts[:5]] == [
        *(r"\frac{1}{2}", r"\frac{1}{2}", "72", "(x-1)(x+1)", "71"),
    ]
    assert verdicts[4].reason == "71 is not the answer"


@installed
def test_a_hostile_answer_ends_at_the_deadline_without_a_reward() -> None:
    verdicts = judge_all("math_verify", [({"answer": "5"}, answer) for answer in HOSTILE], workers=1, timeout_s=1.0)
    assert [verdict.reward for verdict in verdicts] == [0.0] * len(HOSTILE)
    assert verdicts[0].status == "timeout" and {verdict.isolation for verdict in verdicts} <= {1, 2}


@installed
def test_a_gold_that_the_package_cannot_read_is_a_fault_of_the_problem() -> None:
    faults = VERIFIERS["math_verify"].faults
    module, _, function = faults.partition(":")
    code = (
        f"from {module} import {function} as check\n"
        r"print([len(check({'answer': gold})) for gold in ('72', r'\frac12', ['1', '2'], '', None, [], ['1', ''])])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[0, 0, 0, 1, 1, 1, 1]", done.stderr


@installed
def test_only_the_worker_process_loads_the_package() -> None:
    code = (
        "import sys\nfrom rewards.judge import judge_all\nfrom rewards.registry import check\ncheck('math_verify')\n"
        "[verdict] = judge_all('math_verify', [({'answer': '72'}, '72')], workers=1)\n"
        "print(verdict.status, [name for name in ('math_verify', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "correct []", done.stderr


@installed
def test_another_version_of_the_package_is_another_version_of_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    before = version_of("math_verify")
    monkeypatch.setattr(registry.metadata, "version", lambda name: "0.0.1")
    version_of.cache_clear()
    assert version_of("math_verify") != before
    monkeypatch.undo()
    version_of.cache_clear()
    assert version_of("math_verify") == before


def test_without_the_package_the_verifier_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(registry, "find_spec", nothing)
    with pytest.raises(ValueError) as caught:
        check("math_verify", "--compare")
    assert str(caught.value) == (
        "--compare: must be a verifier whose packages are installed, got 'math_verify', which needs math_verify: "
        "pip install '.[math_verify]' in the folder of Breadth"
    )
    check("math")


def test_it_reads_answers_by_its_own_rules_so_that_an_extraction_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^task.extraction: must be left out unless .* have \['math_verify'\]"):
        build(TaskConfig(name="word_problems", verifier="math_verify", extraction="boxed"), seed=0)
