"""Presets with the reverse KL to the reference, which differ in its coefficient or in its token weights."""

import math
from dataclasses import replace

import pytest
import torch

from configs.load import load
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.coefficient.coefficient_path import coefficient_path
from tests.objectives.equal_objectives import K2, K3, MEANS, assert_equal_objectives
from tests.objectives.presets.golden_batch import SAMPLER, golden_loss
from tests.objectives.ragged_batch import divergence, make_batch, objective, scores
from tests.objectives.random_answers import batch_for, credited, of, random_batch, run, scores_of, weights

PAPERS = {
    "grpo_adaptive_kl": "1909.08593",
    "grpo_d": "2503.16081",
    "apo": "2506.21655",
    "length_debiased_kl": "2406.10957",
    "sparse_kl": "2410.05102",
    "prioritised_kl": "2502.06533",
}


def test_grpo_adaptive_kl_subtracts_k1_from_the_advantage_of_each_token() -> None:
    cfg = load(["method=grpo_adaptive_kl"]).objective
    log_u = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, 0.0])
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=SAMPLER - log_u,
    )
    credited = credit(whole, cfg, initial_state(cfg, 100))
    # 1.154699 and -0.577349 minus 0.15 log u
    assert credited.advantage is not None
    assert credited.advantage.tolist() == pytest.approx(
        [1.154699, 1.004699, -0.427349, -0.877349, -0.577349, -0.577349], abs=2e-6
    )
    # On policy, ratios 1: -(mean of sequence means)
    value, _ = loss(scores(SAMPLER), credited, cfg, {"divergence": 0.15})
    assert value.item() == pytest.approx(-((1.154699 + 1.004699) / 2 - 0.427349 - 2.032047 / 3) / 3, abs=2e-6)


def test_grpo_adaptive_kl_has_the_controller_of_ziegler() -> None:
    kl = of("grpo_adaptive_kl").terms["divergence"]
    assert (kl.name, kl.wiring, kl.estimator) == ("reverse_kl", "reward", "k1")
    assert (kl.coefficient.kind, kl.coefficient.value) == ("adaptive", 0.15)
    assert (kl.coefficient.target, kl.coefficient.horizon) == (6.0, 10_000)


def test_missing_reference_log_probs_of_a_kl_term_are_refused() -> None:
    cfg = of("grpo_adaptive_kl")
    batch = random_batch(reference_everywhere=False)
    with pytest.raises(AssertionError, match="where it is missing"):
        credited(batch, cfg)
    with pytest.raises(AssertionError, match="the batch has none"):
        credited(replace(batch, logp_reference=None), cfg)


def test_grpo_d_starts_as_grpo_and_adds_k3() -> None:
    assert golden_loss(of("grpo_d"), 0.0) == pytest.approx(0.109055, abs=2e-6)
    assert golden_loss(of("grpo_d"), 0.02) == pytest.approx(0.109055 + 0.02 * 0.741176 / 3, abs=2e-6)


def test_grpo_ds_coefficient_rises_from_0_to_grpos_over_the_run() -> None:
    found = coefficient_path(of("grpo_d"), 10, 12)
    assert found == pytest.approx([0.04 * min(step / 10, 1) for step in range(13)])


def test_grpo_d_at_a_constant_coefficient_is_grpo_with_k3() -> None:
    grpo = of("grpo", "objective.terms.divergence.name=reverse_kl")
    assert_equal_objectives(of("grpo_d"), grpo)
    assert_equal_objectives(of("grpo_d"), of("grpo"), coefficient=0.0)


def test_apo_weights_the_kl_of_correct_answers_by_difficulty_and_scales_long_failures() -> None:
    # d = 2/3: w = 1 - exp(-e / 3) = .595900; the last answer is 1 token longer: 2 - 1 / 1.1 = 1.090909
    # 2.540342 - .461880 - 5.9 * .577350 * 1.090909 = -1.637571, over 6; KL (.595900 * .127626 + .613550) / 3
    cfg = of("apo", "objective.gates.long_failures=1.1")
    assert golden_loss(cfg) == pytest.approx(1.637571 / 6, abs=2e-6)
    assert golden_loss(cfg, 0.1) - golden_loss(cfg) == pytest.approx(
        0.1 * (0.595900 * 0.127626 + 0.613550) / 3, abs=1e-6
    )


def test_apo_without_difficulty_and_long_failures_is_grpo_with_the_token_mean_and_k3() -> None:
    off = of("apo", "objective.gates.long_failures=1", "objective.terms.divergence.weights.difficulty=false")
    kl = replace(K3, reduction="sequence_mean_token_mean")
    assert_equal_objectives(off, objective(terms={"divergence": kl}))
    apo = of("apo")
    batch = batch_for(apo)
    all_wrong = replace(batch, reward=batch.reward * 0.4)
    assert_equal_objectives(apo, off, batch=all_wrong)


def test_length_debiased_kl_multiplies_the_mean_kl_of_an_answer_by_the_shortest_length_of_the_group() -> None:
    # GRPO's .109055; the shortest has 1 token: (.125 + .5 + .173333) / 3 = .266111
    assert golden_loss(of("length_debiased_kl"), 0.3) == pytest.approx(0.109055 + 0.3 * 0.266111, abs=2e-6)


def test_length_debiased_kl_with_answers_of_one_length_is_a_plain_sum() -> None:
    cfg = of("length_debiased_kl")
    batch = make_batch([("explore", 0, float(i == 0), [i, 1, 2]) for i in range(4)], prompt_length=1)
    logp = scores_of(weights(), batch, cfg).logp.detach()
    batch = replace(batch, logp_sampler=logp, logp_reference=logp - 0.3)
    assert_equal_objectives(
        cfg, objective(terms={"divergence": replace(K2, reduction="sequence_mean_token_sum")}, **MEANS), batch=batch
    )


def test_sparse_kl_weights_tokens_by_the_entropy_of_the_policy() -> None:
    # log V is 1 here: .2 * .125 + .4 * .125 + .5 * .5 + .5 * .5 + .7 * .02 = .589
    assert golden_loss(of("sparse_kl"), 0.3) == pytest.approx(0.221317 + 0.3 * 0.589 / 6, abs=2e-6)


def test_sparse_kl_with_power_0_is_the_unweighted_kl() -> None:
    assert_equal_objectives(
        of("sparse_kl", "objective.terms.divergence.weights.entropy_power=0"), objective(terms={"divergence": K2})
    )


def test_prioritised_kl_with_power_0_is_the_group_policy_gradient_with_k2() -> None:
    batch = batch_for(of("prioritised_kl"))
    found = of("prioritised_kl", "objective.terms.divergence.weights.certainty_power=0")
    plain = objective(terms={"divergence": divergence("reverse_kl", estimator="k2")})
    results = [run(weights(), [credited(batch, cfg)], cfg)[:2] for cfg in (found, plain)]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_missing_certainties_of_rehearsed_tokens_do_not_reach_the_loss_or_gradient() -> None:
    cfg = of("prioritised_kl")
    batch = batch_for(cfg)
    unknown = torch.where(batch.on_route("rehearse"), torch.nan, batch.certainty["divergence"])
    value, found, _ = run(weights(), [credited(replace(batch, certainty={"divergence": unknown}), cfg)], cfg)
    assert math.isfinite(value) and bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("preset", "plain"),
    [
        ("sparse_kl", {}),
        ("length_debiased_kl", MEANS),
    ],
)
def test_without_its_divergence_a_preset_is_its_policy_gradient(preset: str, plain: dict[str, str]) -> None:
    assert_equal_objectives(of(preset), objective(**plain), coefficient=0.0)
