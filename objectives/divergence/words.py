"""Describe in English the expected gradient of each wiring of a divergence term.

Loads no torch, which takes seconds.
"""

from collections.abc import Callable
from typing import Any

from configs.divergences import DIVERGENCES
from configs.forms import Level, Route
from configs.forms import Wiring as WiringName
from configs.terms import LATER, TermConfig
from configs.transport import BLOCK
from objectives.divergence.f_divergences import F_DIVERGENCES
from objectives.divergence.number import Number

FRESH = "for answers of the current policy (stale ones bias it)"
"""Words of a description: the gradient holds without staleness."""


def describe_wiring(cfg: TermConfig, name: str, *, right_only: bool = False) -> str:
    """Describe the expected gradient of a term; `name` is its divergence in words.

    Args:
        right_only: whether right answers alone are stored.
    """
    if right_only and cfg.rehearses and cfg.wiring == "loss":
        return _right_answers(cfg, name)
    return DESCRIPTIONS[cfg.route, cfg.level, cfg.wiring](cfg, name)


def divergence_name(cfg: TermConfig) -> str:
    """Return the name of a term's divergence, with what it compares."""
    kl = cfg.name.endswith("_kl")
    name = (
        cfg.name.replace("_kl", " KL").replace("_", " ") if kl else f"{cfg.name.replace('_', '-').title()} divergence"
    )
    if DIVERGENCES[cfg.name].alpha:
        name += f" (alpha = {cfg.alpha:g})"
    if cfg.level == "sequence":
        name = f"{'square root of the ' if cfg.root else ''}{name} between whole answers"
    if cfg.reweights:
        return f"{name} to {cfg.anchor}^phi / Z"
    if cfg.anchor == "reference":
        return name
    return f"{name} to {'the policy that sampled the answers' if cfg.anchor == 'old' else cfg.anchor}"


def _tangent(cfg: TermConfig) -> str:
    """Return the formula of the slope that is subtracted from the advantage."""
    return "f'(u)" if cfg.normalised else "f'(u) - f'(1)"


def _explore_loss(cfg: TermConfig, name: str) -> str:
    if cfg.estimator == "k3" or (cfg.estimator == "naive" and cfg.name == "reverse_kl"):
        return (
            f"the value is the {name}, the gradient is that of the forward KL(anchor || policy), "
            f"{FRESH}: a mass-covering pull towards the anchor, not the mode-seeking one of the value"
        )
    if cfg.estimator == "naive":
        return (
            f"the value is the {name}; differentiated directly, without the score, its gradient is not that of the "
            f"divergence, {FRESH}"
        )
    if cfg.estimator == "ratio_weighted":
        return (
            f"exact gradient of the {name} with prefixes held fixed, also for stale answers (weighted by pi / pi_old)"
        )
    return f"exact gradient of the {name} with prefixes held fixed, {FRESH}"


def _reward(cfg: TermConfig, name: str) -> str:
    if cfg.horizon in LATER:
        return _later(cfg, name)
    prefixes = "with prefixes held fixed" if cfg.horizon == "token" else "through the prefixes too"
    later = " (and f(u) / u of all later tokens)" if cfg.horizon == "to_go" else ""
    return (
        f"exact gradient of the {name} {prefixes}, {FRESH}; {_tangent(cfg)}{later} is subtracted from each "
        "token's advantage, so a clip of the ratio applies to it too"
    )


def _later(cfg: TermConfig, name: str) -> str:
    """Describe a penalty of later tokens alone."""
    clipped = "is subtracted from each token's advantage, so a clip of the ratio applies to it too"
    part = f"the part of the gradient of the {name} that goes through the prefixes"
    if cfg.horizon == "later":
        return f"{part}, exact {FRESH}; f(u) / u of all later tokens {clipped}"
    return (
        f"{part}, of which each token's share is divided by the number of later tokens, {FRESH}: it is the gradient of "
        f"no divergence; the mean of f(u) / u over the later tokens {clipped}"
    )


def _joint(cfg: TermConfig, name: str) -> str:
    if cfg.potential:
        return _transport(cfg, name)
    return (
        f"exact gradient of the {name}, also for stale answers; {_tangent(cfg)} under the current policy is "
        "subtracted from each token's advantage, detached, so that one clip bounds reward and divergence"
    )


def _transport(cfg: TermConfig, name: str) -> str:
    """Describe the gradient of wasserstein, which has the joint and the vocabulary wiring."""
    transport = cfg.transport
    charged = (
        "the potential of each token under the current policy, of mean 0, is subtracted from its advantage, detached"
    )
    summed = f"with the {cfg.top} most likely tokens of both kept apart"
    return (
        f"gradient of the {name} (debiased, epsilon = {transport.epsilon:g}, {transport.neighbours} neighbours, up to "
        f"the convergence of {transport.iterations} Sinkhorn sweeps), {charged if cfg.potential else summed}, prefixes "
        "held fixed"
    )


