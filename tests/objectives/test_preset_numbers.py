"""Golden numbers of further presets, on the ragged batch of `test_method_numbers`, worked out from their equations.

Answers of 2, 1 and 3 tokens, rewards 1, 0, 0, ratios (1, 1.5), (0.5), (1, 0.9, 4); z-scores (1.154701, -0.577350,
-0.577350). log policy / reference is (.5, -.5), (1), (0, -1, .2), so that
    k2 is (.125, .125), (.5), (0, .5, .02), with the mean 1.27 / 6 = .211667, and means of answers .125, .5, .173333;
    k3 is (.106531, .148721), (.367879), (0, .718282, .018731), with means of answers .127626, .367879, .245671.
PPO's clip of .2 over tokens: 2.2 * 1.154701 - (.8 + 5.9) * .577350 = -1.327903, over 6 tokens: loss .221317.
"""

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.ragged_batch import make_batch, scores, weighted
from tests.objectives.random_answers import of
from trajectories.batch import Batch

RATIOS = torch.tensor([1.0, 1.5, 0.5, 1.0, 0.9, 4.0])
SAMPLER = torch.tensor([-0.5, -2.0, -1.0, -0.25, -3.0, -4.0])
LOGP = SAMPLER + RATIOS.log()
LOG_U = torch.tensor([0.5, -0.5, 1.0, 0.0, -1.0, 0.2])
ENTROPY = torch.tensor([0.2, 0.4, 0.5, 0.6, 0.5, 0.7])
OLD_LOG_U = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, 0.0])
"""log old policy / reference, where a method looks at the answers as they were drawn; sums 1, -1, 2."""


def batch(reference: Tensor, tokens: tuple[list[int], ...] = ([1, 2], [3], [4, 5, 6])) -> Batch:
    answers = [("explore", 0, reward, row) for reward, row in zip((1.0, 0.0, 0.0), tokens, strict=True)]
    return make_batch(answers, logp_sampler=SAMPLER, logp_reference=reference)


def loss_of(cfg: ObjectiveConfig, coefficient: float = 0.0, whole: Batch | None = None) -> float:
    coefficients = dict.fromkeys(weighted(cfg), coefficient)
    credited = credit(whole or batch(LOGP - LOG_U), cfg, ObjectiveState(coefficients=coefficients))
    return loss(scores(LOGP, ENTROPY), credited, cfg, coefficients)[0].item()


def advantage_of(cfg: ObjectiveConfig, coefficient: float = 0.0) -> list[float]:
    state = ObjectiveState(coefficients=dict.fromkeys(weighted(cfg), coefficient))
    advantage = credit(batch(SAMPLER - OLD_LOG_U), cfg, state).advantage
    assert advantage is not None
    return advantage.tolist()


def test_apo_holds_winners_by_difficulty_and_scales_long_failures() -> None:
    # d = 2/3: w = 1 - exp(-e / 3) = .595900; the last answer is 1 token longer: 2 - 1 / 1.1 = 1.090909
    # 2.540342 - .461880 - 5.9 * .577350 * 1.090909 = -1.637571, over 6; KL (.595900 * .127626 + .613550) / 3
    cfg = of("apo", "objective.gates.long_failures=1.1")
    assert loss_of(cfg) == pytest.approx(1.637571 / 6, abs=2e-6)
    assert loss_of(cfg, 0.1) - loss_of(cfg) == pytest.approx(0.1 * (0.595900 * 0.127626 + 0.613550) / 3, abs=1e-6)


def test_atr_grpo_clips_at_the_bounds_of_kl3() -> None:
    # [.774633, 1.265344]: (1 + 1.265344) / 2 * 1.154701 = 1.307898; .774633 * -.577350 = -.447234; -1.135455
    assert loss_of(of("atr_grpo")) == pytest.approx((0.447234 + 1.135455 - 1.307898) / 3, abs=2e-6)


def test_cispo_weighs_the_log_probs_by_the_cut_ratio() -> None:
    # log pi: -.5, -1.594535; -1.693147; -.25, -3.105361, -2.613706; weights 1, 1.2; .5; 1, .9, 1.2
    # 1.154701 * -2.413442 - .577350 * (-.846574 - .25 - 2.794825 - 3.136447) = 1.270723
    assert loss_of(of("cispo")) == pytest.approx(-1.270723 / 6, abs=2e-6)


