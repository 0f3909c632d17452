"""GRPO with negative log-likelihood on rehearsed answers: the control of DPH-F."""

from dataclasses import replace

import pytest
import torch

from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.equal_objectives import assert_equal_objectives
from tests.objectives.presets.golden_batch import LOGP, U, golden_batch, preset_loss
from tests.objectives.ragged_batch import scores
from tests.objectives.random_answers import credited, of, random_batch, run, scores_of, weights

PAPERS = {"grpo_nll": "2509.07430"}


def test_grpo_nll_adds_minus_log_u_on_rehearsed_tokens() -> None:
    # DPH's policy gradient .109697; -ln 2, ln 2 and 0 have the mean 0, which k3 would raise to 1/6
    assert preset_loss("grpo_nll", rehearsed=True) == pytest.approx(0.109697, abs=2e-6)
    # with log-probs of -.1, -.2 and -.6 under the policy and -5 under the reference: .3 - 5
    cfg = of("grpo_nll")
    logp = torch.cat([LOGP, torch.tensor([-0.1, -0.2, -0.6])]).requires_grad_()
    state = initial_state(cfg, 100)
    value, _ = loss(scores(logp), credit(golden_batch(rehearsed=True), cfg, state), cfg, state.coefficients)
    assert value.item() == pytest.approx(0.109697 + 0.3 - 5, abs=3e-6)
    (gradient,) = torch.autograd.grad(value, logp)
    assert gradient[-len(U) :].tolist() == pytest.approx([-1 / 3] * 3)


def test_its_gradient_on_stored_answers_is_that_of_negative_log_likelihood_whatever_the_reference_is() -> None:
    cfg = of("grpo_nll")
    batch = random_batch(reference_everywhere=False)
    rehearsed = batch.on_route("rehearse")
    policy = weights()
    logp = scores_of(policy, batch, cfg).logp
    (expected,) = torch.autograd.grad(-logp[rehearsed].mean(), policy)
    gradients = []
    assert batch.logp_reference is not None
    for reference in (batch.logp_reference, batch.logp_reference - 3.0):
        whole = credited(replace(batch, logp_reference=reference), cfg)
        with_term, without = (run(weights(), [whole], cfg, coefficient)[1] for coefficient in (1.0, 0.0))
        gradients.append(with_term - without)
    torch.testing.assert_close(gradients[0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[1], expected, rtol=1e-5, atol=1e-6)


def test_grpo_nll_differs_from_dph_f_in_the_estimator_alone_and_supervised_is_the_same_loss() -> None:
    control, method = of("grpo_nll"), of("dph_f")
    changed = replace(control.terms["divergence"], estimator="k3")
    assert replace(control, terms={"divergence": changed}) == method
    assert_equal_objectives(control, of("grpo_nll", "objective.terms.divergence.estimator=supervised"))
    k1, k3 = (run(weights(), [credited(random_batch(), cfg)], cfg)[1] for cfg in (control, method))
    assert (k1 - k3).abs().max() > 1e-2
