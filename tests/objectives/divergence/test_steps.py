"""SOD, arXiv:2605.07725: the weights of an answer's steps."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from configs.term_weights import TermWeightsConfig
from objectives.credit import credit
from objectives.divergence.steps import step_weights, steps_of
from tests.objectives.ragged_batch import divergence, make_batch, objective, state_of
from tests.objectives.random_answers import batch_for, credited, of, run, weights
from trajectories.batch import Batch, with_own_totals
from trajectories.split import partition

LOG_U = torch.tensor([0.2, -0.4, 0.6, -0.6, 0.1, 0.3, 0.6, -0.9, 0.2])
"""On explored tokens, answer by answer."""


def three_turns() -> Batch:
    """Answers of turns of 2, 2 and 1 tokens, with a tool's between them; and of a single turn of 4. Prompts of 1."""
    batch = make_batch([("explore", 0, 1.0, [0] * 7), ("explore", 0, 0.0, [0] * 4)], prompt_length=1)
    mask = batch.mask.clone()
    mask[[3, 6]] = False
    return with_own_totals(replace(batch, mask=mask))


def test_steps_are_turns_and_a_single_turn_is_cut_by_length() -> None:
    assert steps_of(three_turns(), 0).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert steps_of(three_turns(), 3).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4]
    assert steps_of(three_turns(), 1).tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6], "turns are not cut"
    none = replace(three_turns(), mask=torch.zeros(13, dtype=torch.bool))
    assert steps_of(none, 2).tolist() == step_weights(none, LOG_U[:0], 1.2, 2).tolist() == []


def test_answers_that_touch_are_not_one_turn() -> None:
    batch = make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3])])
    assert steps_of(batch, 0).tolist() == [0, 0, 1]


def test_a_step_weighs_the_first_distance_over_its_own_up_to_the_limit() -> None:
    # d = .3, .6, .1: 1, 1/2, and 3 cut to 1.2.  The other answer, by twos: d = .45, .55: 1, .818182
    expected = [1, 1, 0.5, 0.5, 1.2, 1, 1, 9 / 11, 9 / 11]
    assert step_weights(three_turns(), LOG_U, 1.2, 2).tolist() == pytest.approx(expected, abs=1e-5)
    assert step_weights(three_turns(), LOG_U, 5.0, 0).tolist() == pytest.approx(
        [1, 1, 0.5, 0.5, 3, 1, 1, 1, 1], abs=1e-4
    )


def test_the_running_product_of_the_paper_is_this_quotient() -> None:
    d, product = [0.3, 0.6, 0.1], [1.0]
    for before, now in pairwise(d):
        product.append(product[-1] * (before + 1e-6) / (now + 1e-6))
    found = step_weights(three_turns(), LOG_U, 9.0, 0)[[0, 2, 4]]
    assert found.tolist() == pytest.approx(product, rel=1e-5)


def test_equal_distances_weigh_1_and_tiny_ones_the_limit() -> None:
    assert step_weights(three_turns(), torch.full((9,), -0.4), 1.2, 2).tolist() == pytest.approx([1] * 9)
    tiny = torch.tensor([0.3, 0.3, 0, 0, 0, 0, 0, 0, 0])
    assert step_weights(three_turns(), tiny, 1.5, 0).tolist() == pytest.approx([1, 1, 1.5, 1.5, 1.5, 1, 1, 1, 1])


def test_the_teachers_log_ratio_joins_the_advantage_by_step() -> None:
    batch = three_turns()
    sampler = torch.where(batch.mask, -1.0, 0.0)
    teacher = sampler.clone()
    teacher[batch.mask] -= LOG_U
    batch = replace(batch, logp_sampler=sampler, anchors={"teacher": teacher})
    cfg = of("sod", "objective.terms.divergence.weights.step_length=2")
    found = credit(batch, cfg, state_of(0.5)).advantage
    assert found is not None
    # z-scores of rewards 1 and 0: +- 1 / sqrt(2); c = .5
    z = torch.tensor([1.0] * 5 + [-1.0] * 4) / (2**0.5)
    w = torch.tensor([1, 1, 0.5, 0.5, 1.2, 1, 1, 9 / 11, 9 / 11])
    torch.testing.assert_close(found[batch.mask], z - 0.5 * w * LOG_U, rtol=0, atol=1e-5)
    assert not found[~batch.mask].any()


def test_one_step_is_distillation_beside_grpo_and_a_coefficient_of_0_is_grpo() -> None:
    weights_field, found = "objective.terms.divergence.weights", {}
    for name, length, limit in (("one step", 0, 1.2), ("no weights", 0, 0.0), ("steps", 2, 1.2)):
        cfg = of("sod", f"{weights_field}.step_length={length}", f"{weights_field}.step_limit={limit}")
        found[name] = run(weights(), [credited(batch_for(cfg), cfg)], cfg)[1]
    torch.testing.assert_close(found["one step"], found["no weights"])
    assert (found["steps"] - found["one step"]).abs().max() > 1e-3
    cfg, grpo = of("sod"), of("grpo", "objective.clip.high=0.28", "objective.reduction=token_mean")
    alone = run(weights(), [credited(batch_for(cfg), cfg, 0.0)], cfg, 0.0)[1]
    torch.testing.assert_close(alone, run(weights(), [credited(batch_for(cfg), grpo, 0.0)], grpo, 0.0)[1])


def test_the_order_of_answers_and_their_parts_change_nothing() -> None:
    cfg = of("sod", "objective.terms.divergence.weights.step_length=2")
    batch = batch_for(cfg)
    whole = credited(batch, cfg)
    expected = run(weights(), [whole], cfg)
    order = torch.randperm(len(batch.group), generator=torch.Generator().manual_seed(4)).tolist()
    for parts in ([credited(batch.select(order), cfg)], [m for rank in partition(whole, 2, 12) for m in rank]):
        torch.testing.assert_close(run(weights(), parts, cfg)[1], expected[1], rtol=1e-4, atol=1e-6)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step_limit: must be at least 1, the weight of the first step, or 0"):
        TermWeightsConfig(step_limit=0.5)
    with pytest.raises(ValueError, match=r"^step_length: must not be negative, and 0 without a step_limit"):
        TermWeightsConfig(step_length=4)
    with pytest.raises(ValueError, match=r"weights\.step_limit: must be 0 for anchor 'old'"):
        chosen = TermWeightsConfig(step_limit=1.2)
        objective(
            terms={"divergence": divergence("reverse_kl", wiring="joint", estimator="k1", anchor="old", weights=chosen)}
        )
