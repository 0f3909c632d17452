"""Presets whose reference is averaged, moves with the policy, or is one of two."""

from dataclasses import replace

import pytest
import torch

from objectives.objective import loss
from tests.objectives.divergence_settings import OLD, POLICY, REFERENCE, in_tenths, kl
from tests.objectives.equal_objectives import K2, assert_equal_objectives
from tests.objectives.presets.golden_batch import golden_loss, with_anchors
from tests.objectives.ragged_batch import make_batch, objective, scores
from tests.objectives.random_answers import credited, of

PAPERS = {
    "salsa": "2411.01798",
    "moving_kl": "2404.09656",
    "average_kl": "2003.14089",
    "nash_mp": "2505.19731",
    "mixture_kl": "2404.04291",
}


def test_nash_mp_adds_the_kl_to_the_reference_and_to_the_slow_copy() -> None:
    # k2 to the slow copy: (.5 + .5 + 2 + 0 + 0 + 0) / 6 = .5
    slow = torch.tensor([1.0, -1.0, 2.0, 0.0, 0.0, 0.0])
    expected = 0.221317 + 0.04 * 0.211667 + 0.04 * 0.5
    assert golden_loss(of("nash_mp"), 0.04, with_anchors(slow=slow)) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("preset", "anchor"), [("moving_kl", "moving"), ("average_kl", "average")])
def test_a_kl_to_a_moved_reference_adds_k2_to_it_and_nothing_to_the_base(preset: str, anchor: str) -> None:
    # k2 to the moved reference: (.5 + .5 + 2 + 0 + 0 + 0) / 6 = .5; the base, at another distance, adds nothing
    moved = torch.tensor([1.0, -1.0, 2.0, 0.0, 0.0, 0.0])
    expected = 0.221317 + 0.05 * 0.5
    assert golden_loss(of(preset), 0.05, with_anchors(**{anchor: moved})) == pytest.approx(expected, abs=2e-6)


def test_kl_terms_to_two_anchors_equal_one_kl_to_their_geometric_mixture() -> None:
    # a KL(pi || p1) + b KL(pi || p2) = (a + b) KL(pi || p1^(a/(a+b)) p2^(b/(a+b)) / Z) + constant
    tokens = in_tenths(POLICY)
    batch = make_batch(
        [("explore", 0, 1.0, [token]) for token in tokens],
        logp_sampler=POLICY.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    batch = replace(batch, anchors={"slow": OLD.log()[tokens]})
    cfg = objective(terms={"divergence": K2, **{"slow": replace(K2, anchor="slow")}})
    logits = POLICY.log().requires_grad_()
    coefficients = {"divergence": 0.3, "slow": 0.9}
    value, _ = loss(scores(logits.log_softmax(0)[tokens]), credited(batch, cfg), cfg, coefficients)
    got = torch.autograd.grad(value, logits)[0]
    mixture = (REFERENCE**0.25 * OLD**0.75) / (REFERENCE**0.25 * OLD**0.75).sum()
    whole = POLICY.log().requires_grad_()
    (expected,) = torch.autograd.grad(1.2 * kl(whole.softmax(0), mixture), whole)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("preset", "plain"),
    [
        ("salsa", {}),
        ("moving_kl", {}),
        ("average_kl", {}),
        ("nash_mp", {}),
        ("mixture_kl", {}),
    ],
)
def test_without_its_divergence_a_preset_is_its_policy_gradient(preset: str, plain: dict[str, str]) -> None:
    assert_equal_objectives(of(preset), objective(**plain), coefficient=0.0)
