"""Presets whose advantage aims at Pass@k, and their combination with divergence terms."""

from dataclasses import replace

import pytest
import torch

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.equal_objectives import MEANS, assert_equal_objectives
from tests.objectives.presets.golden_batch import LOGP, SAMPLER, preset_loss
from tests.objectives.ragged_batch import make_batch, objective, scores
from tests.objectives.random_answers import COEFFICIENT, batch_for, credited, of, run, weights

PAPERS = {
    "passk_training": "2508.10751",
    "pkpo": "2505.15201",
    "maxrl": "2602.02710",
    "nsr": "2506.01347",
    "unlikeliness": "2506.02355",
    "ucpo": "2605.00365",
    "darling": "2509.02534",
}
EXTRA = "objective.terms.extra."
TERMS = {
    "reward": ("name=reverse_kl", "wiring=reward", "estimator=k1"),
    "reward to go": ("name=reverse_kl", "wiring=reward", "estimator=k1", "horizon=to_go"),
    "whole answers": ("name=chi_squared", "wiring=reward", "estimator=k1", "level=sequence"),
    "joint": ("name=reverse_kl", "wiring=joint", "estimator=k1"),
    "loss": ("name=jensen_shannon", "estimator=straight_through"),
    "vocabulary": ("name=forward_kl", "wiring=vocabulary", "estimator=exact"),
    "rehearse": ("name=forward_kl", "route=rehearse"),
    "rehearse vocabulary": ("name=reverse_kl", "route=rehearse", "wiring=vocabulary", "estimator=exact"),
}
"""One divergence term of each wiring."""


def test_pass_at_k_training_has_the_zscore_of_sets_of_k_answers() -> None:
    # n = 3, c = 1, k = 2: rho = 2/3, sigma = sqrt(2/9) = .471405; A+ = 1/3 / sigma = .707107,
    # A- = (1/3 - C(1,1) / C(2,1)) / sigma = -.353553; 2.2 * .707107 - 6.7 * .353553 = -.813170, over 6 tokens
    assert preset_loss("passk_training", "objective.pass_k.k=2") == pytest.approx(0.813170 / 6, abs=2e-6)


def test_pkpo_reinforces_right_answers_by_the_chance_that_the_others_of_a_set_are_wrong() -> None:
    # k = 2: A+ = 2 C(2,1) / C(2,1) = 2, A- = 0; -(1 + 1.2) * 2, over 3 answers
    assert preset_loss("pkpo", "objective.pass_k.k=2") == pytest.approx(-4.4 / 3, abs=2e-6)


def test_maxrl_divides_by_the_mean_reward() -> None:
    # mean 1/3: A+ = 2, A- = -1; 2.2 * 2 - .8 - 5.9 = -2.3, over 3 answers
    assert preset_loss("maxrl") == pytest.approx(2.3 / 3, abs=2e-6)


def test_nsr_weighs_right_answers_by_a_tenth_and_wrong_ones_by_minus_1() -> None:
    # 2.2 * .1 - .8 - 5.9 = -6.48, over 6 tokens; without right answers -6.7
    assert preset_loss("nsr") == pytest.approx(6.48 / 6, abs=2e-6)
    assert preset_loss("nsr", "objective.pass_k.right_weight=0") == pytest.approx(6.7 / 6, abs=2e-6)


def test_unlikeliness_takes_reward_from_likely_right_answers_before_the_zscore() -> None:
    # Rewards 1, 1, 0; log-probs of whole answers -2.5, -1, -7.25, so 1, 2, 0 are less likely: rewards 1 - .25 / 3,
    # 1 - .5 / 3, 0; mean .583333, deviation sqrt((.111111 + .0625 + .340278) / 2) = .506897; z-scores .657596, .493197,
    # -1.150793. (1 + 1.2) / 2 * .657596 + .5 * .493197 - (1 + .9 + 4) / 3 * 1.150793 = -1.293272, over 3 answers
    cfg = of("unlikeliness")
    answers = [("explore", 0, r, row) for r, row in zip((1.0, 1.0, 0.0), ([1, 2], [3], [4, 5, 6]), strict=True)]
    whole = make_batch(answers, logp_sampler=SAMPLER)  # type: ignore[arg-type]
    value, _ = loss(scores(LOGP), credit(whole, cfg, ObjectiveState(coefficients={})), cfg, {})
    assert value.item() == pytest.approx(1.293272 / 3, abs=3e-6)


