"""Presets whose preference loss weighs the tokens of an answer: MaPO."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from objectives.advantage.token_mask import activation_mask
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.reduce import sum_by_trajectory
from objectives.wording import describe_policy_gradient
from tests.objectives.equal_objectives import assert_equal_objectives, on_policy
from tests.objectives.presets.golden_batch import OLD_LOG_U, SAMPLER, explored_batch
from tests.objectives.ragged_batch import make_batch
from tests.objectives.random_answers import batch_for, credited, of, run, scores_of, weights

PAPERS = {"mapo": "2410.05102"}

HIDDEN = torch.tensor([[0.0, 2.0], [4.0, 2.0], [9.0, 9.0], [2.0, 2.0], [5.0, 7.0], [8.0, 0.0]])
"""Activations of the tokens of the golden batch: means 1, 3; 9; 2, 6, 4, so masks 0, 1; 1; 0, 1, .5."""
KL = torch.tensor([0.1, 0.2, 0.2, 0.3, 0.0, 0.3])


def test_mapo_weighs_log_ratio_kl_and_gradient_of_each_token_by_its_activation() -> None:
    # Rewards 1, 0, 0; log u (0, 1), (-1), (2, 0, 0), masked sums 1, -1, 0; masked sums of K .2, .2, .15; coefficient 1:
    # scores 1.2, -.8, .15; margins 2, 1.05; .1 sigmoid(-.1 m) = .0450166, .0473774, each of two pairs
    batch = explored_batch(SAMPLER - OLD_LOG_U)
    batch = replace(batch, hidden={"reference": HIDDEN}, distance={"divergence": KL})
    got = credit(batch, of("mapo"), ObjectiveState(coefficients={"divergence": 1.0}))
    assert got.advantage is not None
    first, second = 1.5 * 0.0450166, 1.5 * 0.0473774
    expected = [0.0, first + second, -first, 0.0, -second, -second / 2]
    assert got.advantage.tolist() == pytest.approx(expected, abs=1e-6)
    assert got.term_weights["divergence"].tolist() == pytest.approx([-value for value in expected], abs=1e-6)


def test_the_mask_is_that_of_every_answer_alone_and_1_where_its_activations_are_equal() -> None:
    batch = make_batch(
        [
            ("explore", 0, 1.0, [1, 2]),
            ("explore", 0, 0.0, [3, 4, 5]),
            ("explore", 0, None, [6]),
            ("imitate", 0, None, [7, 8]),
        ],
        prompt_length=1,
    )
    states = torch.tensor([9.0, 3.0, 5.0, 9.0, 2.0, 2.0, 2.0, 9.0, 9.0, -9.0, 4.0, 0.0])
    hidden = torch.stack([states + 1, states - 1], 1).to(torch.bfloat16)
    found = activation_mask(replace(batch, hidden={"slow": hidden}), "slow")
    # prompt tokens and the answer that has no grade are left out
    assert found.tolist() == [0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0]


def test_the_mask_does_not_change_with_scale_and_shift_so_a_z_score_before_it_is_idle() -> None:
    batch = batch_for(of("mapo"))
    mean = batch.hidden["reference"].mean()
    scored = replace(batch, hidden={"reference": (batch.hidden["reference"] - mean) / 3})
    torch.testing.assert_close(activation_mask(scored, "reference"), activation_mask(batch, "reference"))


@pytest.mark.parametrize("trained_on", ["both", "losers"])
def test_the_gradient_is_that_of_the_papers_loss(trained_on: str) -> None:
    cfg = of("mapo", f"objective.pairs.term_on={trained_on}")
    policy, alpha = weights(), 0.8
    batch = on_policy(batch_for(cfg))
    explored, mask = batch.on_route("explore"), activation_mask(batch, "reference")

    def by_answer(column: Tensor) -> Tensor:
        return sum_by_trajectory((column * mask)[explored], batch.seq[explored], len(batch.route))

    scored = scores_of(policy, batch, cfg)
    batch = replace(batch, distance={"divergence": scored.exact["divergence"].detach()})
    assert batch.logp_reference is not None
    log_u, kl = by_answer(scored.logp - batch.logp_reference), by_answer(scored.exact["divergence"])
    groups = []
    for members in batch.graded_groups():
        rows = members.nonzero().squeeze(1).tolist()
        found = [
            -torch.nn.functional.logsigmoid(
                cfg.pairs.beta
                * (log_u[w] + alpha * (kl[w] if trained_on == "both" else kl[w].detach()) - log_u[i] - alpha * kl[i])
            )
            for w, i in permutations(rows, 2)
            if batch.reward[w] > batch.reward[i]
        ]
        groups += [torch.stack(found).mean()] if found else []
    (expected,) = torch.autograd.grad(torch.stack(groups).mean(), policy)
    got = run(policy, [credited(batch, cfg, alpha)], cfg, alpha)[1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_a_mask_of_ones_is_tdpo_1_and_without_the_term_dpo() -> None:
    batch = batch_for(of("mapo"))
    ones = replace(batch, hidden={"reference": torch.ones(len(batch.tokens), 5)})
    assert_equal_objectives(of("mapo"), of("tdpo", "objective.pairs.term_on=both"), batch=ones)
    assert_equal_objectives(of("mapo"), of("dpo"), coefficient=0.0, batch=ones)
    unmasked = of("mapo", "objective.pairs.mask=none")
    assert_equal_objectives(unmasked, of("tdpo", "objective.pairs.term_on=both"), batch=batch)


def test_the_hidden_states_of_the_anchor_are_needed_and_its_lm_head_only_for_the_term() -> None:
    assert (of("mapo").hidden_anchors, of("mapo").head_anchors) == (["reference"], ["reference"])
    slow = of("tr_dpo", "objective.pairs.mask=activations")
    assert (slow.hidden_anchors, slow.head_anchors) == (["moving"], [])
    assert of("tr_dpo").hidden_anchors == []


def test_the_mask_is_described() -> None:
    words = describe_policy_gradient(of("mapo"))
    assert "each token weighted from 0 to 1 by the mean final activation of reference within its answer" in words


@pytest.mark.parametrize(
    ("preset", "setting", "message"),
    [
        ("dpo", "lengths=shorter", "lengths: must be 'own' with a mask"),
        ("dpo", "divergence=jensen_shannon", "divergence: must be 'reverse_kl' with a mask"),
        ("kto", "beta=0.2", "mask: must be 'none' for loss=kto"),
    ],
)
def test_what_a_mask_does_not_go_with_is_refused(preset: str, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"objective.pairs.{message}"):
        of(preset, "objective.pairs.mask=activations", f"objective.pairs.{setting}")
