"""Weights on the tokens of a divergence term: difficulty (DADS), masks (KDRL), length (SamPO), entropy."""

import math

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from configs.term_weights import TermWeightsConfig
from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.token_weights import (
    difficulty_weights,
    entropy_weights,
    failures,
    length_debias,
    mastered,
    token_weights,
)
from objectives.objective import loss
from tests.objectives.ragged_batch import Answer, divergence, loss_of, make_batch, objective, scores, state_of
from trajectories.batch import Batch

BETA = 0.5


def graded(rewards: list[float | None], lengths: list[int] | None = None) -> Batch:
    sizes = lengths or [1] * len(rewards)
    return make_batch([("explore", 0, r, [1] * n) for r, n in zip(rewards, sizes, strict=True)])


def dads(correct: int, size: int) -> list[float]:
    rewards: list[float | None] = [1.0] * correct + [0.0] * (size - correct)
    advantage = torch.tensor([r if r else -1.0 for r in rewards])
    return difficulty_weights(graded(rewards), advantage).tolist()


@pytest.mark.parametrize(
    ("correct", "weight"),
    # 1 - exp(-e (1 - d)) at d = .125, .25, .5, .75, .875
    [(7, 0.9073), (6, 0.8698), (4, 0.7431), (2, 0.4932), (1, 0.2881)],
)
def test_dads_gives_correct_answers_of_harder_prompts_smaller_weights(correct: int, weight: float) -> None:
    assert dads(correct, 8) == pytest.approx([weight] * correct + [1.0] * (8 - correct), abs=5e-5)


@pytest.mark.parametrize("correct", [0, 8])
def test_dads_has_weight_1_in_groups_of_all_correct_or_all_wrong_answers(correct: int) -> None:
    assert dads(correct, 8) == [1.0] * 8


def test_dads_weights_positive_advantages_and_counts_rewards_of_at_least_1_as_correct() -> None:
    # A reward of 0.5 is not correct: d = 1/2, and only the answer above the mean has a smaller weight.
    weights = difficulty_weights(graded([1.5, 0.5, None]), torch.tensor([0.5, -0.5, 0.0]))
    assert weights.tolist() == pytest.approx([1 - math.exp(-math.e / 2), 1, 1])


def test_the_masks_keep_failed_answers_or_groups_without_a_correct_answer() -> None:
    batch = make_batch(
        [
            ("explore", 0, 1.0, [1]),
            ("explore", 0, 0.0, [2]),
            ("explore", 1, 0.0, [3]),
            ("explore", 1, 0.5, [4]),
            ("explore", 1, None, [5]),
            ("rehearse", -1, None, [6]),
        ]
    )
    assert failures(batch, whole_groups=False).tolist() == [0, 1, 1, 1, 0, 0]
    assert failures(batch, whole_groups=True).tolist() == [0, 0, 1, 1, 0, 0]
    assert failures(graded([1.0, 1.0]), whole_groups=False).tolist() == [0, 0]
    assert failures(graded([1.0, 1.0]), whole_groups=True).tolist() == [0, 0]


def test_a_group_is_mastered_if_all_of_its_graded_answers_are_right() -> None:
    answers: list[Answer] = [("explore", 0, 1.0, [1]), ("explore", 0, None, [2]), ("explore", 1, 1.0, [3])]
    answers += [("explore", 1, 0.5, [4]), ("explore", 2, None, [5]), ("rehearse", -1, None, [6])]
    assert mastered(make_batch(answers)).tolist() == [True, False, False, False, False, False]


def test_length_debias_weights_every_answer_by_the_shortest_length_of_its_group() -> None:
    assert length_debias(graded([1.0, 0.0, 0.0], [4, 2, 8])).tolist() == [0.5, 1, 0.25]
    assert length_debias(graded([1.0, 0.0, None], [4, 8, 2])).tolist() == [1, 0.5, 1], (
        "an ungraded answer does not count"
    )
    assert length_debias(graded([1.0, 0.0], [3, 3])).tolist() == [1, 1]
    two = make_batch([("explore", 0, 1.0, [1] * 4), ("explore", 0, 0.0, [1] * 2), ("explore", 1, 0.0, [1] * 9)])
    assert length_debias(two).tolist() == [0.5, 1, 1]


def test_the_entropy_weight_is_the_entropy_over_its_largest_value_to_the_power() -> None:
    entropy = torch.tensor([0.0, math.log(2), math.log(8)], requires_grad=True)
    assert entropy_weights(entropy, math.log(8), 1.0).tolist() == pytest.approx([0, 1 / 3, 1])
    assert entropy_weights(entropy, math.log(8), 2.0).tolist() == pytest.approx([0, 1 / 9, 1])
    assert not entropy_weights(entropy, math.log(8), 1.0).requires_grad


def test_several_weights_multiply() -> None:
    batch = graded([1.0, 0.0], [4, 2])
    both = TermWeightsConfig(difficulty=True, length_debias=True)
    winner = (1 - math.exp(-math.e / 2)) * 0.5
    assert token_weights(batch, torch.tensor([1.0, -1.0]), both).tolist() == pytest.approx([winner] * 4 + [1.0] * 2)
    assert token_weights(batch, torch.tensor([1.0, -1.0]), TermWeightsConfig()).tolist() == [1.0] * 6


