"""Users' reward functions are called on the first rows before any role starts."""

import asyncio
import json
from pathlib import Path

import pytest

from configs.config import Config
from orchestrator.preflight.rewards import check_reward_names, check_rewards, setting_of
from orchestrator.rollout.encoding import PromptEncoder
from tasks.registry import build
from tests.orchestrator.in_process import config

FUNCTIONS = """
import asyncio
import os
import time

def compute_score(solution_str, ground_truth, method="strict"):
    assert method == "strict"
    return {"score": float(solution_str.strip() == ground_truth)}

def chat(completions, completion_ids, prompts, **kwargs):
    assert prompts[0][-1]["role"] == "user" and completion_ids[0]
    return [float(completion[0]["content"] == gold) for completion, gold in zip(completions, kwargs["answer"])]

async def slow_judge(completion, answer):
    await asyncio.sleep(0.01)
    return float(completion == answer)

def constant(answer, problem):
    return 0.5

def needs_gold(answer, problem):
    return float(answer == problem["gold"])

def needs_number(answer, problem):
    return float(answer) == float(problem["answer"])

def none(completions, **kwargs):
    return [None for _ in completions]

def sometimes(completions, **kwargs):
    return [1.0 if text == gold else None for text, gold in zip(completions, kwargs["answer"])]

def needs_column(completions, gold, **kwargs):
    return [1.0]

def words(answer, problem):
    return "excellent"

def slow(answer, problem):
    time.sleep(3)
    return 1.0

def ends(answer, problem):
    os._exit(7)

def positional(text, row):
    return 0.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows and a file of reward functions that is called as one of Breadth's packages is."""
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    rows = [{"prompt": f"{number}+{number}=", "answer": str(2 * number)} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(policy: Path, *overrides: str) -> Config:
    rows = ("task.name=dataset", "task.options.path=rows.jsonl")
    return config(policy, Path("runs"), *rows, *overrides)


def tried(cfg: Config) -> list[str]:
    lines: list[str] = []
    source = build(cfg.task, cfg.seed)
    check_reward_names(cfg, source)
    asyncio.run(check_rewards(cfg, source, PromptEncoder(cfg.policy), lines.append))
    return lines


def refusal(cfg: Config) -> str:
    with pytest.raises(ValueError) as caught:
        tried(cfg)
    return str(caught.value)


@pytest.mark.parametrize("function", ["compute_score", "chat", "slow_judge"])
def test_a_reward_of_another_library_is_tried_and_its_values_are_shown(
    function: str, folder: Path, tiny_policy: Path
) -> None:
    [line] = tried(settings(tiny_policy, f"task.verifier=rewards.py:{function}"))
    assert line.startswith(
        f"reward {folder}/rewards.py:{function}: right answers get 1, 1, 1; 'I do not know.' gets 0, 0, 0; "
    )
    assert "the first call took" in line


def test_a_reward_that_does_not_find_right_answers_better_is_named(folder: Path, tiny_policy: Path) -> None:
    shown, warned = tried(settings(tiny_policy, "task.verifier=rewards.py:constant"))
    assert "right answers get 0.5, 0.5, 0.5; 'I do not know.' gets 0.5, 0.5, 0.5" in shown
    assert "gives the same value or less to a right answer" in warned


def test_a_reward_that_gives_some_answers_none_is_accepted_and_shown(folder: Path, tiny_policy: Path) -> None:
    [line] = tried(settings(tiny_policy, "task.verifier=rewards.py:sometimes"))
    assert "right answers get 1, 1, 1; 'I do not know.' gets None, None, None" in line


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("needs_gold", ("raised KeyError: 'gold' (", "rewards.py:22) on the right answer")),
        ("needs_number", ("raised ValueError: could not convert", "rewards.py:25) on the garbage answer")),
        ("none", ("must give rewards", "returned None for 6 answers")),
        ("needs_column", ("'gold' is neither known nor a column of the problem (prompt, answer) on the right",)),
        ("words", ("returned 'excellent', not a number",)),
        ("ends", ("must not end its process", "exit code 7")),
        ("positional", ("must take, by these names, (answer, problem)", "TRL (completions, **columns)")),
        ("missing", ("must name a function of",)),
    ],
)
def test_a_reward_that_cannot_judge_the_first_rows_is_refused(
    function: str, words: tuple[str, ...], folder: Path, tiny_policy: Path
) -> None:
    message = refusal(settings(tiny_policy, f"task.verifier=rewards.py:{function}"))
    assert message.startswith("task.verifier: ")
    assert all(word in message for word in words), message


def test_the_limits_of_the_first_and_of_later_calls_are_obeyed(folder: Path, tiny_policy: Path) -> None:
    slow = ("task.verifier=rewards.py:slow", "grader.timeout_s=0.2")
    message = refusal(settings(tiny_policy, *slow, "grader.first_call_timeout_s=1"))
    assert "grader.timeout_s=0.2, the first one within grader.first_call_timeout_s=1, got" in message
    assert "no verdict within 1 s on the right answer" in message
    message = refusal(settings(tiny_policy, *slow, "grader.first_call_timeout_s=20"))
    assert "no verdict within 0.2 s on the garbage answer" in message


@pytest.mark.parametrize("text", ["import nothing_of_this_name\n", "def f(:\n", "import time\ntime.sleep(60)\n"])
def test_a_file_that_cannot_be_loaded_is_refused_without_loading_it_in_this_process(
    text: str, folder: Path, tiny_policy: Path
) -> None:
    (folder / "broken.py").write_text(text)
    message = refusal(settings(tiny_policy, "task.verifier=broken.py:f", "grader.first_call_timeout_s=2"))
    assert message.startswith("task.verifier: must be ")
    assert (
        "ModuleNotFoundError" in message
        or "SyntaxError" in message
        or "within grader.first_call_timeout_s=2" in message
    )


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (("task.options.verifier=rewards.py:none",), "task.options.verifier"),
        (("objective.rewards.own.verifier=rewards.py:none",), "objective.rewards.own.verifier"),
        (
            (
                "task.name=mixture",
                "task.options={domains: [{name: countdown}, {name: dataset, verifier: 'rewards.py:none', "
                "options: {path: rows.jsonl}}]}",
            ),
            "task.options.domains[1].verifier",
        ),
        (
            (
                "task.name=mixture",
                "task.options={domains: [{name: dataset, options: {path: rows.jsonl, verifier: 'rewards.py:none'}}]}",
            ),
            "task.options.domains[0].options.verifier",
        ),
    ],
)
def test_an_error_names_the_setting_that_names_the_verifier(
    overrides: tuple[str, ...], setting: str, folder: Path, tiny_policy: Path
) -> None:
    cfg = settings(tiny_policy, *overrides)
    assert setting_of(cfg, f"{folder}/rewards.py:none") == setting
    if "mixture" not in str(overrides):
        assert refusal(cfg).startswith(f"{setting}: must give rewards")


def test_built_in_verifiers_are_not_tried_and_unknown_ones_are_refused(folder: Path, tiny_policy: Path) -> None:
    assert tried(settings(tiny_policy)) == []
    assert "did you mean 'math'" in refusal(settings(tiny_policy, "task.verifier=maths"))
    assert "name the file of your function instead, rewards.py:chat" in refusal(
        settings(tiny_policy, "task.verifier=rewards:chat")
    )
