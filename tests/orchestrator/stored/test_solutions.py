"""Solutions: the task's right answers to the prompts that are explored, and what a run with them records."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from configs.config import Config
from orchestrator.rollout.encoding import PromptEncoder, answer_encoder
from orchestrator.stored.solutions import Solutions, solutions_of
from rewards.arithmetic.countdown import verify
from tasks.registry import build
from tests.orchestrator.test_train import config, numbers, train
from trajectories.trajectory import Group

DOMAINS = "[{name: countdown, domain: small, weight: 3}, {name: countdown, domain: large, options: {numbers: 4}}]"


def solutions(cfg: Config) -> Solutions:
    return solutions_of(cfg, build(cfg.task, cfg.seed), PromptEncoder(cfg.policy))


@pytest.mark.parametrize("task", [(), ("task.name=mixture", f"task.options.domains={DOMAINS}")])
def test_a_solution_is_a_right_answer_to_the_prompt_of_its_group(tmp_path: Path, task: tuple[str, ...]) -> None:
    cfg = config(tmp_path, "method=spin", *task)
    found = solutions(cfg)
    prompts = [found.source.prompt(position) for position in (7, 0, 31)]
    for prompt, group in zip(prompts, found.added([Group(prompt=prompt) for prompt in prompts]), strict=True):
        solution = group.solution
        assert group.prompt == prompt and solution is not None
        assert (solution.route, solution.prompt_id, solution.grade) == ("imitate", prompt.id, None)
        assert verify(solution.text, prompt.problem).status == "correct"
        assert solution.prompt_tokens.tolist() == found.encode(prompt)
        assert solution.tokens[solution.mask].tolist() == answer_encoder(cfg.policy)(solution.text)


def test_a_prompt_whose_right_answer_is_longer_than_an_answer_may_be_has_no_solution(tmp_path: Path) -> None:
    found = solutions(config(tmp_path, "method=spin"))
    prompt = found.source.prompt(0)
    whole = found.of(prompt)
    assert whole is not None
    assert replace(found, longest=whole.answer_length).of(prompt) is not None
    assert replace(found, longest=whole.answer_length - 1).of(prompt) is None


def test_a_task_without_right_answers_is_refused_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"kind": "stdio", "tests": [{"stdin": "", "stdout": "7"}]}
    path.write_text("".join(json.dumps(row | {"question": f"Q{i}"}) + "\n" for i in range(30)))
    options = (f"task.options={{path: {path}, format: code}}", "task.name=dataset", "sampling.max_prompt_tokens=400")
    words = (
        r"^objective\.pairs\.winners: must not be 'solution': task\.options\.format: must be a format whose rows hold"
    )
    with pytest.raises(ValueError, match=words):
        train(config(tmp_path, "method=spin", "name=run", *options))
    assert not (tmp_path / "run").exists()


def test_a_row_without_a_right_answer_has_no_solution_beside_rows_that_have_one(tmp_path: Path) -> None:
    row = {"kind": "stdio", "tests": [{"stdin": "", "stdout": "7"}]}
    rows = [row | {"question": f"Q{i}", "solution": None if i % 2 else "print(7)"} for i in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    options = (f"task.options={{path: {path}, format: code}}", "task.name=dataset", "sampling.max_prompt_tokens=400")
    found = solutions(config(tmp_path, "method=spin", "sampling.max_new_tokens=40", "groups_per_step=8", *options))
    prompts = [found.source.prompt(position) for position in range(8)]
    solved = [group.solution is not None for group in found.added([Group(prompt=prompt) for prompt in prompts])]
    # Line n of the file has row n - 1.
    assert solved == [int(prompt.id.rpartition("-")[2]) % 2 == 1 for prompt in prompts]
    assert any(solved) and not all(solved)


def test_right_answers_that_are_wrong_in_the_mode_of_the_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}=", "answer": f"{i}"}) + "\n" for i in range(30)))
    rows = ("task.name=dataset", f"task.options.path={path}", "task.heldout_prompts=4", "task.extraction=boxed")
    words = r"task\.extraction: must be a mode in which the task's right answers are written, got 'boxed' and '[0-9]+'"
    with pytest.raises(ValueError, match=rf"^objective\.pairs\.winners: must not be 'solution': {words}"):
        train(config(tmp_path, "method=spin", *rows))
    with pytest.raises(ValueError, match=rf"^objective\.replay_weight: {words}"):
        train(config(tmp_path, "objective.replay_weight=0.1", *rows))


def test_right_answers_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    words = (
        r"^sampling\.max_new_tokens: must leave room for the task's right answers, got 2, and none of the first 4 is"
    )
    with pytest.raises(ValueError, match=words):
        train(config(tmp_path, "method=spin", "sampling.max_new_tokens=2"))


def test_a_run_with_solutions_does_not_count_them_as_answers_and_resumes_exactly(tmp_path: Path) -> None:
    settings = ("steps=6", "checkpoint.every=4", "checkpoint.keep_last=2", "references.opponent.every=2")
    cfg = config(tmp_path, "method=alpha_spin", "name=run", "learner.learning_rate=3e-4", *settings)
    whole = train(cfg)
    assert [record["solution_nll"] > 0 for record in whole] == [True] * 6
    # Means over the 16 answers that the policy has sampled.
    assert all((record[name] * 16).is_integer() for record in whole for name in ("reward", "answer_length"))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    assert numbers(train(cfg, resume=True))[-2:] == numbers(whole)[-2:]
