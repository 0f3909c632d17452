"""Golden numbers: each preset on one ragged batch, worked out by hand from its paper's equation.

Three answers of 2, 1 and 3 tokens with rewards 1, 0, 0; the importance ratios are (1, 1.5), (0.5) and (1, 0.9, 4).
Mean reward 1/3, so r - mean = (2/3, -1/3, -1/3); sample deviation sqrt((4 + 1 + 1) / 9 / 2) = sqrt(1/3); z-scores
(1.154701, -0.577350, -0.577350). Three rehearsed tokens in two answers have u = (2, 0.5) and (1).
"""

import math

import pytest
import torch

from configs.load import load
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.ragged_batch import make_batch, scores
from trajectories.batch import Batch

RATIOS = torch.tensor([1.0, 1.5, 0.5, 1.0, 0.9, 4.0])
U = torch.tensor([2.0, 0.5, 1.0])
SAMPLER = torch.tensor([-0.5, -2.0, -1.0, -0.25, -3.0, -4.0])


def batch(rehearsed: bool = False) -> Batch:
    answers = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])]
    stored = [("rehearse", -1, None, [7, 8]), ("rehearse", -1, None, [9])] if rehearsed else []
    size = 3 if rehearsed else 0
    return make_batch(
        answers + stored,
        logp_sampler=torch.cat([SAMPLER, torch.zeros(size)]),
        logp_reference=torch.cat([torch.full((6,), math.nan), torch.full((3,), -5.0)]) if rehearsed else None,
    )


def loss_of(preset: str, *overrides: str, rehearsed: bool = False) -> float:
    cfg = load([f"method={preset}", *overrides]).objective
    logp = torch.cat([SAMPLER + RATIOS.log(), U.log() - 5] if rehearsed else [SAMPLER + RATIOS.log()])
    state = initial_state(cfg, 100)
    value, _ = loss(scores(logp), credit(batch(rehearsed), cfg, state), cfg, state.coefficients)
    return value.item()


def test_grpo_is_the_mean_of_sequence_means_of_the_clipped_surrogate() -> None:
    # (1 + 1.2) / 2 * 1.154701 = 1.270171; max-loss branch 0.8 * -0.577350 = -0.461880;
    # (1 + 0.9 + 4) / 3 * -0.577350 = -1.135455; mean -0.109055
    assert loss_of("grpo") == pytest.approx(0.109055, abs=2e-6)


def test_dr_grpo_divides_by_a_constant_and_not_by_the_deviation() -> None:
    # (2.2 * 2 - 0.8 - 5.9) / 3 = -0.766667, over 3 answers of at most 4 tokens
    assert loss_of("dr_grpo", "objective.constant_length=4") == pytest.approx(0.766667 / 12, abs=1e-6)


def test_dapo_clips_higher_and_takes_the_mean_over_tokens() -> None:
    # (1 + 1.28) * 1.154701 - (0.8 + 5.9) * 0.577350 = -1.235531, over 6 tokens
    assert loss_of("dapo") == pytest.approx(1.235531 / 6, abs=2e-6)


# DPH with dual clip 3: 2.28 * 1.154701 - (0.8 + 1 + 0.9 + 3) * 0.577350 = -0.658179, over 6 tokens: loss 0.109697.


def test_dph_f_adds_the_forward_kl_on_rehearsed_tokens() -> None:
    # u - 1 - ln u: 0.306853, 0.193147, 0; mean 1/6
    assert loss_of("dph_f", rehearsed=True) == pytest.approx(0.109697 + 1.0 / 6, abs=2e-6)


def test_dph_js_adds_the_jensen_shannon_on_rehearsed_tokens() -> None:
    # f(2) = (2 ln 2 - 3 ln 1.5) / 2 = 0.0849495; f(0.5) = (0.5 ln 0.5 - 1.5 ln 0.75) / 2 = 0.0424748; coefficient 2
    assert loss_of("dph_js", rehearsed=True) == pytest.approx(0.109697 + 2 * (0.0849495 + 0.0424748) / 3, abs=2e-6)


def test_dph_alpha_adds_the_alpha_divergence_on_rehearsed_tokens() -> None:
    # a = 0.2: f(2) = (2^0.8 - 1.8) / -0.16 = 0.368118; f(0.5) = (0.5^0.8 - 0.6) / -0.16 = 0.160318
    assert loss_of("dph_alpha", rehearsed=True) == pytest.approx(0.109697 + (0.368118 + 0.160318) / 3, abs=2e-6)


def test_rloo_is_reinforce_with_the_mean_of_the_others_and_k1_in_the_reward() -> None:
    # Baselines 0, 0.5, 0.5: advantages 1, -0.5, -0.5. The reference is one nat below the sampler's log-prob
    # everywhere, so k1 = 1 takes 0.03 off each token: 0.97, -0.53. Log-probs sum to -2.5, -1 and -7.25 per answer:
    # -(0.97 * -2.5 - 0.53 * -8.25) / 3
    cfg = load(["method=rloo"]).objective
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=SAMPLER - 1,
    )
    state = initial_state(cfg, 100)
    credited = credit(whole, cfg, state)
    assert credited.advantage is not None
    assert credited.advantage.tolist() == pytest.approx([0.97, 0.97, -0.53, -0.53, -0.53, -0.53])
    value, stats = loss(scores(SAMPLER), credited, cfg, state.coefficients)
    assert value.item() == pytest.approx(-(0.97 * -2.5 - 0.53 * -8.25) / 3, abs=1e-6)
    assert stats["kl_reference_per_trajectory"].tolist() == [6.0, 3.0]


def test_grpo_with_adaptive_kl_takes_k1_off_each_tokens_advantage() -> None:
    cfg = load(["method=grpo_adaptive_kl"]).objective
    log_u = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, 0.0])
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=SAMPLER - log_u,
    )
    credited = credit(whole, cfg, initial_state(cfg, 100))
    # 1.154699 and -0.577349 less 0.15 log u
    assert credited.advantage is not None
    assert credited.advantage.tolist() == pytest.approx(
        [1.154699, 1.004699, -0.427349, -0.877349, -0.577349, -0.577349], abs=2e-6
    )
    # On policy, ratios 1: -(mean of sequence means)
    value, _ = loss(scores(SAMPLER), credited, cfg, {"divergence": 0.15})
    assert value.item() == pytest.approx(-((1.154699 + 1.004699) / 2 - 0.427349 - 2.032047 / 3) / 3, abs=2e-6)
