"""SFT by Pearson's chi-squared: negative log-likelihood of right answers, and a square that holds them at the base."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.objective import loss
from objectives.wording import describe
from orchestrator.preflight.gradient import check_gradient
from tests.objectives.presets.golden_batch import preset_loss
from tests.objectives.ragged_batch import make_batch, scores
from tests.objectives.random_answers import credited, of, random_batch, run, weights

PAPERS = {"sft_bridge": "2507.00018"}
BASE = torch.tensor([0.1, 0.5, 0.4], dtype=torch.float64)
RIGHT = 0
"""The only right token."""


def loss_at(policy: Tensor, *overrides: str) -> Tensor:
    """Return the loss of the stored right answer under a policy given by its probabilities [3]."""
    cfg = of("sft_bridge", *overrides)
    batch = make_batch([("rehearse", -1, None, [RIGHT])], logp_reference=BASE.log()[[RIGHT]])
    state = initial_state(cfg, 10)
    return loss(scores(policy.log()[[RIGHT]]), credit(batch, cfg, state), cfg, state.coefficients)[0]


def test_sft_bridge_adds_a_quarter_of_the_square_to_minus_log_u() -> None:
    # log u is ln 2, -ln 2 and 0 on the stored tokens: mean of -log u 0, mean of the squares 2 ln(2)^2 / 3 = .320302
    assert preset_loss("sft_bridge", rehearsed=True) == pytest.approx(0.320302 / 4, abs=2e-6)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_loss_is_minus_phi_of_the_implicit_reward_over_beta(beta: float) -> None:
    setting = f"objective.terms.base.coefficient.value={beta / 2}"
    for p in (0.02, 0.1, 0.3, 0.9):
        reward = beta * math.log(p / 0.1)
        found = loss_at(torch.tensor([p, (1 - p) / 2, (1 - p) / 2], dtype=torch.float64), setting)
        assert found.item() == pytest.approx(-(reward - reward**2 / 4) / beta, abs=1e-6)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_right_token_is_made_more_likely_up_to_e_to_the_2_over_beta_times_its_probability_under_the_base(
    beta: float,
) -> None:
    # .1 e^2 = .738906 and .1 e = .271828; at the base the gradient is that of negative log-likelihood
    end, setting = 0.1 * math.exp(2 / beta), f"objective.terms.base.coefficient.value={beta / 2}"

    def slope(p: float) -> float:
        logits = torch.tensor([p, (1 - p) / 2, (1 - p) / 2], dtype=torch.float64).log().requires_grad_()
        return float(torch.autograd.grad(loss_at(logits.softmax(0), setting), logits)[0][RIGHT])

    assert slope(end) == pytest.approx(0, abs=1e-6)
    assert slope(0.1) == pytest.approx(-(1 - 0.1), abs=1e-6)
    assert slope(end * 0.9) < -1e-3 < 1e-3 < slope(end * 1.1)


def test_without_the_square_it_is_negative_log_likelihood_that_never_stops() -> None:
    alone = of("sft_bridge", "objective.terms.base=null")
    batch = random_batch(reference_everywhere=False)
    found = run(weights(), [credited(batch, alone, 1.0)], alone, 1.0)[1]
    supervised = replace(of("grpo_nll"), advantage="none", clip=alone.clip)
    torch.testing.assert_close(found, run(weights(), [credited(batch, supervised, 1.0)], supervised, 1.0)[1])
    whole = of("sft_bridge")
    assert (run(weights(), [credited(batch, whole, 1.0)], whole, 1.0)[1] - found).abs().max() > 1e-2


def test_show_config_says_that_the_terms_are_supervision_and_a_regression_and_the_run_is_accepted() -> None:
    cfg = load(["method=sft_bridge"])
    check_gradient(cfg)
    right_only = cfg.rehearsal.right_only
    data, base = (describe(cfg.objective.terms[name], right_only=right_only) for name in ("data", "base"))
    assert "negative log-likelihood of right answers" in data and "no divergence" in data
    assert "regression of log-probs" in base and "over right answers of the reference alone" in base