# Through the objective, in every wiring.

LOGP = torch.tensor([-1.0, -2.0, -0.5, -3.0])
LOG_U = torch.tensor([0.3, -0.2, 0.6, 0.1])
ENTROPY = torch.tensor([0.1, 0.2, 0.3, 0.4])


def of(term: TermConfig) -> ObjectiveConfig:
    return objective(terms={"divergence": term}, advantage="mean_only", clip=ClipConfig(kind="none"))


def gradient(term: TermConfig, coefficient: float = BETA) -> Tensor:
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2, 3]), ("explore", 0, 0.0, [4])], logp_sampler=LOGP, logp_reference=LOGP - LOG_U
    )
    logp = LOGP.clone().requires_grad_()
    credited = credit(batch, of(term), state_of(coefficient))
    value, _ = loss(scores(logp, ENTROPY, log_vocabulary=0.5), credited, of(term), {"divergence": coefficient})
    return torch.autograd.grad(value, logp)[0]


WIRINGS = ({"estimator": "k2"}, {"wiring": "reward", "estimator": "k1"}, {"wiring": "joint", "estimator": "k1"})


@pytest.mark.parametrize("choices", WIRINGS)
@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"difficulty": True}, [1 - math.exp(-math.e / 2)] * 3 + [1]),
        ({"only": "failed_answers"}, [0, 0, 0, 4]),  # the mean over the one token of four that is kept
        ({"only": "failed_groups"}, [0, 0, 0, 0]),
        ({"length_debias": True}, [1 / 3, 1 / 3, 1 / 3, 1]),
        ({"entropy_power": 1.0}, [0.2, 0.4, 0.6, 0.8]),
        ({"entropy_power": 2.0, "length_debias": True}, [0.04 / 3, 0.16 / 3, 0.36 / 3, 0.64]),
    ],
)
def test_weights_multiply_the_term_and_not_the_policy_gradient(
    choices: dict[str, str], weights: dict[str, object], expected: list[float]
) -> None:
    if choices.get("wiring") == "reward" and "entropy_power" in weights:
        with pytest.raises(ValueError, match=r"weights\.entropy_power: must be 0 in the reward wiring"):
            divergence("reverse_kl", weights=TermWeightsConfig(**weights), **choices)
        return
    term = divergence("reverse_kl", weights=TermWeightsConfig(**weights), **choices)
    of_term = gradient(term) - gradient(term, 0.0)
    # On policy every wiring of the reverse KL has the gradient log u per token.
    torch.testing.assert_close(of_term, BETA * torch.tensor(expected) * LOG_U / 4)


def test_a_length_debiased_sum_over_tokens_is_the_mean_times_the_shortest_length() -> None:
    term = divergence(
        "reverse_kl",
        estimator="k2",
        reduction="sequence_mean_token_sum",
        weights=TermWeightsConfig(length_debias=True),
    )
    plain = divergence("reverse_kl", estimator="k2", reduction="sequence_mean_token_mean")
    of_term, of_mean = (gradient(t) - gradient(t, 0.0) for t in (term, plain))
    torch.testing.assert_close(of_term, of_mean)  # the shortest has one token


def test_a_term_may_have_its_own_reduction() -> None:
    term = divergence("reverse_kl", estimator="k2", reduction="sequence_mean_token_mean")
    of_term = gradient(term) - gradient(term, 0.0)
    torch.testing.assert_close(of_term, BETA * LOG_U / torch.tensor([6, 6, 6, 2]))


def test_masked_tokens_count_in_the_reported_value() -> None:
    batch = make_batch([("explore", 0, 1.0, [1, 2])], logp_sampler=LOGP[:2], logp_reference=(LOGP - LOG_U)[:2])
    for only in ("all", "failed_answers"):
        cfg = of(divergence("reverse_kl", estimator="k2", weights=TermWeightsConfig(only=only)))
        _, stats = loss_of(LOGP[:2], credit(batch, cfg, state_of(BETA)), cfg, BETA)
        assert stats["terms/divergence/value"][1] == 2


ANSWERS = {"level": "sequence", "wiring": "reward", "estimator": "k1"}


@pytest.mark.parametrize(
    ("choices", "field"),
    [
        ({"route": "rehearse", "weights": TermWeightsConfig(difficulty=True)}, "weights"),
        ({**ANSWERS, "weights": TermWeightsConfig(only="failed_answers")}, "weights"),
        ({**ANSWERS, "reduction": "token_mean"}, "reduction"),
        ({"wiring": "reward", "estimator": "k1", "reduction": "token_mean"}, "reduction"),
        ({"wiring": "joint", "estimator": "k1", "reduction": "token_mean"}, "reduction"),
        ({"level": "sequence", "estimator": "k3", "reduction": "token_mean"}, "reduction"),
    ],
)
def test_settings_without_effect_are_refused(choices: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        divergence("reverse_kl", **choices)
