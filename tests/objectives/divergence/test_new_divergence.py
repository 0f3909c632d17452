"""A divergence added at run time by one row and one function has every wiring, with the exact gradient."""

import itertools
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from configs.divergences import DIVERGENCES, Divergence
from configs.forms import Estimator, Wiring
from configs.terms import TermConfig
from objectives.divergence.distributions import vocabulary_values
from objectives.divergence.f_divergences import F_DIVERGENCES, AtRatio
from objectives.wording import describe
from tests.objectives.divergence_settings import COEFFICIENT, EXACT, POLICY, REFERENCE, estimated_gradient

NAME = "le_cam"


def le_cam(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u - 1)^2 / (u + 1), the triangular discrimination; f'(u) = 1 - 4 / (u + 1)^2."""
    above = log_u.expm1()
    fraction = above / (above + 2)  # (u - 1) / (u + 1)
    return AtRatio(log_u=log_u, value=above * fraction, slope=fraction * (2 - fraction), slope_at_one=0.0)


@pytest.fixture(autouse=True)
def added() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DIVERGENCES, NAME, Divergence(slope_at_infinity=lambda alpha: 1.0))
        patch.setitem(F_DIVERGENCES, NAME, le_cam)
        patch.setitem(EXACT, NAME, lambda p, q, a: ((p - q).square() / (p + q)).sum())
        yield


def exact_gradient() -> Tensor:
    logits = POLICY.log().requires_grad_()
    value = EXACT[NAME](logits.softmax(0), REFERENCE, 0.2)
    return torch.autograd.grad(value, logits)[0]


def accepted() -> list[TermConfig]:
    found = []
    choices = ("explore", "rehearse"), get_args(Wiring), get_args(Estimator), (False, True)
    for route, wiring, estimator, normalised in itertools.product(*choices):
        settings: dict[str, Any] = {"route": route, "wiring": wiring, "estimator": estimator, "normalised": normalised}
        try:
            found.append(TermConfig(name=NAME, **settings))
        except ValueError:
            continue
    return found


def test_every_form_that_has_an_exact_gradient_for_others_has_it_for_the_new_divergence() -> None:
    checked = set()
    for cfg in accepted():
        if cfg.wiring == "vocabulary" or cfg.estimator == "naive":
            continue
        got = estimated_gradient(cfg, REFERENCE if cfg.rehearses else POLICY)
        torch.testing.assert_close(got, COEFFICIENT * exact_gradient(), rtol=1e-5, atol=2e-7)
        checked.add((cfg.route, cfg.wiring, cfg.estimator))
    explore = {("loss", "straight_through"), ("loss", "ratio_weighted"), ("reward", "k1"), ("joint", "k1")}
    rehearse = {("loss", "k1"), ("loss", "k3"), ("loss", "supervised")}
    assert checked == {("explore", *form) for form in explore} | {("rehearse", *form) for form in rehearse}


@pytest.mark.parametrize("route", ["explore", "rehearse"])
def test_over_the_vocabulary_it_is_exact(route: str) -> None:
    cfg = TermConfig(name=NAME, route=route, wiring="vocabulary", estimator="exact")  # type: ignore[arg-type]
    logits = POLICY.log().requires_grad_()
    value = vocabulary_values(cfg, logits[None], REFERENCE.log()[None], torch.tensor([0]))
    assert float(value.detach()) == pytest.approx(float(EXACT[NAME](POLICY, REFERENCE, 0.2)))
    torch.testing.assert_close(torch.autograd.grad(value.sum(), logits)[0], exact_gradient())


def test_its_gradient_is_described() -> None:
    for cfg in accepted():
        assert "Le-Cam divergence" in describe(cfg)


def test_without_its_row_it_is_unknown() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(DIVERGENCES, NAME)
        with pytest.raises(ValueError, match=r"^name: must be one of"):
            TermConfig(name=NAME)
