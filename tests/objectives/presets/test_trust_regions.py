"""Methods that replace PPO's clip, or choose tokens by covariance: SAPO, GMPO, DPPO, Clip-Cov, KL-Cov."""

from dataclasses import replace

import pytest
import torch

from configs.policy_gradient import ClipConfig
from tests.objectives.equal_objectives import MEANS, assert_equal_objectives, loss_gradient, on_policy
from tests.objectives.presets.golden_batch import preset_loss
from tests.objectives.ragged_batch import make_batch, objective
from tests.objectives.random_answers import VOCABULARY, credited, of, random_batch, run, scores_of, weights

PAPERS = {
    "sapo": "2511.20347",
    "gmpo": "2507.20673",
    "dppo": "2602.04879",
    "clip_cov": "2505.22617",
    "kl_cov": "2505.22617",
}


def test_sapo_gates_each_ratio_softly_by_the_sign_of_its_advantage() -> None:
    # tau 1: 4 sigmoid(0) = 2, 4 sigmoid(.5) = 2.489837, mean 2.244919 * 1.154701 = 2.592210
    # tau 1.05, 4 / tau = 3.809524: sigmoid(-.525) -> 1.415940; sigmoid(0), sigmoid(-.105), sigmoid(3.15) ->
    # 1.904762, 1.804855, 3.652979, mean 2.454199: (1.415940 + 2.454199) * .577350 = 2.234424
    assert preset_loss("sapo") == pytest.approx(-(2.592210 - 2.234424) / 3, abs=2e-6)


def test_gmpo_clips_log_ratios_of_tokens_before_their_mean() -> None:
    # (0 + .4) / 2 = .2 -> 1.221403, as log 1.5 = .405465 is clipped; log .5 -> -.4 -> .670320;
    # (0 - .105361 + 1.386294) / 3 = .426978 -> 1.532619, not clipped, as the advantage is negative
    expected = (1.221403 * 1.154701 - (0.670320 + 1.532619) * 0.577350) / 3
    assert preset_loss("gmpo") == pytest.approx(-expected, abs=2e-6)


def test_dppo_masks_the_token_whose_probability_has_fallen_by_more_than_delta() -> None:
    # Moves of probability: 0, .135335 / 2 = .067668; -.367879 / 2 = -.183940, masked; 0, -.004979, .054947
    # log pi: -.5, -1.594535; -.25, -3.105361, -2.613706; weights 1, 1.5; 1, .9, 4
    # 1.154701 * (-.5 - 2.391803) - .577350 * (-.25 - 2.794825 - 10.454824) = 4.454854
    assert preset_loss("dppo") == pytest.approx(-4.454854 / 6, abs=2e-6)


COVARIANCE = "objective.covariance.fraction=0.34"
"""2 of 6 tokens. log pi_old minus its mean, -1.791667: 1.291667, -.208333; .791667; 1.541667, -1.208333, -2.208333.

Mean A is 0. Covariances 1.491489, -.240563; -.457069; -.890082, .697632, 1.274982: the first and the last are the
highest two, and the only ones between 1 and 5."""


def test_clip_cov_leaves_out_tokens_of_high_covariance() -> None:
    # Clipped at [0, 2], without the first token: 1.5 * 1.154701; .5; 1 + .9 (+ 4), times -.577350; over 6 tokens
    assert preset_loss("clip_cov", COVARIANCE) == pytest.approx(-(1.732051 - 2.4 * 0.577350) / 6, abs=2e-6)
    # The preset's fraction is less than one token, so one of the two is left out: 1.154701, or 4 * .577350 more.
    whole = (2.5 * 1.154701 - 6.4 * 0.577350) / 6
    found = preset_loss("clip_cov")
    without = [-(whole - 1.154701 / 6), -(whole + 4 * 0.577350 / 6)]
    assert min(abs(found - one) for one in without) < 2e-6


def test_kl_cov_penalises_the_log_ratio_of_the_tokens_of_highest_covariance() -> None:
    # Not clipped: 2.5 * 1.154701 - 6.4 * .577350 = -.808288; |log ratio| 0 and log 4 = 1.386294; over 6 tokens
    assert preset_loss("kl_cov", COVARIANCE) == pytest.approx((0.808288 + 1.386294) / 6, abs=2e-6)
    assert preset_loss("kl_cov") == pytest.approx(0.808288 / 6, abs=2e-6), "the one token chosen has ratio 1"


@pytest.mark.parametrize("preset", ["sapo", "gmpo", "dppo", "kl_cov"])
def test_on_policy_the_gradient_is_grpos(preset: str) -> None:
    cfg, batch = of(preset), on_policy(random_batch())
    plain = objective(ratio="none", reduction=cfg.reduction)
    torch.testing.assert_close(loss_gradient(cfg, batch), loss_gradient(plain, batch), rtol=1e-5, atol=1e-6)
    assert loss_gradient(plain, batch).abs().max() > 1e-3


def test_without_chosen_tokens_kl_cov_and_clip_cov_are_grpo_with_their_clips() -> None:
    none = "objective.covariance.fraction=0"
    assert_equal_objectives(of("kl_cov", none), objective(clip=ClipConfig(kind="none")))
    assert_equal_objectives(of("clip_cov", none), objective(clip=ClipConfig(low=1.0, high=1.0)))


def test_clip_cov_has_the_gradient_of_grpo_without_the_chosen_tokens() -> None:
    cfg, batch = of("clip_cov", "objective.covariance.fraction=0.1"), random_batch()
    chosen = credited(batch, cfg).high_covariance
    assert chosen is not None and 0 < int(chosen.sum()) < int(batch.on_route("explore").sum())
    plain = replace(cfg, covariance=objective().covariance)
    credits = credited(batch, plain)
    assert credits.advantage is not None
    without = replace(credits, advantage=torch.where(chosen, 0.0, credits.advantage))
    found = loss_gradient(cfg, batch)
    torch.testing.assert_close(found, run(weights(), [without], plain)[1], rtol=1e-5, atol=1e-6)
    assert (found - loss_gradient(plain, batch)).abs().max() > 1e-3


def test_on_answers_of_one_token_gmpo_is_grpo_clipped_at_the_exponentials() -> None:
    answers = [("explore", i // 4, float(i % 3 == 0), [i % VOCABULARY]) for i in range(16)]
    batch = make_batch(answers, prompt_length=1)
    logp = scores_of(weights(), batch, objective()).logp.detach()
    noise = torch.randn(len(logp), generator=torch.Generator().manual_seed(0)).mul(0.6)
    batch = replace(batch, logp_sampler=torch.where(batch.mask, logp + noise, 0.0))
    # e^-.4 = .670320, e^.4 = 1.491825
    clip = ClipConfig(low=1 - 0.6703200460356393, high=0.4918246976412703)
    assert_equal_objectives(of("gmpo"), objective(clip=clip, **MEANS), batch=batch)


def test_with_a_wide_trust_region_dppo_is_cispo_without_bounds() -> None:
    wide = of("dppo", "objective.clip.delta=1.0")
    assert_equal_objectives(wide, objective(clip=ClipConfig(kind="cispo", low=1.0, high=19.0)))


def test_with_small_temperatures_sapo_is_grpo_without_a_clip() -> None:
    soft = of("sapo", "objective.clip.temperature_positive=1e-3", "objective.clip.temperature_negative=1e-3")
    plain = objective(clip=ClipConfig(kind="none"), **MEANS)
    batch = random_batch()
    torch.testing.assert_close(loss_gradient(soft, batch), loss_gradient(plain, batch), rtol=1e-4, atol=1e-5)