def _vocabulary(cfg: TermConfig, name: str) -> str:
    if cfg.name == "wasserstein":
        return _transport(cfg, name)
    summed = "over the whole vocabulary at every prefix"
    if cfg.name == "batch_sinkhorn":
        summed = f"through the transport plan between the rows of every {BLOCK} successive tokens of an answer"
    if cfg.name == "mixed_kl":
        summed += ", its weight held fixed"
    if cfg.name == "plackett_luce" and cfg.rehearses:
        return f"gradient of the {name} of a ranking that begins with the answer's own token, prefixes held fixed"
    if cfg.top:
        summed = f"with the anchor's {cfg.top} most likely tokens kept apart and all others summed into one"
    return f"exact gradient of the {name}, {summed}, prefixes held fixed"


def _root(cfg: TermConfig) -> str:
    return "; the root's slope is that at the batch's mean, biased by about 1 over its answers" if cfg.root else ""


def _whole_answer_reward(cfg: TermConfig, name: str) -> str:
    return (
        f"exact gradient of the {name}, {FRESH}; {_tangent(cfg)} is subtracted from each token's advantage, so a "
        f"clip of the ratio applies to it too{_root(cfg)}"
    )


def _whole_answer_loss(cfg: TermConfig, name: str) -> str:
    if cfg.name == "reverse_kl":
        gradient = f"the value is the {name}, the gradient is that of the forward KL(anchor || policy), {FRESH}"
        return f"{gradient}: a mass-covering pull towards the anchor, not the mode-seeking one of the value"
    root = ", over twice the root" if cfg.root else ""
    return (
        f"the value is the {name}; differentiated directly, its gradient is half that of chi-squared plus that of "
        f"the forward KL(anchor || policy){root}, {FRESH}{_root(cfg)}"
    )


def _lost(cfg: TermConfig) -> str:
    """Describe the weight of a stored token that the policy has all but lost."""
    log_u: Any = Number(-10.0)  # in the place of a tensor
    pull = float(log_u.exp() * F_DIVERGENCES[cfg.name](log_u, cfg.alpha).slope)
    return f"weight on grad log pi is {pull:.2g} where the policy has all but lost an answer (u = e^-10)"


def _regression(answers: str) -> str:
    """Describe k2 on stored answers, which `answers` names."""
    return (
        f"regression of log-probs: the value is (log u)^2 / 2 and the gradient its own, the mean of log u grad log pi "
        f"over {answers}, 0 at every token where policy and reference agree; near the reference about that of the "
        "reverse KL, far away that of no divergence; weight on grad log pi is -10 where the policy has all but lost an "
        "answer (u = e^-10)"
    )


def _rehearse(cfg: TermConfig, name: str) -> str:
    if cfg.estimator == "k2":
        return _regression("the reference's answers")
    if cfg.estimator == "k3":
        return f"exact gradient of the {name}, 0 at every token where policy and reference agree; {_lost(cfg)}"
    if cfg.estimator == "supervised":
        return f"gradient of the {name}, exact in expectation, from f minus f'(inf) (u - 1): no token is pushed down"
    likelihood = " (negative log-likelihood, weight -1 everywhere)" if cfg.name == "forward_kl" else ""
    return f"gradient of the {name}, exact in expectation, from f as it is{likelihood}; minus its mean, {_lost(cfg)}"


def _right_answers(cfg: TermConfig, name: str) -> str:
    if cfg.estimator == "k2":
        return _regression("right answers of the reference alone")
    if cfg.name == "forward_kl" and cfg.estimator in ("k1", "supervised"):
        return (
            "gradient of the negative log-likelihood of right answers (weight -1 everywhere): rejection-sampling "
            "fine-tuning, and no divergence"
        )
    filtered = f"not the gradient of the {name}, which needs wrong answers too (rehearsal.keep=all)"
    of = f"mean over right answers of the reference alone, so {filtered}"
    if cfg.estimator == "k3":
        return (
            f"{of}: 0 at every token where policy and reference agree, and a right answer that has become more likely "
            f"than under the reference is pushed down to it; {_lost(cfg)}"
        )
    if cfg.estimator == "supervised":
        return f"{of}, from f minus f'(inf) (u - 1): no token is pushed down"
    return f"{of}, from f as it is; {_lost(cfg)}"


DESCRIPTIONS: dict[tuple[Route, Level, WiringName], Callable[[TermConfig, str], str]] = {
    ("explore", "token", "loss"): _explore_loss,
    ("explore", "token", "reward"): _reward,
    ("explore", "token", "joint"): _joint,
    ("explore", "token", "vocabulary"): _vocabulary,
    ("explore", "sequence", "loss"): _whole_answer_loss,
    ("explore", "sequence", "reward"): _whole_answer_reward,
    ("rehearse", "token", "loss"): _rehearse,
    ("rehearse", "token", "vocabulary"): _vocabulary,
}
"""The description of each wiring of `wirings.py`."""