def test_ucpo_shares_the_advantage_of_right_answers_by_their_rarity() -> None:
    # Rewards 1, 1, 0: z-scores .577350, .577350, -1.154699. Mean log-probs -1.25, -1: 1 / q = e^1.25, e^1, shares
    # .562177, .437823; factors .8 + .4 x share = 1.0248708, .9751292. (1 + 1.2) .577350 x 1.0248708
    # + .5 x .577350 x .9751292 - (1 + .9 + 4) 1.154699 = -5.229469, over 6 tokens
    cfg = of("ucpo")
    answers = [("explore", 0, r, row) for r, row in zip((1.0, 1.0, 0.0), ([1, 2], [3], [4, 5, 6]), strict=True)]
    whole = make_batch(answers, logp_sampler=SAMPLER)  # type: ignore[arg-type]
    value, _ = loss(scores(LOGP), credit(whole, cfg, ObjectiveState(coefficients={})), cfg, {})
    assert value.item() == pytest.approx(5.229469 / 6, abs=3e-6)
    assert_equal_objectives(of("ucpo", "objective.pass_k.uniformity=0"), objective())


def test_darling_multiplies_a_reward_by_the_fraction_of_the_others_that_are_another_solution() -> None:
    # Rewards 1, 1, 0, solutions a, a, b: d = 1/2, 1/2, 1, rewards 1/2, 1/2, 0, advantages 1/6, 1/6, -1/3.
    # (1 + 1.2) / 6 + .5 / 6 - (1 + .9 + 4) / 3 = -1.516667, over 6 tokens
    answers = [("explore", 0, r, row) for r, row in zip((1.0, 1.0, 0.0), ([1, 2], [3], [4, 5, 6]), strict=True)]

    def darling_loss(meaning: list[int], rewards: tuple[float, ...] = (1.0, 1.0, 0.0)) -> tuple[float, list[float]]:
        rows = [(*answer[:2], reward, answer[3]) for answer, reward in zip(answers, rewards, strict=True)]
        whole = make_batch(rows, logp_sampler=SAMPLER, meaning=meaning)  # type: ignore[arg-type]
        cfg = of("darling")
        batch = credit(whole, cfg, ObjectiveState(coefficients={}))
        assert batch.advantage is not None
        return loss(scores(LOGP), batch, cfg, {})[0].item(), batch.advantage[[0, 2, 3]].tolist()

    value, advantages = darling_loss([0, 0, 1])
    assert value == pytest.approx(1.516667 / 6, abs=2e-6)
    assert advantages == pytest.approx([1 / 6, 1 / 6, -1 / 3])
    # One solution alone has nothing to gain. Of only right answers, 1/2, 1/2 and 1 - 2/3 each, the distinct one gains.
    assert darling_loss([0, 0, 0])[1] == [0, 0, 0]
    assert darling_loss([0, 0, 1], rewards=(1.0, 1.0, 1.0))[1] == pytest.approx([-1 / 6, -1 / 6, 1 / 3])
    assert darling_loss([0, 1, 2])[1] == pytest.approx([1 / 3, 1 / 3, -2 / 3])


def test_darling_multiplies_the_reward_but_not_a_penalty_on_length_and_leaves_ungraded_answers_out() -> None:
    # Lengths 2, 1, 4 at limit 4, half of it without a penalty: penalties 0, 0, -.5 (DAPO). Rewards 1, none, 1,
    # solutions a, a, b: d = 1, -, 1 over the two graded ones: 1, -, .5; advantages .25, 0, -.25
    cfg = of("darling", "objective.overlong.limit=4", "objective.overlong.fraction=0.5")
    rows = [("explore", 0, 1.0, [1, 2]), ("explore", 0, None, [3]), ("explore", 0, 1.0, [4, 5, 6, 7])]
    batch = credit(make_batch(rows, meaning=[0, 0, 1]), cfg, ObjectiveState(coefficients={}))  # type: ignore[arg-type]
    assert batch.advantage is not None and batch.advantage[[0, 2, 3]].tolist() == pytest.approx([0.25, 0, -0.25])
    # With equal solutions d = 0, 0: rewards 0, -.5
    batch = credit(make_batch(rows, meaning=[0, 0, 0]), cfg, ObjectiveState(coefficients={}))  # type: ignore[arg-type]
    assert batch.advantage is not None and batch.advantage[[0, 2, 3]].tolist() == pytest.approx([0.25, 0, -0.25])


