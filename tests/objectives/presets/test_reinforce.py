"""RLOO, REINFORCE++, SuperHF and f-DPG: policy gradients without an importance ratio or without the group z-score."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.equal_objectives import MEANS, assert_equal_objectives
from tests.objectives.presets.golden_batch import (
    LOGP,
    OLD_LOG_U,
    SAMPLER,
    explored_batch,
    golden_advantage,
    golden_loss,
)
from tests.objectives.ragged_batch import Answer, make_batch, objective, scores
from tests.objectives.random_answers import credited, of, random_batch
from trajectories.trajectory import ROUTES

PAPERS = {
    "rloo": "2402.14740",
    "reinforce_pp": "2501.03262",
    "reinforce_pp_baseline": "2501.03262",
    "superhf": "2310.16763",
    "f_dpg": "2302.08215",
    "gdc": "2012.11635",
}


def test_rloo_is_reinforce_with_a_leave_one_out_baseline_and_k1_in_the_reward() -> None:
    # Baselines 0, 0.5, 0.5: advantages 1, -0.5, -0.5. The reference is one nat below the sampler's log-prob
    # everywhere, so k1 = 1 subtracts 0.03 at each token: 0.97, -0.53. Log-probs sum to -2.5, -1 and -7.25 per answer:
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


def test_rloo_has_no_importance_ratio_sums_over_tokens_and_k1_in_the_reward() -> None:
    cfg = of("rloo")
    assert (cfg.advantage, cfg.ratio, cfg.reduction) == ("leave_one_out", "none", "sequence_mean_token_sum")
    kl = cfg.terms["divergence"]
    assert (kl.name, kl.wiring, kl.estimator, kl.coefficient.value) == ("reverse_kl", "reward", "k1", 0.03)


def test_reinforce_pp_subtracts_k1_summed_to_the_end_and_whitens_over_the_batch() -> None:
    # beta .1; k1 to go (1, 1), (-1), (2, 0, 0): returns .9, .9, .1, -.2, 0, 0; mean .283333, sum of squares 1.188333,
    # deviation sqrt(.237667) = .487511
    cfg = of("reinforce_pp")
    expected = [1.264929, 1.264929, -0.376060, -0.991431, -0.581184, -0.581184]
    assert golden_advantage(cfg, 0.1) == pytest.approx(expected, abs=2e-6)
    # (1 + 1.2) * 1.264929 - .8 * .376060 - .991431 - (.9 + 4) * .581184 = -1.357237
    assert golden_loss(cfg, 0.1, explored_batch(SAMPLER - OLD_LOG_U)) == pytest.approx(1.357237 / 6, abs=2e-6)


def test_reinforce_pp_baseline_subtracts_the_group_mean_before_whitening_and_adds_k2_to_the_loss() -> None:
    # 2/3 on 2 tokens and -1/3 on 4: mean 0, deviation sqrt((8/9 + 4/9) / 5) = .516398: 1.290994 and -.645497
    cfg = of("reinforce_pp_baseline")
    assert golden_advantage(cfg) == pytest.approx([1.290994] * 2 + [-0.645497] * 4, abs=2e-6)
    # 2.2 * 1.290994 - 6.7 * .645497 = -1.484643
    assert golden_loss(cfg, 0.3) == pytest.approx(1.484643 / 6 + 0.3 * 0.211667, abs=2e-6)


def superhf(answers: list[Answer], logp: Tensor = LOGP, kl: Tensor | None = None) -> float:
    """Return the loss of SuperHF with its own coefficient, where the KL of each token is `kl` [N]; None: 0."""
    cfg = of("superhf")
    state = initial_state(cfg, 100)
    zeros = torch.zeros_like(logp)
    whole = credit(make_batch(answers, logp_sampler=zeros, logp_reference=zeros), cfg, state)
    read = replace(scores(logp), exact={"divergence": torch.zeros_like(logp) if kl is None else kl})
    return loss(read, whole, cfg, state.coefficients)[0].item()


def test_superhf_is_the_cross_entropy_of_the_best_answer_plus_a_kl_on_its_tokens() -> None:
    # -(-.5 - 1.594535) / 2 = 1.047267; the KL of the best answer's tokens is .2 and .4
    answers: list[Answer] = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])]
    kl = torch.tensor([0.2, 0.4, 9.0, 9.0, 9.0, 9.0])
    assert superhf(answers, kl=kl) == pytest.approx(1.047267 + 0.35 * 0.3, abs=2e-6)


def test_superhf_is_a_mean_over_prompts_also_where_their_groups_are_unequal() -> None:
    # By hand: best answers of 3 and 2 answers with cross entropies 1.4682 and .9822, and KLs .1 and .5. The mean over
    # answers of G x cross entropy would be (3 x 1.4682 + 2 x .9822) / 5 = 1.2738.
    answers: list[Answer] = [
        ("explore", 0, 0.0, [1]), ("explore", 0, 1.0, [2]), ("explore", 0, 0.0, [3]), ("explore", 1, 1.0, [4]),
        ("explore", 1, 0.0, [5]),
    ]  # fmt: skip
    logp = torch.tensor([-3.0, -1.4682, -2.0, -0.9822, -5.0])
    assert superhf(answers, logp) == pytest.approx(1.2252, abs=1e-6)
    kl = torch.tensor([7.0, 0.1, 7.0, 0.5, 7.0])
    assert superhf(answers, logp, kl) == pytest.approx(1.2252 + 0.35 * 0.3, abs=1e-6)
    ungraded: list[Answer] = [*answers[:4], ("explore", 1, None, [5])]
    assert superhf(ungraded, logp) == pytest.approx(1.2252, abs=1e-6)


def test_superhf_averages_over_equally_good_best_answers_and_a_prompt_without_a_right_one_counts_as_0() -> None:
    answers: list[Answer] = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 1.0, [3]), ("explore", 0, 0.0, [4, 5, 6])]
    # -(-.5 - 1.594535) / 2 and 1.693147, averaged
    kl = torch.tensor([0.2, 0.4, 0.5, 9.0, 9.0, 9.0])
    assert superhf(answers, kl=kl) == pytest.approx((1.047267 + 1.693147) / 2 + 0.35 * (0.3 + 0.5) / 2, abs=2e-6)
    wrong: list[Answer] = [*answers[:2], ("explore", 1, 0.0, [4, 5, 6])]
    assert superhf(wrong) == pytest.approx((1.047267 + 1.693147) / 2 / 2, abs=2e-6)


def test_superhf_has_the_kl_from_the_reference_exact_over_the_vocabulary_on_best_answers() -> None:
    (term,) = of("superhf").terms.values()
    assert (term.name, term.wiring, term.anchor, term.weights.only) == (
        "forward_kl", "vocabulary", "reference", "best_answers"
    )  # fmt: skip
    assert term.coefficient.value == 0.35
    batch = random_batch()
    kept = credited(batch, of("superhf")).term_weights["divergence"] > 0
    best = (batch.reward >= 1) & (batch.route == ROUTES.index("explore"))
    assert kept[batch.mask].tolist() == best[batch.seq][batch.mask].tolist()
    assert 0 < best.sum() < len(best)


def test_f_dpg_has_a_positive_advantage_on_answers_less_likely_than_under_the_target() -> None:
    # log P / pi = 2 r - log u = 1, 1, -2; log Z = ln((2e + e^-2) / 3) = .619122; log t = -.380878, -.380878, 2.619122
    # -log(2t / (t + 1)) / 2 = .104232, .104232, -.311407; mean -.034314
    assert golden_advantage(of("f_dpg")) == pytest.approx([0.138546] * 3 + [-0.277093] * 3, abs=3e-6)


def test_gdc_weighs_answers_by_target_over_policy_at_the_tilt_with_the_mean_reward() -> None:
    # 1 / u = e^-1, e, e^-2 and x = e^(lambda - 1): x / (x + e + e^-2) = .5, so x = e + e^-2 = 2.853617
    # Z = 5.707234 / 3 = 1.902411; p / pi - 1 = 1.5 - 1, 2.718282 / Z - 1 = .428861, .135335 / Z - 1 = -.928861
    got = golden_advantage(of("gdc"))
    assert got == pytest.approx([0.5] * 2 + [0.428861] + [-0.928861] * 3, abs=3e-6)


@pytest.mark.parametrize(
    ("preset", "plain"),
    [
        ("reinforce_pp_baseline", {"advantage": "group_mean_global_whiten"}),
        ("reinforce_pp", {"advantage": "global_whiten"}),
        ("superhf", {"advantage": "best_of_n", "ratio": "none", **MEANS}),
    ],
)
def test_without_its_divergence_a_preset_is_its_policy_gradient(preset: str, plain: dict[str, str]) -> None:
    assert_equal_objectives(of(preset), objective(**plain), coefficient=0.0)
