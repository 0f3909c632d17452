"""Decide which divergence terms have a correct gradient: one table, keyed by route, level, wiring and estimator.

A term is looked up in `FORMS` from top to bottom. The first row that matches either refuses it, with the reason, or is
its form: then the row names the divergences it holds for, and the options that have no meaning there, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Route = Literal["explore", "rehearse"]
Level = Literal["token", "sequence"]
Wiring = Literal["loss", "reward", "joint", "vocabulary"]
Estimator = Literal["k1", "k2", "k3", "straight_through", "ratio_weighted", "naive", "supervised", "exact"]
Key = tuple[Route, Level, Wiring, Estimator]


@dataclass(frozen=True)
class Form:
    """One row. `*` in the pattern matches anything; `a|b` matches a or b."""

    route: str
    level: str
    wiring: str
    estimator: str
    refused: tuple[str, str] = ("", "")
    """Setting to change and the rule it breaks, where the whole row is refused."""
    divergences: tuple[str, ...] = ()
    """The only divergences of this form; empty: every one that has the wiring."""
    why: str = ""
    """Rule that another divergence breaks, for the error message; `{estimator}` and `{name}` are filled in."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Option that must keep its default (see `OPTIONS`) -> the rule."""

    def matches(self, key: Key) -> bool:
        """Return whether the row's pattern matches route, level, wiring and estimator of a term."""
        patterns = (self.route, self.level, self.wiring, self.estimator)
        return all(pattern == "*" or value in pattern.split("|") for pattern, value in zip(patterns, key, strict=True))


OPTIONS: dict[str, object] = {
    "normalised": False,
    "root": False,
    "horizon": "token",
    "reduction": "same",
    "weighting": "separate",
    "reweight": "none",
}
"""Options of a term and their defaults. Besides these a row may refuse `anchor=old`, `anchor=other` (any but the main
reference), `weights` and `weights.entropy_power`."""

_SAME_MEAN = "must be 'separate' on explored answers, which have one mean with the policy gradient"
_NO_GROUP = "must be left at its defaults: rehearsed answers belong to no group"
_NO_ADVANTAGE = "must be 'loss': rehearsed answers have no advantage to subtract from"
_NOT_KEPT = "must be a reference: the distributions of the policy that sampled the answers are not kept"
_TOKEN_ROOT = "must be false at the token level: the root is defined for whole answers"
_TANGENT = "must be false: here it changes nothing, or makes k3 a differentiated k1, which regularises nothing"
_TOKEN_HORIZON = "must be 'token': only the reward wiring subtracts the divergence of later tokens"
_SUMMED = "must be 'same': the term is reduced together with the policy gradient, as objective.reduction says"
_PLAIN_ANCHOR = "must be 'none' on rehearsed answers, whose log-probs are those of the plain reference"
_NO_Z = "must be 'none' at the sequence level: Z over whole answers cannot be computed"
_ENTROPY = "must be 0 in the reward wiring, which is computed before the policy's entropy is known"
_WHOLE_WEIGHTS = "must be left at its defaults at the sequence level"
_WHOLE_REDUCTION = "must be 'same' at the sequence level, where the term is the mean over answers"
_WHOLE_HORIZON = "must be 'token' at the sequence level: every token is charged for its whole answer"

_EXPLORE = {"weighting": _SAME_MEAN, "root": _TOKEN_ROOT}
_EXPLORE_LOSS = {**_EXPLORE, "normalised": _TANGENT, "horizon": _TOKEN_HORIZON}
_SLOPE = {**_EXPLORE, "reduction": _SUMMED}
_REHEARSE = {"root": _TOKEN_ROOT, "horizon": _TOKEN_HORIZON, "normalised": _TANGENT, "weights": _NO_GROUP}
_REHEARSE |= {"reweight": _PLAIN_ANCHOR}
_REHEARSE_LOSS = {
    **_REHEARSE,
    "anchor=other": "must be 'reference' for rehearsed answers, which the reference sampled",
}
_WHOLE = {
    "normalised": "must be false at the sequence level",
    "horizon": _WHOLE_HORIZON,
    "reduction": _WHOLE_REDUCTION,
    "weights": _WHOLE_WEIGHTS,
    "weighting": _SAME_MEAN,
    "reweight": _NO_Z,
}
_SELF = "must be 'joint' or 'loss' for anchor 'old': the slope of the sampling policy against itself is 0"