def test_where_every_answer_is_another_solution_darling_is_dr_grpo_with_a_token_mean() -> None:
    cfg = of("darling")
    distinct = replace(batch_for(cfg), meaning=torch.arange(22))
    assert_equal_objectives(cfg, objective(advantage="mean_only"), batch=distinct)


def test_with_k_1_pkpo_is_rloo_with_a_clipped_ratio_and_without_its_kl() -> None:
    cfg, rloo = of("pkpo"), of("rloo", "objective.terms.divergence=null", "objective.ratio=token")
    batch = batch_for(cfg)
    state = ObjectiveState(coefficients={}, pass_k=1)
    found = [run(weights(), [credit(batch, choice, state)], choice) for choice in (cfg, rloo)]
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[0][1].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("preset", "plain"),
    [
        ("passk_training", {"advantage": "pass_k_zscore"}),
        ("pkpo", {"advantage": "pass_k_gain", "reduction": "sequence_mean_token_sum"}),
        ("maxrl", {"advantage": "mean_normalised", "reduction": "sequence_mean_token_sum"}),
        ("nsr", {"advantage": "weighted_sign"}),
        ("unlikeliness", {"advantage": "unlikely_zscore", **MEANS}),
        ("ucpo", {"advantage": "uniform_zscore"}),
        ("darling", {"advantage": "distinct_mean_only"}),
    ],
)
def test_a_preset_is_an_advantage_with_ppos_clip_and_no_divergence(preset: str, plain: dict[str, str]) -> None:
    assert_equal_objectives(of(preset), objective(**plain))
    assert of(preset).terms == {}


@pytest.mark.parametrize("preset", [*PAPERS, "grpo_nll"])
@pytest.mark.parametrize("term", TERMS)
def test_every_divergence_term_is_added_to_the_loss_of_every_advantage(preset: str, term: str) -> None:
    # Without a clip the surrogate is linear in the advantage, so penalties in the advantage are sums of losses too.
    plain = replace(of(preset), clip=ClipConfig(kind="none"))
    added = of(preset, *(EXTRA + choice for choice in TERMS[term])).terms["extra"]
    both = replace(plain, terms={**plain.terms, "extra": added})
    alone = ObjectiveConfig(advantage="none", terms={"extra": added}, clip=plain.clip, reduction=plain.reduction)
    batch = batch_for(both)
    found = {
        name: run(weights(), [credited(batch, cfg)], cfg)
        for name, cfg in {"both": both, "plain": plain, "alone": alone}.items()
    }
    assert found["both"][0] == pytest.approx(found["plain"][0] + found["alone"][0], abs=2e-5)
    torch.testing.assert_close(found["both"][1], found["plain"][1] + found["alone"][1], rtol=1e-4, atol=2e-6)
    assert found["alone"][1].abs().max() > 1e-3 and found["plain"][1].abs().max() > 1e-3


@pytest.mark.parametrize("preset", PAPERS)
def test_a_penalty_in_the_reward_is_subtracted_from_the_advantage(preset: str) -> None:
    cfg = of(preset, *(EXTRA + choice for choice in TERMS["reward"]))
    batch = batch_for(cfg)
    with_penalty, without = (credited(batch, choice).advantage for choice in (cfg, of(preset)))
    assert with_penalty is not None and without is not None and batch.logp_reference is not None
    explored = batch.on_route("explore")
    penalty = COEFFICIENT * (batch.logp_sampler - batch.logp_reference)
    torch.testing.assert_close(with_penalty[explored], (without - penalty)[explored])
    assert penalty[explored].abs().max() > 0.1
