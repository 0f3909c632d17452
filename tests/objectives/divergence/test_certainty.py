"""Token weights by the certainty of the anchor's next-token distribution, to a power (prioritised KL)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from configs.term_weights import TermWeightsConfig
from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.distributions import certainty
from objectives.divergence.token_weights import certainty_weights
from objectives.objective import loss
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, scores, state_of
from trajectories.batch import Batch

BETA = 0.5
SHARP = [0.99] + [0.01 / 19] * 19
CRITICAL = [0.5, 0.4] + [0.1 / 18] * 18
"""Two next-token distributions over 20 tokens: one almost certain, one with two likely tokens."""


def certainty_of(probabilities: list[float], kind: str = "negentropy") -> Tensor:
    return certainty(torch.tensor([probabilities]).log(), kind)


@pytest.mark.parametrize(
    ("probabilities", "kind", "expected"),
    [
        # H = -0.99 log 0.99 - 0.01 log(0.01 / 19) = 0.08545;  1 - 0.08545 / log 20
        (SHARP, "negentropy", 0.97148),
        # H = -0.5 log 0.5 - 0.4 log 0.4 + 0.1 log 180 = 1.23238;  1 - 1.23238 / log 20
        (CRITICAL, "negentropy", 0.58862),
        (SHARP, "negentropy_max", 0.99665),  # 1 + log 0.99 / log 20
        (CRITICAL, "negentropy_max", 0.76862),  # 1 + log 0.5 / log 20
        (SHARP, "max_prob", 0.99),
        (CRITICAL, "max_prob", 0.5),
    ],
)
def test_certainty_has_the_numbers_computed_by_hand(probabilities: list[float], kind: str, expected: float) -> None:
    assert certainty_of(probabilities, kind).tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "power", "weight"),
    [(SHARP, 10, 0.7487), (SHARP, 150, 0.0130), (CRITICAL, 10, 0.00499), (CRITICAL, 150, 0.0)],
)
def test_a_large_power_has_weight_only_where_the_reference_is_certain(
    probabilities: list[float], power: float, weight: float
) -> None:
    found = certainty_weights(certainty_of(probabilities), power)
    assert found.tolist() == pytest.approx([weight], abs=5e-5)


@pytest.mark.parametrize("kind", ["negentropy", "negentropy_max", "max_prob"])
def test_the_certainty_is_1_for_a_one_hot_distribution_and_least_for_a_uniform_one(kind: str) -> None:
    one_hot = torch.tensor([[500.0, 0, 0, 0]])
    assert certainty(one_hot, kind).tolist() == [1.0]
    lowest = 0.25 if kind == "max_prob" else 0.0
    assert certainty(torch.zeros(1, 4), kind).tolist() == pytest.approx([lowest], abs=1e-6)
    assert all(float(certainty(torch.zeros(1, size), kind)) >= 0 for size in range(2, 200)), (
        "rounding never makes it negative"
    )


def test_the_weight_falls_with_the_power_and_stays_1_at_certainty_1() -> None:
    found = certainty(torch.randn(50, 20, generator=torch.Generator().manual_seed(0)) * 5, "negentropy")
    previous = certainty_weights(found, 0.0)
    assert torch.equal(previous, torch.ones(50))
    for power in (0.5, 1, 10, 150, 1000):
        weight = certainty_weights(found, power)
        assert bool((weight <= previous).all()) and bool((weight >= 0).all())
        previous = weight
    assert certainty_weights(torch.ones(1), 10_000.0).tolist() == [1.0]


# Through the objective.

LOGP = torch.tensor([-1.0, -2.0, -0.5, -3.0])
LOG_U = torch.tensor([0.3, -0.2, 0.6, 0.1])
CERTAINTY = torch.tensor([1.0, 0.999, 0.97, 0.0])


def whole(term: TermConfig) -> ObjectiveConfig:
    return objective(terms={"divergence": term}, advantage="mean_only", clip=ClipConfig(kind="none"))


def batch_of(certainty_of_tokens: Tensor = CERTAINTY) -> Batch:
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2, 3]), ("explore", 0, 0.0, [4])], logp_sampler=LOGP, logp_reference=LOGP - LOG_U
    )
    return replace(batch, certainty={"divergence": certainty_of_tokens})


def gradient(term: TermConfig, coefficient: float = BETA) -> Tensor:
    """Return the gradient by the log-probs, or by the exact values of the term, of the four tokens."""
    credited_batch = credit(batch_of(), whole(term), state_of(coefficient))
    leaf = LOGP.clone().requires_grad_()
    exact = {"divergence": leaf} if term.exact else {}
    value, _ = loss(replace(scores(leaf), exact=exact), credited_batch, whole(term), {"divergence": coefficient})
    return torch.autograd.grad(value, leaf)[0]


WIRINGS = (
    {"estimator": "k2"},
    {"estimator": "straight_through"},
    {"wiring": "reward", "estimator": "k1"},
    {"wiring": "joint", "estimator": "k1"},
)


@pytest.mark.parametrize("choices", WIRINGS)
def test_certainty_multiplies_the_term_in_every_wiring_and_not_the_policy_gradient(choices: dict[str, str]) -> None:
    term = divergence("reverse_kl", weights=TermWeightsConfig(certainty_power=150.0), **choices)
    # On policy every wiring of the reverse KL has the gradient log u per token; 0.999^150 = 0.86064, 0.97^150 = 0.01037
    expected = torch.tensor([1.0, 0.86064, 0.01037, 0.0]) * LOG_U / 4
    torch.testing.assert_close(gradient(term) - gradient(term, 0.0), BETA * expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradient(term, 0.0), gradient(divergence("reverse_kl", **choices), 0.0))


def test_certainty_multiplies_an_exact_divergence() -> None:
    term = divergence(
        "reverse_kl", wiring="vocabulary", estimator="exact", weights=TermWeightsConfig(certainty_power=2.0)
    )
    torch.testing.assert_close(gradient(term) - gradient(term, 0.0), BETA * CERTAINTY**2 / 4)


@pytest.mark.parametrize("choices", WIRINGS)
def test_a_power_of_0_is_the_unweighted_kl_bit_for_bit(choices: dict[str, str]) -> None:
    off = divergence("reverse_kl", weights=TermWeightsConfig(certainty_power=0.0), **choices)
    assert torch.equal(gradient(off), gradient(divergence("reverse_kl", **choices)))


def test_the_weights_have_no_gradient() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    assert not certainty(logits, "negentropy").requires_grad
    leaf_certainty = CERTAINTY.clone().requires_grad_()
    cfg = whole(divergence("reverse_kl", estimator="k2", weights=TermWeightsConfig(certainty_power=3.0)))
    leaf = LOGP.clone().requires_grad_()
    value, _ = loss_of(leaf, credit(batch_of(leaf_certainty), cfg, state_of(BETA)), cfg, BETA)
    assert torch.autograd.grad(value, [leaf, leaf_certainty], allow_unused=True)[1] is None


def test_certainty_multiplies_with_the_other_weights() -> None:
    both = TermWeightsConfig(certainty_power=1.0, only="failed_answers")
    cfg = whole(divergence("reverse_kl", estimator="k2", weights=both))
    batch = credit(batch_of(torch.tensor([0.9, 0.8, 0.7, 0.6])), cfg, state_of(BETA))
    assert batch.term_weights["divergence"].tolist() == pytest.approx([0, 0, 0, 4 * 0.6])


def test_the_mean_weight_is_reported_where_weights_are_set() -> None:
    cfg = whole(divergence("reverse_kl", estimator="k2", weights=TermWeightsConfig(certainty_power=1.0)))
    _, stats = loss_of(LOGP, credit(batch_of(), cfg, state_of(BETA)), cfg, BETA)
    assert stats["terms/divergence/weight"].tolist() == pytest.approx([2.969, 4])
    plain = whole(divergence("reverse_kl", estimator="k2"))
    assert "divergence_weight" not in loss_of(LOGP, credit(batch_of(), plain, state_of(BETA)), plain, BETA)[1]


def test_a_missing_certainty_is_refused() -> None:
    cfg = whole(divergence("reverse_kl", estimator="k2", weights=TermWeightsConfig(certainty_power=1.0)))
    with pytest.raises(AssertionError, match="the batch has none"):
        credit(replace(batch_of(), certainty={}), cfg, state_of(BETA))


@pytest.mark.parametrize("name", ["certainty_power", "certainty_temperature"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: must not be negative, got -1"):
        TermWeightsConfig(**{name: -1.0})


def test_certainty_is_refused_for_the_old_policy_and_on_rehearsed_answers() -> None:
    chosen = TermWeightsConfig(certainty_power=1.0)
    with pytest.raises(ValueError, match=r"^anchor: .* certainty_power needs"):
        divergence("reverse_kl", estimator="k2", anchor="old", weights=chosen)
    with pytest.raises(ValueError, match=r"^weights: "):
        divergence("forward_kl", route="rehearse", weights=chosen)
