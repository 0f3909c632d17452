"""RLOO, REINFORCE++, SuperHF and f-DPG: policy gradients without an importance ratio or without the group z-score."""

import pytest

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
from tests.objectives.ragged_batch import make_batch, objective, scores
from tests.objectives.random_answers import of

PAPERS = {
    "rloo": "2402.14740",
    "reinforce_pp": "2501.03262",
    "reinforce_pp_baseline": "2501.03262",
    "superhf": "2310.16763",
    "f_dpg": "2302.08215",
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


def test_superhf_is_the_cross_entropy_of_the_best_answer_plus_a_kl() -> None:
    # -(-.5 - 1.594535) / 2 = 1.047267
    assert golden_loss(of("superhf"), 0.1) == pytest.approx(1.047267 + 0.1 * 0.266111, abs=2e-6)


def test_superhf_averages_over_the_best_answers_of_all_groups() -> None:
    # The best answers of two groups of two: mean over prompts of -mean log pi
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 1, 0.0, [4]), ("explore", 1, 1.0, [5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=LOGP,
    )
    expected = ((0.5 + 1.594535) / 2 + (3.105361 + 2.613706) / 2) / 2
    assert golden_loss(of("superhf"), 0.1, whole) == pytest.approx(expected, abs=2e-6)


def test_superhf_averages_the_cross_entropy_of_equally_good_best_answers() -> None:
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 1.0, [3]), ("explore", 0, 0.0, [4, 5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=LOGP,
    )
    # -(-.5 - 1.594535) / 2 and 1.693147, averaged
    assert golden_loss(of("superhf"), 0.1, whole) == pytest.approx((1.047267 + 1.693147) / 2, abs=2e-6)


def test_f_dpg_has_a_positive_advantage_on_answers_less_likely_than_under_the_target() -> None:
    # log P / pi = 2 r - log u = 1, 1, -2; log Z = ln((2e + e^-2) / 3) = .619122; log t = -.380878, -.380878, 2.619122
    # -log(2t / (t + 1)) / 2 = .104232, .104232, -.311407; mean -.034314
    assert golden_advantage(of("f_dpg")) == pytest.approx([0.138546] * 3 + [-0.277093] * 3, abs=3e-6)


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
