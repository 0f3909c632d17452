"""CAKLD: both KLs to a teacher, weighted by the mean probability that the teacher gives to the tokens."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import advance, initial_state
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.divergence.distributions import vocabulary_values
from objectives.objective import loss
from objectives.wording import describe_coefficient
from tests.objectives.divergence_settings import POLICY, REFERENCE, in_tenths, kl
from tests.objectives.ragged_batch import make_batch, scores
from tests.objectives.random_answers import of
from trajectories.batch import Batch

PAPERS = {"cakld": "2402.10631"}
STORED = (
    "rehearsal.keep=all",
    "rehearsal.explore=fresh",
    *(
        f"objective.terms.{name}.{choice}"
        for name in ("divergence", "forward")
        for choice in ("route=rehearse", "anchor=reference")
    ),
)
"""CAKLD on answers of the teacher, which is the reference."""


def answers(cfg: ObjectiveConfig) -> Batch:
    """Return ten answers of one token, in the proportions of POLICY; the teacher is REFERENCE."""
    route, group = ("rehearse", -1) if cfg.rehearses else ("explore", 0)
    tokens = in_tenths(POLICY)
    logp_teacher = REFERENCE.log()[tokens].float()
    batch = make_batch(
        [(route, group, 1.0, [token]) for token in tokens],
        logp_sampler=POLICY.log()[tokens].float(),
        logp_reference=logp_teacher,
    )
    return replace(batch, anchors={"teacher": logp_teacher})


def gradient(cfg: ObjectiveConfig, gamma: float) -> tuple[Tensor, dict[str, float]]:
    """Return the gradient of the loss by the logits of the policy [3], and the metrics."""
    batch, coefficients = answers(cfg), {"divergence": gamma, "forward": 1 - gamma}
    logits = POLICY.log().requires_grad_()
    rows = logits.expand(len(batch.tokens), -1)
    anchor = REFERENCE.log().expand_as(rows)
    exact = {name: vocabulary_values(term, rows, anchor, batch.tokens) for name, term in cfg.terms.items()}
    read = replace(scores(logits.log_softmax(0)[batch.tokens]), exact=exact)
    value, stats = loss(read, credit(batch, cfg, initial_state(cfg, 10)), cfg, coefficients)
    return torch.autograd.grad(value, logits)[0], means(to_stats(stats))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_gradient_of_cakld_is_that_of_both_kls_and_of_one_alone_at_gamma_0_and_1(gamma: float) -> None:
    logits = POLICY.log().requires_grad_()
    p = logits.softmax(0)
    expected = torch.autograd.grad(gamma * kl(p, REFERENCE) + (1 - gamma) * kl(REFERENCE, p), logits)[0]
    for overrides in ((), STORED):
        torch.testing.assert_close(gradient(of("cakld", *overrides), gamma)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("overrides", [(), STORED])
def test_the_teachers_confidence_is_the_weight_of_the_reverse_kl_in_the_next_step(overrides: tuple[str, ...]) -> None:
    # .7, .2 and .1 of the tokens have the probabilities .5, .3 and .2 under the teacher: .35 + .06 + .02 = .43
    cfg = of("cakld", *overrides)
    measured = gradient(cfg, 0.5)[1]
    assert measured["terms/divergence/confidence"] == pytest.approx(0.43, abs=1e-6)
    assert "terms/forward/confidence" not in measured
    state = initial_state(cfg, 10)
    assert state.coefficients == {"divergence": 0.5, "forward": 0.5}
    state = advance(state, cfg, measured, trajectories=10, step=1, steps=10)
    assert state.coefficients == pytest.approx({"divergence": 0.43, "forward": 0.57}, abs=1e-6)
    for skipped in ({}, {"terms/divergence/confidence": math.nan}):
        assert advance(state, cfg, skipped, trajectories=10, step=2, steps=10).coefficients == state.coefficients


def test_show_config_says_what_the_coefficients_follow() -> None:
    terms = of("cakld").terms
    assert describe_coefficient(terms["divergence"].coefficient, 10) == (
        "0.5 in the first step, then the mean probability that the anchor gave to the term's tokens in the step before"
    )
    assert describe_coefficient(terms["forward"].coefficient, 10) == "1 minus the coefficient of divergence"


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("coefficient.value=1.5", r"coefficient\.value: must be at most 1 for kind confidence, got 1.5"),
        ("route=rehearse", r"coefficient\.kind: must not be 'confidence' on rehearsed answers, whose only stored"),
    ],
)
def test_a_confidence_that_is_no_weight_or_cannot_be_measured_is_refused(setting: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^objective\.terms\.divergence\.{rule}"):
        load(["method=cakld", f"objective.terms.divergence.{setting}"])
