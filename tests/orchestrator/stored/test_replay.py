"""Replay: which right answers a run replays; RECAP weights of domains and replay are the same after a resume."""

import json
import shutil
from pathlib import Path

import pytest

from configs.config import Config
from orchestrator.rollout.encoding import answer_encoder
from orchestrator.stored.replay import load_replay
from rewards.arithmetic.countdown import verify
from tasks.registry import build
from tests.orchestrator.test_train import config, numbers, train

DOMAINS = "[{name: countdown, domain: small, weight: 3}, {name: countdown, domain: large, options: {numbers: 4}}]"
RECAP = ("method=recap", "replay.batch=3")


def rows(folder: Path, count: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": f"right {i}"}) + "\n" for i in range(count)))
    return path


def test_without_a_task_the_runs_own_right_answers_are_replayed_and_not_those_of_explored_prompts(
    tmp_path: Path,
) -> None:
    cfg = config(tmp_path, "method=recap", "replay.batch=8")
    replay, explored = load_replay(cfg), build(cfg.task, cfg.seed)
    answers = [answer for step in range(4) for answer in replay.at(step)]
    assert len(answers) == 32
    problems = [replay.source.prompt(position).problem for position in range(32)]
    assert [verify(t.text, problem).status for t, problem in zip(answers, problems, strict=True)] == ["correct"] * 32
    assert len({t.text for t in answers}) > 16
    assert sum(explored.prompt(position).problem in problems for position in range(32)) < 4
    for t in answers:
        assert (t.route, t.grade, t.logp_reference) == ("replay", None, None)
        assert t.tokens[t.mask].tolist() == answer_encoder(cfg.policy)(t.text)


def test_the_answers_of_a_step_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    def texts(step: int, *overrides: str) -> list[str]:
        return [t.text for t in load_replay(config(tmp_path, *RECAP, *overrides)).at(step)]

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)
    assert texts(7) != texts(7, "seed=1")


def from_rows(folder: Path, path: Path, *more: str) -> Config:
    return config(folder, *RECAP, "replay.task=dataset", f"replay.options={{path: {path}}}", *more)


def test_rows_of_a_file_are_replayed_once_in_every_pass_and_long_ones_are_left_out(tmp_path: Path) -> None:
    path = rows(tmp_path, 40)
    replay = load_replay(from_rows(tmp_path, path))
    train_rows = len(replay.source._train)  # type: ignore[attr-defined]
    texts = [replay.source.demonstration(position)[1] for position in range(train_rows)]
    assert len(set(texts)) == train_rows > 30
    [answer, *_] = replay.at(0)
    end = answer.tokens[answer.mask].tolist()[-1]
    assert bytes(answer.text, "utf-8").startswith(b"right ")
    assert end == answer_encoder(from_rows(tmp_path, path).policy)("")[-1]
    # "7?" and "right 7" with the end token are 10 tokens, "17?" and "right 17" are 12: within 11, one digit is left.
    short = load_replay(
        from_rows(tmp_path, path, "replay.batch=100", "sampling.max_prompt_tokens=3", "sampling.max_new_tokens=8")
    )
    kept = short.at(0)
    assert 0 < len(kept) < 100
    assert all(len(t.text) == 7 for t in kept)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["replay.task=unheard"], r"^replay\.task: must be one of countdown"),
        (["replay.task=dataset", "replay.options={path: gone.jsonl}"], r"^replay\.options\.path: "),
        (["replay.task=dataset", "replay.options={pth: gone.jsonl}"], r"^replay\.options\.pth: unknown option"),
        (
            ["replay.task=dataset", "replay.options={path: gone.jsonl, format: math, answer_field: x}"],
            r"^replay\.options\.answer_field: must be left out with replay\.options\.format=math",
        ),
        (
            ["replay.task=mixture", "replay.options={domains: [{name: countdown}, {name: dataset}]}"],
            r"^replay\.options\.domains\[1\]\.options\.path: must not be empty",
        ),
        (
            ["replay.task=mixture", "replay.options={domains: [{name: countdwn}]}"],
            r"^replay\.options\.domains\[0\]\.name: must be one of countdown",
        ),
        (
            ["task.name=mixture", "task.options={domains: [{name: countdown, options: {numbers: 1}}]}"],
            r"^task\.options\.domains\[0\]\.options\.numbers: must be between 2 and 8",
        ),
        (["replay.task=sql_questions"], r"^sampling\.max_new_tokens: must leave room"),
    ],
)
def test_a_replay_without_right_answers_is_refused_before_anything_starts(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train(config(tmp_path, *RECAP, *overrides))


def test_a_row_without_a_right_answer_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    right = {"kind": "stdio", "tests": [{"stdin": "", "stdout": ""}], "solution": "pass"}
    lines = [right | {"question": f"Q{i}"} for i in range(29)] + [right | {"question": "Q", "solution": None}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = f"replay.options={{path: {path}, format: code, heldout_fraction: 1e-9}}"
    replay = load_replay(config(tmp_path, *RECAP, "replay.task=dataset", options, "sampling.max_prompt_tokens=400"))
    found = [answer.prompt_id for step in range(30) for answer in replay.at(step)]
    assert len(found) < 30 * replay.batch and "dataset/train/line-30" not in found
    assert {f"dataset/train/line-{line}" for line in range(2, 30)} <= set(found) | {"dataset/heldout/line-1"}


def test_domains_and_replay_get_recap_weights_in_one_run_that_resumes_exactly(tmp_path: Path) -> None:
    mixture = ("task.name=mixture", f"task.options.domains={DOMAINS}")
    steps = ("name=mixed", "steps=6", "checkpoint.every=4", "checkpoint.keep_last=2", "objective.recap.window=2")
    cfg = config(tmp_path, *RECAP, *mixture, *steps, "objective.recap.temperature=0.5")
    whole = train(cfg)
    names = ("small", "large", "replay")
    for record in whole:
        assert record["replayed"] == 3
        assert record["replay_loss"] > 0
        fractions = {"small": 0.75, "large": 0.25}  # of the prompts; every answer was graded
        assert record["reward"] == pytest.approx(sum(f * record[f"reward/{name}"] for name, f in fractions.items()))
        found = [record[f"recap_weight/{name}"] for name in names] if record["step"] > 1 else [1.0] * 3
        assert sum(found) == pytest.approx(3)
        assert (found == [1.0] * 3) == (record["step"] <= 4), "2 W = 4 values come from as many steps"
        assert record["terms/replay/coefficient"] == found[2]
    shutil.rmtree(tmp_path / "mixed" / "checkpoints" / "step-000006")
    resumed = train(cfg, resume=True)
    assert numbers(resumed) == numbers(whole)
