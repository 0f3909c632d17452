"""Presets whose preference loss weighs the tokens of an answer: MaPO and SparsePO."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from actors.contracts import Column
from objectives.advantage.learned_mask import MaskState, mask_loss, trained
from objectives.advantage.token_mask import activation_mask, mask_metrics
from objectives.coefficient.controllers import ObjectiveState, initial_state, with_mask
from objectives.credit import credit
from objectives.divergence.anchors import logp_before
from objectives.wording import describe_policy_gradient
from orchestrator.references import columns
from tests.objectives.equal_objectives import assert_equal_objectives
from tests.objectives.presets.golden_batch import OLD_LOG_U, SAMPLER, explored_batch
from tests.objectives.presets.tdpo_gradient import assert_gradient_is_that_of_the_loss
from tests.objectives.ragged_batch import make_batch
from tests.objectives.random_answers import batch_for, of
from trajectories.batch import Batch

PAPERS = {"mapo": "2410.05102", "sparse_po": "2410.05102"}

HIDDEN = torch.tensor([[0.0, 2.0], [4.0, 2.0], [9.0, 9.0], [2.0, 2.0], [5.0, 7.0], [8.0, 0.0]])
"""Activations of the tokens of the golden batch: means 1, 3; 9; 2, 6, 4, so masks 0, 1; 1; 0, 1, .5."""
KL = torch.tensor([0.1, 0.2, 0.2, 0.3, 0.0, 0.3])


def test_mapo_weighs_log_ratio_kl_and_gradient_of_each_token_by_its_activation() -> None:
    # Rewards 1, 0, 0; log u (0, 1), (-1), (2, 0, 0), masked sums 1, -1, 0; masked sums of K .2, .2, .15; coefficient 1:
    # scores 1.2, -.8, .15; margins 2, 1.05; .1 sigmoid(-.1 m) = .0450166, .0473774, each of two pairs
    batch = explored_batch(SAMPLER - OLD_LOG_U)
    batch = replace(batch, activation={"reference": HIDDEN.mean(-1)}, distance={"divergence": KL})
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
    found = activation_mask(replace(batch, activation={"slow": states}), "slow")
    # prompt tokens and the answer that has no grade are left out
    assert found.tolist() == [0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0]


def test_the_mask_does_not_change_with_scale_and_shift_so_a_z_score_before_it_is_idle() -> None:
    batch = batch_for(of("mapo"))
    means = batch.activation["reference"]
    scored = replace(batch, activation={"reference": (means - means.mean()) / 3})
    torch.testing.assert_close(activation_mask(scored, "reference"), activation_mask(batch, "reference"))


@pytest.mark.parametrize("trained_on", ["both", "losers"])
def test_the_gradient_is_that_of_the_papers_loss(trained_on: str) -> None:
    cfg = of("mapo", f"objective.pairs.term_on={trained_on}")
    assert_gradient_is_that_of_the_loss(cfg, lambda batch: activation_mask(batch, "reference"))


def test_a_mask_of_ones_is_tdpo_1_and_without_the_term_dpo() -> None:
    batch = batch_for(of("mapo"))
    ones = replace(batch, activation={"reference": torch.ones(len(batch.tokens))})
    assert_equal_objectives(of("mapo"), of("tdpo", "objective.pairs.term_on=both"), batch=ones)
    assert_equal_objectives(of("mapo"), of("dpo"), coefficient=0.0, batch=ones)
    unmasked = of("mapo", "objective.pairs.mask=none")
    assert_equal_objectives(unmasked, of("tdpo", "objective.pairs.term_on=both"), batch=batch)


def test_the_batch_holds_hidden_states_for_the_learned_mask_alone_and_the_term_needs_the_anchors_lm_head() -> None:
    assert (of("mapo").hidden_anchors, of("mapo").head_anchors) == ([], ["reference"])
    assert (of("sparse_po").hidden_anchors, of("sparse_po").head_anchors) == (["reference"], ["reference"])
    slow = of("tr_dpo", "objective.pairs.mask=activations")
    assert (slow.hidden_anchors, slow.head_anchors) == ([], [])
    assert columns(slow) == [Column(term="moving", reference="moving", kind="activation")]
    assert columns(of("sparse_po")) == columns(of("tr_dpo")) == []


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


# SparsePO on the golden batch: w = (.5, 0), b = -.5 gives masks max(0, .5 h_0 - .5): 0, 1.5; 4; .5, 2, 3.5.
LEARNED = MaskState(parameters=(0.5, 0.0, -0.5), first=(0.0,) * 3, second=(0.0,) * 3)


def learned_batch() -> Batch:
    batch = explored_batch(SAMPLER - OLD_LOG_U)
    return replace(batch, hidden={"reference": HIDDEN}, distance={"divergence": KL})


def test_sparse_po_weighs_log_ratio_and_kl_of_each_token_by_a_linear_function_with_a_threshold() -> None:
    # masked sums of log u 1.5, -4, 1; of K .3, .8, .15 + 0 + 1.05 = 1.2: scores 1.8, -3.2, 2.2; margins 5, -.4;
    # .1 sigmoid(-.1 m) = .0377541, .0509999, each of two pairs
    state = ObjectiveState(coefficients={"divergence": 1.0}, mask=LEARNED)
    got = credit(learned_batch(), of("sparse_po"), state)
    assert got.advantage is not None
    first, second = 1.5 * 0.0377541, 1.5 * 0.0509999
    by_token = [0.0, 1.5 * (first + second), -4 * first, -0.5 * second, -2 * second, -3.5 * second]
    assert got.advantage.tolist() == pytest.approx(by_token, abs=1e-6)
    assert mask_metrics(got, of("sparse_po"), LEARNED) == pytest.approx({"mask/mean": 11.5 / 6, "mask/kept": 5 / 6})


def test_the_loss_of_the_mask_is_that_of_the_pairs_and_an_l1_penalty_on_both_answers() -> None:
    # -log sigmoid(.5) = .474077, -log sigmoid(-.04) = .713347; sums of masks 1.5, 4, 6
    cfg = of("sparse_po", "objective.pairs.mask_l1=0.01")
    parameters = torch.tensor(LEARNED.parameters, requires_grad=True)
    value = mask_loss(parameters, learned_batch(), cfg, 1.0)
    assert value.item() == pytest.approx((0.474077 + 0.713347) / 2 + 0.01 * (5.5 + 7.5) / 2, abs=1e-6)
    # slopes of the two pairs -.1 sigmoid(-.1 m) / 2; each token's score log u + K: (.1, 1.2), (-.8), (2.3, 0, .3)
    a, b = 0.0377541 / 2, 0.0509999 / 2
    by_mask = torch.tensor([0.0, -1.2 * (a + b), -0.8 * a, 2.3 * b, 0.0, 0.3 * b])
    by_mask = by_mask + 0.005 * torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 1.0])  # the first token is below the threshold
    (gradient,) = torch.autograd.grad(value, parameters)
    expected = torch.cat([by_mask @ HIDDEN, by_mask.sum()[None]])
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_the_mask_is_trained_by_adam() -> None:
    cfg, state = of("sparse_po", "objective.pairs.mask_learning_rate=0.01"), MaskState()
    leaf = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    optimizer = torch.optim.Adam([leaf], lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        mask_loss(leaf, learned_batch(), cfg, 1.0).backward()
        optimizer.step()
        state = trained(state, learned_batch(), cfg, 1.0)
    assert state.parameters == pytest.approx(leaf.tolist(), abs=1e-6)
    assert state.updates == 5


def test_a_mask_starts_at_1_so_the_first_step_is_tdpo_1() -> None:
    assert_equal_objectives(
        of("sparse_po"), of("tdpo", "objective.pairs.term_on=both"), batch=batch_for(of("sparse_po"))
    )


@pytest.mark.parametrize("preset", ["sparse_po", "spin"])
def test_the_policys_gradient_is_that_of_the_loss_under_the_mask(preset: str) -> None:
    """The slopes of `mask_loss` by log u of each token are minus the advantages over B."""
    cfg = of(preset, "objective.pairs.mask=learned", "objective.pairs.mask_l1=0")
    batch = batch_for(cfg)
    parameters = torch.tensor([0.3, -0.2, 0.1, 0.4, -0.1, 0.2])
    mask = MaskState(tuple(parameters.tolist()), (0.0,) * 6, (0.0,) * 6)
    state = ObjectiveState(coefficients=dict.fromkeys(cfg.terms, 0.7), mask=mask)
    leaf = logp_before(batch).clone().requires_grad_()
    value = mask_loss(parameters, replace(batch, logp_sampler=leaf), cfg, 0.7)
    (gradient,) = torch.autograd.grad(value, leaf)
    advantage = credit(batch, cfg, state).advantage
    assert advantage is not None
    torch.testing.assert_close(-gradient * batch.totals["explore"].trajectories, advantage, rtol=1e-5, atol=1e-7)
    assert 0 < int((advantage == 0).sum()) < len(advantage)


def test_the_mask_changes_only_where_it_is_learned_and_a_group_has_a_pair_and_survives_json() -> None:
    batch = batch_for(of("sparse_po"))
    start = initial_state(of("sparse_po"), 10)
    moved = with_mask(start, of("sparse_po"), batch)
    assert moved.mask.updates == 1 and len(moved.mask.parameters) == 6
    assert ObjectiveState.restored(json.loads(json.dumps(asdict(moved)))) == moved
    alike = replace(batch, reward=torch.where(batch.reward.isnan(), torch.nan, 1.0))
    assert with_mask(moved, of("sparse_po"), alike) == moved
    assert with_mask(start, of("mapo"), batch) == start
    assert with_mask(start, of("dpo"), batch_for(of("dpo"))) == start
