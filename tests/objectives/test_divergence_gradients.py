"""Each estimator's gradient, through `credit` and `loss`, against the gradient of the exact expectation.

One-token answers over three tokens, dealt out in tenths, make a batch whose mean is an exact expectation.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from divergence_settings import NAMES, POLICY, REFERENCE, label, settings
from ragged_batch import divergence, make_batch, objective
from torch import Tensor

from configs.objective_schema import DivergenceConfig
from objectives.controllers import ObjectiveState
from objectives.divergences import DIVERGENCES
from objectives.objective import credit, loss

OLD = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
COEFFICIENT = 0.5
ALPHA = 0.2


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reverse_kl": kl,
    "forward_kl": lambda p, q: kl(q, p),
    "jensen_shannon": jensen_shannon,
    "alpha": lambda p, q: (1 - (p ** (1 - ALPHA) * q**ALPHA).sum()) / (ALPHA * (1 - ALPHA)),
}
"""Over the whole vocabulary, written independently of f."""


def exact_gradient(name: str, policy: Tensor = POLICY) -> Tensor:
    logits = policy.log().requires_grad_()
    return torch.autograd.grad(EXACT[name](logits.softmax(0), REFERENCE), logits)[0]


def estimated_gradient(cfg: DivergenceConfig, drawn_from: Tensor, policy: Tensor = POLICY) -> Tensor:
    """Gradient by the logits of the loss of ten answers, drawn in proportion to `drawn_from`, all of one reward."""
    tokens = [token for token, share in enumerate(drawn_from.tolist()) for _ in range(round(10 * share))]
    route, group = ("rehearse", -1) if cfg.rehearses else ("explore", 0)
    batch = make_batch(
        [(route, group, None if cfg.rehearses else 1.0, [token]) for token in tokens],
        logp_sampler=drawn_from.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    whole = objective(divergence=cfg)
    logits = policy.log().requires_grad_()
    batch = credit(batch, whole, ObjectiveState(coefficient=COEFFICIENT))
    value, _ = loss(logits.log_softmax(0)[batch.tokens], batch, whole, COEFFICIENT)
    return torch.autograd.grad(value, logits)[0]


def test_every_divergence_has_an_exact_form_to_be_checked_against() -> None:
    assert set(EXACT) == set(NAMES)


def test_the_gradient_of_the_reverse_kl_is_that_of_the_test_vector() -> None:
    assert exact_gradient("reverse_kl").tolist() == pytest.approx([0.17594, -0.09812, -0.07783], abs=1e-5)


@pytest.mark.parametrize("cfg", [cfg for cfg in settings() if cfg.estimator != "k3" or cfg.rehearses], ids=label)
def test_every_estimator_but_k3_on_policy_has_the_exact_gradient(cfg: DivergenceConfig) -> None:
    drawn_from = REFERENCE if cfg.rehearses else POLICY
    got = estimated_gradient(cfg, drawn_from)
    torch.testing.assert_close(got, COEFFICIENT * exact_gradient(cfg.name), rtol=1e-5, atol=1e-7)


def test_k3_differentiated_on_policy_has_the_gradient_of_the_forward_kl() -> None:
    got = estimated_gradient(divergence("reverse_kl", estimator="k3"), POLICY) / COEFFICIENT
    assert got.tolist() == pytest.approx([0.2, -0.1, -0.1])
    torch.testing.assert_close(got, exact_gradient("forward_kl"))


@pytest.mark.parametrize("name", NAMES)
def test_the_ratio_weighted_estimator_is_exact_on_answers_of_an_older_policy(name: str) -> None:
    got = estimated_gradient(divergence(name, estimator="ratio_weighted"), OLD)
    torch.testing.assert_close(got, COEFFICIENT * exact_gradient(name), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_straight_through_estimator_is_biased_on_answers_of_an_older_policy(name: str) -> None:
    got = estimated_gradient(divergence(name, estimator="straight_through"), OLD)
    assert (got - COEFFICIENT * exact_gradient(name)).abs().max() > 0.01


def test_a_differentiated_k1_is_refused_because_it_regularises_nothing() -> None:
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(0)
    expectation = (POLICY * (logp - REFERENCE.log())).sum()
    assert torch.autograd.grad(expectation, logits)[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    with pytest.raises(ValueError, match="k1"):
        divergence("reverse_kl", estimator="k1")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse_kl"])
def test_differentiating_k3_of_another_divergence_is_refused_because_it_misses_the_score(name: str) -> None:
    with pytest.raises(ValueError, match="not the gradient"):
        divergence(name, estimator="k3")
    logits = POLICY.log().requires_grad_()
    at = DIVERGENCES[name](logits.log_softmax(0) - REFERENCE.log(), ALPHA)
    naive = torch.autograd.grad((POLICY * at.above_tangent / at.log_u.exp()).sum(), logits)[0]
    exact = exact_gradient(name)
    assert (naive - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("cfg", settings(), ids=label)
def test_where_policy_and_reference_agree_nothing_is_pulled(cfg: DivergenceConfig) -> None:
    gradient = estimated_gradient(cfg, REFERENCE, policy=REFERENCE)
    assert gradient.tolist() == pytest.approx([0, 0, 0], abs=1e-7)


@pytest.mark.parametrize(
    "cfg",
    [cfg for cfg in settings() if cfg.wiring == "reward" or cfg.estimator != "k1"],
    ids=label,
)
def test_tangent_forms_are_zero_token_by_token_where_policy_and_reference_agree(cfg: DivergenceConfig) -> None:
    route, group = ("rehearse", -1) if cfg.rehearses else ("explore", 0)
    logp = torch.tensor([-0.2, -4.0, -0.7])
    batch = make_batch([(route, group, None if cfg.rehearses else 1.0, [1, 2, 3])], logp_sampler=logp)
    batch = replace(batch, logp_reference=logp)
    whole = objective(divergence=cfg)
    batch = credit(batch, whole, ObjectiveState(coefficient=1.0))
    leaf = logp.clone().requires_grad_()
    value, stats = loss(leaf, batch, whole, 1.0)
    assert value.item() == 0
    assert torch.autograd.grad(value, leaf)[0].tolist() == [0.0, 0.0, 0.0]
    assert stats["divergence"].tolist() == [0.0, 3.0]


def test_the_reported_divergence_is_the_value_under_the_policy() -> None:
    tokens = [0] * 7 + [1] * 2 + [2]
    for name in NAMES:
        cfg = objective(divergence=divergence(name, estimator="straight_through"))
        batch = make_batch(
            [("explore", 0, 1.0, [token]) for token in tokens],
            logp_sampler=POLICY.log()[tokens],
            logp_reference=REFERENCE.log()[tokens],
        )
        batch = credit(batch, cfg, ObjectiveState(coefficient=1.0))
        _, stats = loss(POLICY.log()[batch.tokens], batch, cfg, 1.0)
        value, weight = stats["divergence"].tolist()
        assert weight == 10
        assert math.isclose(value / weight, float(EXACT[name](POLICY, REFERENCE)), rel_tol=1e-5)