FORMS: tuple[Form, ...] = (
    # Exact over the vocabulary, on either route.
    Form("*", "sequence", "vocabulary", "*", refused=("level", "must be 'token' in the vocabulary wiring")),
    Form(
        "explore",
        "token",
        "vocabulary",
        "exact",
        options={**_EXPLORE, "normalised": _TANGENT, "horizon": _TOKEN_HORIZON, "anchor=old": _NOT_KEPT},
    ),
    Form("rehearse", "token", "vocabulary", "exact", options={**_REHEARSE, "anchor=old": _NOT_KEPT}),
    Form("*", "*", "vocabulary", "*", refused=("estimator", "must be 'exact' in the vocabulary wiring")),
    Form("*", "*", "*", "exact", refused=("estimator", "must not be 'exact' outside the vocabulary wiring")),
    # Rehearsed answers: stored ones of the reference.
    Form("rehearse", "*", "reward|joint", "*", refused=("wiring", _NO_ADVANTAGE)),
    Form("rehearse", "sequence", "*", "*", refused=("level", "must be 'token' for rehearsed answers")),
    Form("rehearse", "token", "loss", "k1|k3|supervised", options=_REHEARSE_LOSS),
    Form(
        "rehearse",
        "token",
        "loss",
        "k2",
        divergences=("reverse_kl",),
        why="must be k1, k3 or supervised for {name} on rehearsed answers; {estimator} is a regression of their "
        "log-probs and needs no f (name=reverse_kl)",
        options=_REHEARSE_LOSS,
    ),
    Form(
        "rehearse",
        "token",
        "loss",
        "*",
        refused=(
            "estimator",
            "must be k1 (f as it is), k2, k3 (f minus tangent) or supervised on rehearsed answers",
        ),
    ),
    # Explored answers: the policy's own.
    Form(
        "explore",
        "*",
        "*",
        "supervised",
        refused=("estimator", "must not be 'supervised' on explored answers: it treats answers as certain"),
    ),
    Form(
        "explore",
        "*",
        "loss",
        "k1",
        refused=(
            "estimator",
            "a differentiated k1 has no gradient in expectation, so nothing would be regularised; "
            "must be straight_through, k2, k3 or ratio_weighted",
        ),
    ),
    Form(
        "explore",
        "token",
        "loss",
        "ratio_weighted",
        options={name: rule for name, rule in _EXPLORE_LOSS.items() if name != "normalised"},
    ),
    Form("explore", "token", "loss", "straight_through|naive", options=_EXPLORE_LOSS),
    Form(
        "explore",
        "token",
        "loss",
        "k2|k3",
        divergences=("reverse_kl",),
        why="differentiating {estimator} of {name} on explored answers is not its gradient; "
        "must be straight_through or ratio_weighted (or naive, where exactly that is wanted)",
        options=_EXPLORE_LOSS,
    ),
    Form(
        "explore",
        "sequence",
        "loss",
        "k3",
        divergences=("reverse_kl", "chi_squared"),
        why="differentiating {estimator} of {name} between whole answers is not its gradient; use wiring 'reward'",
        options=_WHOLE,
    ),
    Form(
        "explore",
        "sequence",
        "loss|joint",
        "*",
        refused=(
            "wiring",
            "must be 'reward' (exact) or 'loss' with estimator k3 (the value is differentiated) at the sequence level",
        ),
    ),
    Form(
        "explore",
        "token",
        "reward",
        "k1",
        options={**_SLOPE, "weights.entropy_power": _ENTROPY, "anchor=old": _SELF},
    ),
    Form("explore", "token", "joint", "k1", options={**_SLOPE, "horizon": _TOKEN_HORIZON}),
    Form("explore", "sequence", "reward", "k1", options={**_WHOLE, "anchor=old": _SELF}),
    Form(
        "explore",
        "*",
        "reward|joint",
        "*",
        refused=("estimator", "must be k1: these wirings subtract the detached slope of f, which is the k1 estimator"),
    ),
)
"""Every combination of the four settings matches a row; a test checks it."""


def form_of(key: Key) -> Form:
    """Return the first row that matches."""
    return next(form for form in FORMS if form.matches(key))
