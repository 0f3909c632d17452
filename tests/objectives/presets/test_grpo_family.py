"""GRPO and the methods that change its ratio, clip, reduction or gates."""

from dataclasses import replace

import pytest
import torch

from configs.load import load
from configs.overlong import OverlongConfig
from configs.policy_gradient import ClipConfig
from tests.objectives.equal_objectives import MEANS, assert_equal_objectives, loss_gradient
from tests.objectives.presets.golden_batch import LOGP, explored_batch, golden_loss, preset_loss
from tests.objectives.ragged_batch import make_batch, objective
from tests.objectives.random_answers import VOCABULARY, of, random_batch, scores_of, weights

PAPERS = {
    "grpo": "2402.03300",
    "dr_grpo": "2503.20783",
    "dapo": "2503.14476",
    "gspo": "2507.18071",
    "cispo": "2506.13585",
    "atr_grpo": "2602.05494",
    "gtpo": "2508.03772",
    "gdpo": "2601.05242",
}


def test_grpo_is_the_mean_of_sequence_means_of_the_clipped_surrogate() -> None:
    # (1 + 1.2) / 2 * 1.154701 = 1.270171; max-loss branch 0.8 * -0.577350 = -0.461880;
    # (1 + 0.9 + 4) / 3 * -0.577350 = -1.135455; mean -0.109055
    assert preset_loss("grpo") == pytest.approx(0.109055, abs=2e-6)


def test_grpo_has_the_group_zscore_the_mean_of_sequence_means_and_no_divergence() -> None:
    cfg = of("grpo")
    assert (cfg.advantage, cfg.ratio, cfg.reduction) == ("group_zscore", "token", "sequence_mean_token_mean")
    assert (cfg.clip.low, cfg.clip.high, cfg.clip.dual, cfg.terms) == (0.2, 0.2, None, {})


def test_overrides_add_deepseeks_k3_to_grpo() -> None:
    kl = "objective.terms.divergence"
    cfg = load(["method=grpo", f"{kl}.name=reverse_kl", f"{kl}.coefficient.value=0.04"]).objective.terms["divergence"]
    assert (cfg.route, cfg.wiring, cfg.estimator) == ("explore", "loss", "k3")


def test_dr_grpo_divides_by_a_constant_length_and_not_by_the_standard_deviation() -> None:
    # (2.2 * 2 - 0.8 - 5.9) / 3 = -0.766667, over 3 answers of at most 4 tokens
    assert preset_loss("dr_grpo", "objective.constant_length=4") == pytest.approx(0.766667 / 12, abs=1e-6)


@pytest.mark.parametrize("length", [16, 3000])
def test_dr_grpo_divides_by_the_longest_answer_allowed(length: int) -> None:
    cfg = load(["method=dr_grpo", f"sampling.max_new_tokens={length}"])
    assert (cfg.objective.advantage, cfg.objective.reduction) == ("mean_only", "constant")
    assert cfg.objective.constant_length == length


def test_dapo_clips_higher_and_takes_the_mean_over_tokens() -> None:
    # (1 + 1.28) * 1.154701 - (0.8 + 5.9) * 0.577350 = -1.235531, over 6 tokens
    assert preset_loss("dapo") == pytest.approx(1.235531 / 6, abs=2e-6)


def test_dapo_has_clip_higher_the_token_mean_and_no_divergence() -> None:
    cfg = of("dapo")
    assert (cfg.advantage, cfg.reduction, cfg.terms) == ("group_zscore", "token_mean", {})
    assert (cfg.clip.low, cfg.clip.high) == (0.2, 0.28)


def test_dapo_without_overlong_answers_is_grpo_with_clip_higher_and_the_token_mean() -> None:
    assert_equal_objectives(of("dapo"), objective(clip=ClipConfig(high=0.28)))
    penalised = objective(clip=ClipConfig(high=0.28), overlong=OverlongConfig(limit=6, fraction=0.5))
    assert (loss_gradient(penalised, random_batch()) - loss_gradient(of("dapo"), random_batch())).abs().max() > 1e-3


