"""Presets with another divergence to the reference than the reverse KL."""

from dataclasses import replace

import pytest
import torch

from objectives.diagnostics import means
from tests.objectives.equal_objectives import assert_equal_objectives
from tests.objectives.presets.golden_batch import golden_advantage
from tests.objectives.ragged_batch import divergence, objective
from tests.objectives.random_answers import batch_for, credited, of, run, weights

PAPERS = {
    "chi_squared": "2403.03185",
    "tsallis": "2301.11476",
    "wpr": "2602.01685",
    "rapo": "2510.03865",
}


def test_chi_squared_subtracts_the_answer_ratio_over_the_root_from_the_advantage() -> None:
    # u = e, 1/e, e^2: mean 3.491739; chi2 = (1.086161 + 1.086161 + 5.524391) / 3 = 2.565571, root 1.601740
    # (u - mean) / root: -.482886, -1.950292, 2.433177; times .1
    expected = [1.202989] * 2 + [-0.382320] + [-0.820667] * 3
    assert golden_advantage(of("chi_squared"), 0.1) == pytest.approx(expected, abs=4e-6)


def test_tsallis_subtracts_its_slope_from_the_advantage() -> None:
    # 2 (u - 1): 0, 3.436564; -1.264241; 12.778112, 0, 0; times .04, subtracted from the z-scores
    expected = [1.154699, 1.017236, -0.526779, -1.088473, -0.577349, -0.577349]
    assert golden_advantage(of("tsallis"), 0.04) == pytest.approx(expected, abs=3e-6)


def test_tsallis_with_q_1_is_the_reverse_kl_in_the_reward() -> None:
    kl = divergence("reverse_kl", wiring="reward", estimator="k1")
    assert_equal_objectives(of("tsallis", "objective.terms.divergence.alpha=1"), objective(terms={"divergence": kl}))


def test_wpr_with_coefficient_0_is_the_plain_policy_gradient() -> None:
    cfg, policy = of("wpr"), weights()
    batch = credited(batch_for(cfg), cfg)
    plain = run(policy, [batch], replace(cfg, terms={}))
    off, on = run(policy, [batch], cfg, 0.0), run(policy, [batch], cfg, 0.7)
    assert torch.equal(off[1], plain[1]) and off[0] == plain[0]
    assert not torch.allclose(on[1], plain[1], atol=1e-4)


def test_rapo_without_its_divergence_and_entropy_bonus_is_grpo_bit_for_bit() -> None:
    batch = batch_for(of("rapo"))
    found = of("rapo", "objective.terms.divergence.coefficient.value=0", "objective.entropy_bonus=0")
    results = [run(weights(), [credited(batch, cfg, 0.0)], cfg, 0.0)[:2] for cfg in (found, of("grpo"))]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_the_kl_reported_for_rapo_is_that_to_the_unmodified_reference() -> None:
    cfg = of("rapo")
    batch = batch_for(cfg)
    far = replace(batch, reweighted={"divergence": batch.reweighted["divergence"] - 5})
    near_stats, far_stats = (means(run(weights(), [credited(b, cfg)], cfg)[2]) for b in (batch, far))
    assert near_stats["kl_reference"] == far_stats["kl_reference"]
    assert near_stats["terms/divergence/value"] != far_stats["terms/divergence/value"]


@pytest.mark.parametrize(
    ("preset", "plain"),
    [
        ("chi_squared", {"reduction": "sequence_mean_token_sum"}),
        ("tsallis", {}),
    ],
)
def test_without_its_divergence_a_preset_is_its_policy_gradient(preset: str, plain: dict[str, str]) -> None:
    assert_equal_objectives(of(preset), objective(**plain), coefficient=0.0)