def test_gspo_clips_the_ratio_of_the_answer() -> None:
    # 1.5^(1/2) = 1.224745 -> 1.0004; .5 -> .9997; 3.6^(1/3) = 1.532619 stands, at a loss
    expected = (1.0004 * 1.154701 - (0.9997 + 1.532619) * 0.577350) / 3
    assert loss_of(of("gspo")) == pytest.approx(-expected, abs=2e-6)


def test_gtpo_weighs_conflicts_takes_the_entropy_off_and_filters() -> None:
    # Answers (1, 2), (1), (4, 5, 2): lambda (2, 2), (0), (1, 1, 0). Mean entropies .3, .5, .6:
    # [(2/3 - .03) / 2 * (2 + 3) + 0 + (-1/3 - .06) / 3 * (1 + .9)] / 3 = (1.591667 - .249111) / 3
    whole = batch(LOGP, ([1, 2], [1], [4, 5, 2]))
    assert loss_of(of("gtpo"), whole=whole) == pytest.approx(-(1.591667 - 0.249111) / 3, abs=2e-6)
    # Above ln 2 = .693 the last answer would be left out; here it is at .6, so the limit has to come down.
    assert loss_of(of("gtpo", "objective.gates.entropy_limit=0.55"), whole=whole) == pytest.approx(-1.591667 / 3)


def test_reinforce_pp_pays_k1_to_the_end_and_whitens_over_the_batch() -> None:
    # beta .1; k1 to go (1, 1), (-1), (2, 0, 0): returns .9, .9, .1, -.2, 0, 0; mean .283333, sum of squares 1.188333,
    # deviation sqrt(.237667) = .487511
    cfg = of("reinforce_pp")
    expected = [1.264929, 1.264929, -0.376060, -0.991431, -0.581184, -0.581184]
    assert advantage_of(cfg, 0.1) == pytest.approx(expected, abs=2e-6)
    # (1 + 1.2) * 1.264929 - .8 * .376060 - .991431 - (.9 + 4) * .581184 = -1.357237
    assert loss_of(cfg, 0.1, batch(SAMPLER - OLD_LOG_U)) == pytest.approx(1.357237 / 6, abs=2e-6)


def test_reinforce_pp_baseline_takes_the_groups_mean_first_and_k2_as_a_loss() -> None:
    # 2/3 on 2 tokens and -1/3 on 4: mean 0, deviation sqrt((8/9 + 4/9) / 5) = .516398: 1.290994 and -.645497
    cfg = of("reinforce_pp_baseline")
    assert advantage_of(cfg) == pytest.approx([1.290994] * 2 + [-0.645497] * 4, abs=2e-6)
    # 2.2 * 1.290994 - 6.7 * .645497 = -1.484643
    assert loss_of(cfg, 0.3) == pytest.approx(1.484643 / 6 + 0.3 * 0.211667, abs=2e-6)


def test_rpg_clips_reward_and_divergence_together() -> None:
    # beta .1: A' = .666667, .626120, -.264019, -.333333, -.322797, -.471963
    # .666667 + 1.28 * .626120 - .8 * .264019 - .333333 - .9 * .322797 - 4 * .471963 = -1.254816
    assert loss_of(of("rpg"), 0.1) == pytest.approx(1.254816 / 6, abs=2e-6)


def test_safe_is_ppo_with_k2_by_its_controller_and_an_entropy_bonus() -> None:
    # entropies add up to 2.9
    expected = 0.221317 + 0.5 * 0.211667 - 0.01 * 2.9 / 6
    assert loss_of(of("safe"), 0.5) == pytest.approx(expected, abs=2e-6)


def test_sampo_sums_as_many_tokens_of_every_answer_as_the_shortest_has() -> None:
    # GRPO's .109055; the shortest has 1 token: (.125 + .5 + .173333) / 3 = .266111
    assert loss_of(of("sampo"), 0.3) == pytest.approx(0.109055 + 0.3 * 0.266111, abs=2e-6)


def test_sparse_kl_weighs_tokens_by_their_entropy() -> None:
    # log V is 1 here: .2 * .125 + .4 * .125 + .5 * .5 + .5 * .5 + .7 * .02 = .589
    assert loss_of(of("sparse_kl"), 0.3) == pytest.approx(0.221317 + 0.3 * 0.589 / 6, abs=2e-6)


