"""Advantages of several rewards: of their sum, or the sum of the advantages of each (GDPO, arXiv:2601.05242)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from configs.overlong import OverlongConfig
from configs.recap import RecapConfig
from configs.rewards import RewardConfig
from objectives.advantage.by_trajectory import trajectory_advantage
from objectives.coefficient.controllers import initial_state, with_recap
from objectives.coefficient.recap import recap_weights
from objectives.credit import credit
from objectives.wording import describe_policy_gradient
from tests.trajectories.given_lengths import PROMPT, trajectory
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group

ROOT_HALF = 0.5**0.5
"""The z-score of the larger of two different numbers: (1 - 1/2) / sqrt(1/2)."""


def groups_of(*groups: list[tuple[float, float]], weights: tuple[float, float] = (1.0, 1.0)) -> list[Group]:
    """Groups whose answers have these two rewards, `answer` and `format`."""
    packed = []
    for number, rewards in enumerate(groups):
        answers = []
        for i, (answer, form) in enumerate(rewards):
            total = weights[0] * answer + weights[1] * form
            grade = Grade(reward=total, status="wrong", parts={"answer": answer, "format": form})
            answers.append(replace(trajectory(10 * number + i, 2, 3), grade=grade))
        packed.append(Group(prompt=PROMPT, trajectories=tuple(answers)))
    return packed


def batch_of(*groups: list[tuple[float, float]], weights: tuple[float, float] = (1.0, 1.0)) -> Batch:
    return pack(groups_of(*groups, weights=weights))


def several(combine: str = "weighted_advantages", **changes: object) -> ObjectiveConfig:
    rewards = {"format": RewardConfig(verifier="m:f")}
    return replace(ObjectiveConfig(rewards=rewards), **{"combine": combine, **changes})


def advantage(batch: Batch, cfg: ObjectiveConfig) -> Tensor:
    logp = torch.zeros(int(batch.on_route("explore").sum()))
    return trajectory_advantage(batch, cfg, initial_state(cfg, 10), logp, None)[0]


def test_answers_of_different_rewards_keep_different_advantages() -> None:
    # The example of the paper: of two answers one has both rewards, or one of them. The z-score of the sum is the same.
    batch = batch_of([(0, 0), (1, 1)], [(0, 0), (1, 0)])
    found = advantage(batch, several()).tolist()
    assert found == pytest.approx([-2 * ROOT_HALF, 2 * ROOT_HALF, -ROOT_HALF, ROOT_HALF], abs=1e-4)
    summed = advantage(batch, several("weighted_sum")).tolist()
    assert summed == pytest.approx([-ROOT_HALF, ROOT_HALF, -ROOT_HALF, ROOT_HALF], abs=1e-4)


def test_weights_multiply_the_advantages_of_each_reward() -> None:
    rewards = {"answer": RewardConfig(weight=3.0), "format": RewardConfig(verifier="m:f", weight=0.5)}
    found = advantage(batch_of([(0, 1), (1, 0)]), several(rewards=rewards)).tolist()
    assert found == pytest.approx([-2.5 * ROOT_HALF, 2.5 * ROOT_HALF], abs=1e-4)


@pytest.mark.parametrize("name", ["mean_only", "leave_one_out"])
def test_for_linear_advantages_both_combinations_are_equal(name: str) -> None:
    rewards = {"format": RewardConfig(verifier="m:f", weight=0.5)}
    batch = batch_of([(0, 1), (1, 0), (1, 1)], [(0, 0), (1, 1), (0, 1)], weights=(1.0, 0.5))
    one, other = (
        advantage(batch, several(combine, rewards=rewards, advantage=name))
        for combine in ("weighted_sum", "weighted_advantages")
    )
    torch.testing.assert_close(one, other)


def test_a_closed_gate_sets_every_reward_of_the_answer_to_0() -> None:
    rewards = {"format": RewardConfig(verifier="m:f", gate=True)}
    gated = advantage(batch_of([(1, 0.9), (1, 1)]), several(rewards=rewards))
    assert gated.tolist() == advantage(batch_of([(0, 0), (1, 1)]), several(rewards=rewards)).tolist()


def test_an_answer_without_a_reward_is_left_out_and_gets_0() -> None:
    cfg = several(overlong=OverlongConfig(limit=4))
    rewards = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)]
    [group] = groups_of(rewards)
    failed = replace(trajectory(9, 2, 3), grade=Grade(reward=None, status="grader_error", parts={"answer": 1.0}))
    found = advantage(pack([replace(group, trajectories=(*group.trajectories, failed))]), cfg)
    assert found[3] == 0 and found[:3].tolist() == advantage(batch_of(rewards), cfg).tolist()


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["objective.rewards.style.weight=1"], r"objective\.rewards\.style\.verifier: must name a verifier, .* got ''"),
        (
            ["objective.rewards.answer.verifier=math"],
            r"objective\.rewards\.answer\.verifier: must be set as task\.verifier, got 'math'",
        ),
        (
            ["objective.rewards.style={verifier: 'm:f', weight: 0}"],
            r"objective\.rewards\.style\.weight: must not be 0, except for a gate, got 0",
        ),
        (
            ["objective.combine=weighted_advantages", "objective.advantage=best_of_n"],
            r"objective\.combine: must be 'weighted_sum', except for the advantages group_zscore, .*, got 'w",
        ),
        (
            ["method=nsr", "objective.rewards.style={verifier: 'm:f'}"],
            r"objective\.rewards: must be gates of weight 0 for advantage=weighted_sign",
        ),
    ],
)
def test_combinations_without_a_meaning_are_refused(overrides: list[str], error: str) -> None:
    with pytest.raises(ValueError, match=f"^{error}"):
        load(overrides)


def test_a_gate_alone_is_allowed_for_advantages_that_count_right_answers() -> None:
    cfg = load(["method=nsr", "objective.rewards.form={verifier: 'm:f', weight: 0, gate: true}"])
    assert "1 x answer, 0 where form is below 1" in describe_policy_gradient(cfg.objective)


def test_recap_weighs_each_of_several_rewards_by_its_name() -> None:
    cfg = several(recap=RecapConfig(window=2))
    batch = batch_of([(0, 0), (1, 1)], [(0, 0), (1, 0)])
    state = initial_state(cfg, 10)
    for step in range(4):  # the mean of `answer` rises, that of `format` does not
        rewards = [(0.0, 0.5), (step / 3, 0.5)]
        state = with_recap(state, cfg, batch_of(rewards, weights=(1.0, 1.0)), {})
    weights = recap_weights(state.recap, cfg.recap)
    assert set(weights) == {"answer", "format"}
    assert weights["answer"] > 1.1 > 0.9 > weights["format"]
    logp = torch.zeros(int(batch.on_route("explore").sum()))
    found = trajectory_advantage(batch, cfg, state, logp, None)[0].tolist()
    answer, form = weights["answer"] * ROOT_HALF, weights["format"] * ROOT_HALF
    assert found == pytest.approx([-answer - form, answer + form, -answer, answer], abs=1e-4)
    whole = credit(batch, cfg, state)
    assert whole.advantage is not None
    of_answers = [float(whole.advantage[(batch.seq == i) & batch.mask][0]) for i in range(4)]
    assert of_answers == pytest.approx(found), "no weight of a domain comes on top"


def test_a_gate_without_weight_is_no_objective_of_recap() -> None:
    rewards = {"format": RewardConfig(verifier="m:f", weight=0.0, gate=True)}
    cfg = several(rewards=rewards, recap=RecapConfig(window=2))
    state = with_recap(initial_state(cfg, 10), cfg, batch_of([(0, 1), (1, 1)]), {})
    assert dict(state.recap.values) == {"answer": (0.5,)}


def test_recap_with_several_rewards_needs_neither_a_mixture_nor_replay() -> None:
    words = ["scale=cpu", "objective.rewards.format={verifier: a.py:f}", "objective.recap.window=5"]
    assert load([*words, "objective.combine=weighted_advantages"]).objective.weighs_rewards
    with pytest.raises(ValueError, match=r"^objective\.recap\.window: must be 0 without a mixture"):
        load(words)


def test_the_whitened_sum_of_advantages_has_standard_deviation_1_in_the_batch() -> None:
    # z-scores of both rewards: (-2, 2, -1, 1) / sqrt(2), whose standard deviation is sqrt(10 / 2 / 3) = 1.290994
    batch = batch_of([(0, 0), (1, 1)], [(0, 0), (1, 0)])
    found = advantage(batch, several("whitened_advantages")).tolist()
    expected = [x * ROOT_HALF / (1.290994 + 1e-4) for x in (-2, 2, -1, 1)]
    assert found == pytest.approx(expected, abs=1e-4)
    equal = batch_of([(1, 0), (1, 0)])
    assert advantage(equal, several("whitened_advantages")).tolist() == [0, 0]


def test_answers_without_a_grade_and_stored_ones_do_not_count_in_the_whitening() -> None:
    groups = groups_of([(0, 0), (1, 1), (1, 1)], [(0, 0), (1, 0)])
    lost = replace(groups[0].trajectories[2], grade=Grade(reward=None, status="grader_error"))
    groups[0] = replace(groups[0], trajectories=(*groups[0].trajectories[:2], lost))
    whole, stored = pack(groups), pack(groups, [replace(trajectory(99, 2, 3), route="rehearse")])
    found = advantage(whole, several("whitened_advantages"))
    expected = [x * ROOT_HALF / (1.290994 + 1e-4) for x in (-2, 2, 0, -1, 1)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert advantage(stored, several("whitened_advantages"))[:5].tolist() == found.tolist()


def test_only_advantages_of_mean_0_are_whitened() -> None:
    with pytest.raises(
        ValueError, match=r"^objective\.combine: must not be 'whitened_advantages', except for .*group_z"
    ):
        load(["objective.combine=whitened_advantages", "objective.advantage=mean_normalised"])
