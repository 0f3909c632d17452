"""Several rewards of one answer: their sum, gates, and a run with them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.load import load
from configs.rewards import RewardConfig
from orchestrator.commands.cli import main
from orchestrator.rollout.rewards import combined
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config
from trajectories.trajectory import Grade

RIGHT = Grade(reward=1.0, status="correct", seconds=0.1, semantic_key="x")
WRONG = Grade(reward=0.0, status="wrong", reason="21, not 22")
HALF, FAILED = Grade(reward=0.5, status="wrong"), Grade(reward=None, status="grader_error", reason="no model")
REWARDS = {
    "answer": RewardConfig(weight=2.0),
    "style": RewardConfig(verifier="m:f", weight=0.5),
    "format": RewardConfig(verifier="m:g", weight=0.0, gate=True),
}


@pytest.mark.parametrize(
    ("answer", "style", "form", "reward"),
    [
        (RIGHT, HALF, RIGHT, 2 * 1 + 0.5 * 0.5),
        (WRONG, HALF, RIGHT, 0.5 * 0.5),
        (RIGHT, HALF, HALF, 0.0),  # the gate is closed
        (RIGHT, FAILED, RIGHT, None),
        (FAILED, HALF, RIGHT, None),
    ],
)
def test_the_reward_is_the_weighted_sum_unless_a_gate_is_closed_or_a_grader_failed(
    answer: Grade, style: Grade, form: Grade, reward: float | None
) -> None:
    grade = combined({"answer": answer, "style": style, "format": form}, REWARDS)
    assert grade.reward == reward
    assert dict(grade.parts) == {"answer": answer.reward, "style": style.reward, "format": form.reward}
    assert (grade.status == "grader_error") == (reward is None)
    if reward is not None:
        kept = (answer.status, answer.reason, answer.semantic_key)
        assert (grade.status, grade.reason, grade.semantic_key) == kept, "what is right does not change"


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (Grade(reward=1.0, status="correct", parts={"low": 0.5, "other": 9.0}), 1 + 0.2 * 0.5),
        (Grade(reward=0.0, status="wrong", parts={"low": 1.0}), 0.2),
        (Grade(reward=0.0, status="timeout"), 0.0),
        (Grade(reward=0.0, status="no_answer"), 0.0),
        (Grade(reward=1.0, status="correct", parts={"other": 9.0}), None),
        (FAILED, None),
    ],
)
def test_a_part_of_the_verdict_is_a_reward_and_a_verdict_that_lacks_it_is_a_failure_of_the_grader(
    answer: Grade, reward: float | None
) -> None:
    grade = combined({"answer": answer}, {"answer": RewardConfig(), "style": RewardConfig(part="low", weight=0.2)})
    assert grade.reward == reward
    assert set(grade.parts) == {"answer", "style"}
    if reward is None and answer is not FAILED:
        assert "reward style: the verdict has no part 'low', only other" in grade.reason


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("style={weight: 0.2}", r"^objective\.rewards\.style\.verifier: must name a verifier, unless `part` names"),
        ("style={part: low, verifier: 'm:f'}", r"^objective\.rewards\.style\.part: must be empty beside a verifier"),
        ("answer={part: low}", r"^objective\.rewards\.answer\.part: must be empty: it is the reward of the verdict"),
    ],
)
def test_a_reward_is_a_verifiers_or_a_part_of_the_verdict(reward: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(["scale=cpu", f"objective.rewards.{reward}"])


@pytest.fixture
def toy_verifiers_in_reach(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The grader's workers import them by name."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    yield


@pytest.mark.parametrize(("verifier", "low"), [("even", "verifier: 'toy_verifiers:starts_low'"), ("both", "part: low")])
def test_a_run_logs_every_reward_and_its_answers_can_be_judged_again(
    verifier: str,
    low: str,
    tiny_policy: Path,
    tmp_path: Path,
    toy_verifiers_in_reach: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = config(
        tiny_policy,
        tmp_path,
        "name=several",
        "steps=1",
        "groups_per_step=4",
        "sampling.group_size=4",
        "monitor.every=0",
        "logbook.trajectories_every=1",
        "logbook.trajectories=16",
        "seed=3",
        f"task.verifier=toy_verifiers:{verifier}",
        f"objective.rewards.low={{{low}, weight: 0.25}}",
    )
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    [record] = read_records(run_dir / "metrics.jsonl")
    rows = read_records(run_dir / "trajectories.jsonl")
    assert {row["reward"] == row["rewards"]["answer"] + 0.25 * row["rewards"]["low"] for row in rows} == {True}
    assert len({tuple(row["rewards"].values()) for row in rows}) > 2, "the two rewards differ"
    assert record["reward"] == pytest.approx(record["rewards/answer"] + 0.25 * record["rewards/low"])
    assert main(["verify", "--input", str(run_dir / "trajectories.jsonl"), "--workers", "1"]) == 0
    assert f"0 of {len(rows)} rows get another verdict" in capsys.readouterr().err
    assert all(json.loads(line)["rewards"] for line in (run_dir / "trajectories.jsonl").read_text().splitlines())