def test_superhf_is_the_cross_entropy_of_the_best_answer_and_a_kl() -> None:
    # -(-.5 - 1.594535) / 2 = 1.047267
    assert loss_of(of("superhf"), 0.1) == pytest.approx(1.047267 + 0.1 * 0.266111, abs=2e-6)


def test_tsallis_takes_its_slope_off_the_advantage() -> None:
    # 2 (u - 1): 0, 3.436564; -1.264241; 12.778112, 0, 0; times .04, off the z-scores
    expected = [1.154699, 1.017236, -0.526779, -1.088473, -0.577349, -0.577349]
    assert advantage_of(of("tsallis"), 0.04) == pytest.approx(expected, abs=3e-6)


def test_chi_squared_takes_the_answers_ratio_over_the_root_off_its_advantage() -> None:
    # u = e, 1/e, e^2: mean 3.491739; chi2 = (1.086161 + 1.086161 + 5.524391) / 3 = 2.565571, root 1.601740
    # (u - mean) / root: -.482886, -1.950292, 2.433177; times .1
    expected = [1.202989] * 2 + [-0.382320] + [-0.820667] * 3
    assert advantage_of(of("chi_squared"), 0.1) == pytest.approx(expected, abs=4e-6)


def test_f_dpg_rewards_answers_that_are_rarer_than_in_the_target() -> None:
    # log P / pi = 2 r - log u = 1, 1, -2; log Z = ln((2e + e^-2) / 3) = .619122; log t = -.380878, -.380878, 2.619122
    # -log(2t / (t + 1)) / 2 = .104232, .104232, -.311407; mean -.034314
    assert advantage_of(of("f_dpg")) == pytest.approx([0.138546] * 3 + [-0.277093] * 3, abs=3e-6)


def test_grpo_d_starts_as_grpo_and_adds_k3() -> None:
    assert loss_of(of("grpo_d"), 0.0) == pytest.approx(0.109055, abs=2e-6)
    assert loss_of(of("grpo_d"), 0.02) == pytest.approx(0.109055 + 0.02 * 0.741176 / 3, abs=2e-6)


def with_anchors(**log_u: Tensor) -> Batch:
    whole = batch(LOGP - LOG_U)
    whole.anchors.update({name: LOGP - d for name, d in log_u.items()})
    return whole


def test_kdrl_distils_from_its_teacher_beside_an_unclipped_policy_gradient() -> None:
    # 2.5 * 1.154701 - 6.4 * .577350 = -.808287
    expected = 0.808287 / 6 + 0.005 * 0.211667
    assert loss_of(of("kdrl"), 0.005, with_anchors(teacher=LOG_U)) == pytest.approx(expected, abs=2e-6)


def test_nash_mp_is_held_by_two_anchors_at_once() -> None:
    # k2 to the slow copy: (.5 + .5 + 2 + 0 + 0 + 0) / 6 = .5
    slow = torch.tensor([1.0, -1.0, 2.0, 0.0, 0.0, 0.0])
    expected = 0.221317 + 0.04 * 0.211667 + 0.04 * 0.5
    assert loss_of(of("nash_mp"), 0.04, with_anchors(slow=slow)) == pytest.approx(expected, abs=2e-6)


def test_a_sequence_mean_of_two_groups_is_a_mean_over_all_answers() -> None:
    # SuperHF's best answers of two groups of two: mean over prompts of -mean log pi
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 1, 0.0, [4]), ("explore", 1, 1.0, [5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=LOGP,
    )
    expected = ((0.5 + 1.594535) / 2 + (3.105361 + 2.613706) / 2) / 2
    assert loss_of(of("superhf"), 0.1, whole) == pytest.approx(expected, abs=2e-6)


def test_equal_best_answers_share_their_prompts_cross_entropy() -> None:
    whole = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 1.0, [3]), ("explore", 0, 0.0, [4, 5, 6])],
        logp_sampler=SAMPLER,
        logp_reference=LOGP,
    )
    # -(-.5 - 1.594535) / 2 and 1.693147, averaged
    assert loss_of(of("superhf"), 0.1, whole) == pytest.approx((1.047267 + 1.693147) / 2, abs=2e-6)
