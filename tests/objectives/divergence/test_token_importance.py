"""TIP (arXiv:2604.14084): select the tokens to distil on by entropy and distance to the teacher."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.term_weights import TermWeightsConfig
from objectives.credit import credit
from objectives.divergence.token_importance import highest, percentile, scaled, token_scores
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of
from trajectories.batch import Batch

ENTROPY = torch.tensor([0.0, 0.5, 1.0, 0.25, 1.0, 1.0])
DISTANCE = torch.tensor([4.0, 0.0, 1.0, 2.0, 4.0, 1.0])
LOGP = torch.full((6,), -1.0)
LOG_U = torch.tensor([0.3, -0.2, 0.6, 0.1, 0.4, -0.5])


def two_answers() -> Batch:
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2, 3]), ("explore", 0, 0.0, [4, 5, 6])],
        logp_sampler=LOGP,
        logp_reference=LOGP - LOG_U,
    )
    return replace(batch, entropy_old=ENTROPY, distance={"divergence": DISTANCE})


def term_weights_of(batch: Batch, **choices: object) -> list[float]:
    term = divergence("reverse_kl", estimator="k2", weights=TermWeightsConfig(**choices))  # type: ignore[arg-type]
    return credit(batch, objective(terms={"divergence": term}), state_of()).term_weights["divergence"].tolist()


@pytest.mark.parametrize(
    ("kind", "keep", "weights"),
    [
        # h = 0 .5 1 | .25 1 1, d = 1 0 .25 | .5 1 .25.  h + d - h d = 1 .5 1 | .625 1 1: one token of three is kept,
        # the first of equals, with weight 6 tokens over 2 kept ones.
        ("soft_or", 0.5, [3, 0, 0, 0, 3, 0]),
        ("soft_or", 0.7, [1.5, 0, 1.5, 0, 1.5, 1.5]),
        ("entropy", 0.5, [0, 0, 3, 0, 3, 0]),
        # (1 - h) d = 1 0 0 | .375 0 0
        ("confidently_wrong", 0.5, [3, 0, 0, 3, 0, 0]),
        ("confidently_wrong", 0.7, [1.5, 1.5, 0, 1.5, 1.5, 0]),
        ("soft_or", 0.3, [0] * 6),  # floor(.9) tokens of three
        ("soft_or", 1.0, [1] * 6),
    ],
)
def test_the_tokens_computed_by_hand_are_kept_and_the_term_is_their_mean(
    kind: str, keep: float, weights: list[float]
) -> None:
    assert term_weights_of(two_answers(), importance=kind, keep=keep) == pytest.approx(weights)


def test_the_loss_is_the_mean_over_the_kept_tokens_and_0_without_any() -> None:
    for keep, expected in ((0.5, (0.3**2 + 0.4**2) / 2 / 2), (0.3, 0.0)):
        chosen = TermWeightsConfig(importance="soft_or", keep=keep)
        cfg = objective(
            advantage="none", terms={"divergence": divergence("reverse_kl", estimator="k2", weights=chosen)}
        )
        credited_batch = credit(two_answers(), cfg, state_of(1.0))
        value, stats = loss_of(LOGP.clone().requires_grad_(), credited_batch, cfg, 1.0)
        assert value.item() == pytest.approx(expected)
        assert stats["terms/divergence/kept"].tolist() == [2.0 if expected else 0.0, 6.0]


def test_entropies_are_clipped_at_the_98th_percentile() -> None:
    entropy = torch.tensor([*map(float, range(99)), 500.0, 1000.0])  # of 101 values the 99th, 98, is the percentile
    assert percentile(entropy, 0.98).item() == 98
    h = token_scores(entropy, None, "entropy")
    torch.testing.assert_close(h, torch.tensor([*range(99), 98, 98]) / 98)
    assert percentile(torch.tensor([0.0, 10.0]), 0.98).item() == pytest.approx(9.8), "between two values"


def test_a_score_that_is_equal_everywhere_has_no_effect() -> None:
    flat = torch.full((6,), 0.7)
    assert scaled(flat).tolist() == [0] * 6
    # Differences by rounding do not count.
    assert scaled(flat + torch.tensor([0, 1e-7, 0, 2e-7, 0, 0])).tolist() == [0] * 6
    only_entropy = token_scores(ENTROPY, flat, "soft_or")
    torch.testing.assert_close(only_entropy, token_scores(ENTROPY, None, "entropy"))
    torch.testing.assert_close(token_scores(flat, DISTANCE, "soft_or"), DISTANCE / 4)
    assert token_scores(flat[:0], flat[:0], "soft_or").tolist() == []


def test_the_number_of_kept_tokens_is_rounded_down() -> None:
    def kept(length: int, fraction: float) -> int:
        return int(highest(torch.rand(length), torch.zeros(length, dtype=torch.long), fraction).sum())

    assert [kept(n, 0.5) for n in (1, 2, 3, 4, 5)] == [0, 1, 1, 2, 2]
    assert [kept(100, fraction) for fraction in (0.29, 0.57, 0.2, 1.0)] == [29, 57, 20, 100]
    # Of equal scores the earlier position is kept, in each answer separately.
    assert highest(torch.ones(5), torch.tensor([0, 0, 2, 2, 2]), 0.5).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"])
def test_the_mean_weight_under_the_reduction_of_the_term_is_1_with_a_mask(reduction: str) -> None:
    # Answers of 3 and 1 tokens, of which the second failed: the weight is 4 / 1 over tokens, 2 / 1 over answers.
    chosen = divergence("reverse_kl", estimator="k2", weights=TermWeightsConfig(only="failed_answers"))
    cfg = objective(terms={"divergence": chosen}, reduction=reduction)
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2, 3]), ("explore", 0, 0.0, [4])], logp_sampler=LOGP[:4], logp_reference=LOGP[:4]
    )
    weight = credit(batch, cfg, state_of()).term_weights["divergence"].tolist()
    assert weight == pytest.approx([0, 0, 0, 2 if reduction == "sequence_mean_token_mean" else 4])


def test_two_masks_keep_their_common_tokens_also_in_the_reward_wiring() -> None:
    both = TermWeightsConfig(importance="soft_or", keep=0.5, only="failed_answers")
    term = divergence("reverse_kl", wiring="reward", estimator="k1", weights=both)
    cfg = objective(terms={"divergence": term}, advantage="none")
    advantage = credit(two_answers(), cfg, state_of(0.5)).advantage
    assert isinstance(advantage, Tensor)
    assert advantage.tolist() == pytest.approx([0, 0, 0, 0, -0.5 * 6 * 0.4, 0])


def test_a_batch_without_explored_tokens_has_no_weights() -> None:
    batch = replace(
        make_batch([("rehearse", -1, None, [1, 2])], logp_reference=LOGP[:2]),
        entropy_old=ENTROPY[:2],
        distance={"divergence": DISTANCE[:2]},
    )
    assert term_weights_of(batch, importance="soft_or") == [0, 0]


def test_settings_and_batches_without_the_needed_scores_are_refused() -> None:
    for keep in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"^keep: must be in \(0, 1\]"):
            TermWeightsConfig(keep=keep)
    with pytest.raises(ValueError, match=r"anchor: must be a reference, whose whole distributions importance needs"):
        divergence(
            "reverse_kl", estimator="k2", anchor="old", weights=TermWeightsConfig(importance="confidently_wrong")
        )
    with pytest.raises(AssertionError, match="needs the policy's entropy before the first update"):
        term_weights_of(replace(two_answers(), entropy_old=None), importance="entropy")
    with pytest.raises(AssertionError, match="needs the distance to the anchor"):
        term_weights_of(replace(two_answers(), distance={}), importance="soft_or")