def test_gdpo_divides_the_advantages_by_their_standard_deviation_in_the_batch() -> None:
    # Of one group of three answers the z-scores have standard deviation 1: GRPO's loss, over 1.0001.
    assert golden_loss(of("gdpo")) == pytest.approx(golden_loss(of("grpo")) / 1.0001, abs=2e-6)
    cfg = of("gdpo")
    assert (cfg.advantage, cfg.combine, cfg.reduction) == ("group_zscore", "whitened_advantages", of("grpo").reduction)


def test_gspo_clips_the_sequence_ratio() -> None:
    # 1.5^(1/2) = 1.224745 -> 1.0004; .5 -> .9997; 3.6^(1/3) = 1.532619 is not clipped, as the advantage is negative
    expected = (1.0004 * 1.154701 - (0.9997 + 1.532619) * 0.577350) / 3
    assert golden_loss(of("gspo")) == pytest.approx(-expected, abs=2e-6)


def test_on_answers_of_one_token_gspo_is_grpo() -> None:
    answers = [("explore", i // 4, float(i % 3 == 0), [i % VOCABULARY]) for i in range(16)]
    batch = make_batch(answers, prompt_length=1)
    logp = scores_of(weights(), batch, objective()).logp.detach()
    noise = torch.randn(len(logp), generator=torch.Generator().manual_seed(0)).mul(0.3)
    batch = replace(batch, logp_sampler=torch.where(batch.mask, logp + noise, 0.0))
    clip = ClipConfig(low=0.0003, high=0.0004)
    assert_equal_objectives(objective(ratio="sequence", clip=clip, **MEANS), objective(clip=clip, **MEANS), batch=batch)


def test_cispo_weights_the_log_probs_by_the_clipped_ratio() -> None:
    # log pi: -.5, -1.594535; -1.693147; -.25, -3.105361, -2.613706; weights 1, 1.2; .5; 1, .9, 1.2
    # 1.154701 * -2.413442 - .577350 * (-.846574 - .25 - 2.794825 - 3.136447) = 1.270723
    assert golden_loss(of("cispo")) == pytest.approx(-1.270723 / 6, abs=2e-6)


def test_atr_grpo_clips_at_the_bounds_of_kl3() -> None:
    # [.774633, 1.265344]: (1 + 1.265344) / 2 * 1.154701 = 1.307898; .774633 * -.577350 = -.447234; -1.135455
    assert golden_loss(of("atr_grpo")) == pytest.approx((0.447234 + 1.135455 - 1.307898) / 3, abs=2e-6)


def test_gtpo_weights_conflict_tokens_subtracts_the_entropy_and_filters_answers() -> None:
    # Answers (1, 2), (1), (4, 5, 2): lambda (2, 2), (0), (1, 1, 0). Mean entropies .3, .5, .6:
    # [(2/3 - .03) / 2 * (2 + 3) + 0 + (-1/3 - .06) / 3 * (1 + .9)] / 3 = (1.591667 - .249111) / 3
    whole = explored_batch(LOGP, ([1, 2], [1], [4, 5, 2]))
    assert golden_loss(of("gtpo"), whole=whole) == pytest.approx(-(1.591667 - 0.249111) / 3, abs=2e-6)
    # The preset's limit is ln 2 = .693. The last answer has entropy .6, so only a lower limit leaves it out.
    assert golden_loss(of("gtpo", "objective.gates.entropy_limit=0.55"), whole=whole) == pytest.approx(-1.591667 / 3)


def test_gtpo_without_gates_is_mean_only_grpo_without_a_clip() -> None:
    off = (
        "objective.gates.conflict_tokens=false",
        "objective.gates.entropy_penalty=0",
        "objective.gates.entropy_limit=0",
    )
    assert_equal_objectives(of("gtpo", *off), objective(advantage="mean_only", clip=ClipConfig(kind="none"), **MEANS))
