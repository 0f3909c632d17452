"""What an objective does, in words: the gradient each of its terms really has."""

import torch

from configs.critic import CriticConfig
from configs.objective import MismatchConfig, ObjectiveConfig
from configs.recap import RecapConfig
from configs.terms import CoefficientConfig, DivergenceConfig
from objectives.divergence.batch_sinkhorn import BLOCK
from objectives.divergence.f_divergences import DIVERGENCES
from objectives.policy_gradient.ratios import bounds

FAMILIES = ("alpha", "tsallis", "generalised_jensen_shannon", "skew_kl", "skew_reverse_kl")
"""Divergences with a parameter."""


def describe(cfg: DivergenceConfig) -> str:
    """In words, the gradient the setting really has, which is not always that of the value it is named after."""
    if not cfg.active:
        return "no divergence: nothing holds the policy near the reference"
    name = _name(cfg)
    if cfg.samples == "rehearsal":
        words = _describe_exact(cfg, name) if cfg.exact else _describe_stored(cfg, name)
        share = "; times stored over explored answers" if cfg.weighting == "by_answer_share" else ""
        return f"on stored reference answers: {words}{share}"
    root = "; the root's slope is that at the batch's mean, biased by about 1 over its answers" if cfg.root else ""
    words = f"{_describe_own(cfg, name)}{root}{_describe_target(cfg)}{_describe_weights(cfg)}"
    return f"on the policy's own answers: {words}"


def _name(cfg: DivergenceConfig) -> str:
    kl = cfg.name.endswith("_kl")
    name = (
        cfg.name.replace("_kl", " KL").replace("_", " ") if kl else f"{cfg.name.replace('_', '-').title()} divergence"
    )
    if cfg.name in FAMILIES:
        name += f" (alpha = {cfg.alpha:g})"
    if cfg.level == "sequence":
        name = f"{'square root of the ' if cfg.root else ''}{name} between whole answers"
    if cfg.reweights:
        return f"{name} to {cfg.anchor}^phi / Z"
    if cfg.anchor == "reference":
        return name
    return f"{name} to {'the policy that gave the answers' if cfg.anchor == 'old' else cfg.anchor}"


def _describe_exact(cfg: DivergenceConfig, name: str) -> str:
    if cfg.name == "wasserstein":
        return _describe_potential(cfg, name)
    told = "over the whole vocabulary at every prefix"
    if cfg.name == "batch_sinkhorn":
        told = f"through the plan between the rows of every {BLOCK} successive tokens of an answer"
    if cfg.name == "mixed_kl":
        told += ", its weight held fixed"
    if cfg.top:
        told = f"with the anchor's {cfg.top} likeliest tokens told apart and all others taken as one"
    return f"exact gradient of the {name}, {told}, prefixes held fixed"


def _describe_potential(cfg: DivergenceConfig, name: str) -> str:
    transport = cfg.transport
    taken = "each token's potential, by the current policy and of mean 0 under it, is taken off its advantage, detached"
    over = f"with the {cfg.top} likeliest tokens of both told apart"
    return (
        f"gradient of the {name} (debiased, epsilon = {transport.epsilon:g}, {transport.neighbours} neighbours, as far "
        f"as {transport.iterations} sweeps of Sinkhorn go), {taken if cfg.potential else over}, prefixes held fixed"
    )


def _describe_stored(cfg: DivergenceConfig, name: str) -> str:
    log_u = torch.tensor(-10.0, dtype=torch.float64)
    pull = float(log_u.exp() * DIVERGENCES[cfg.name](log_u, cfg.alpha).slope)
    lost = f"weight on grad log pi is {pull:.2g} where the policy has all but lost an answer (u = e^-10)"
    if cfg.estimator == "k3":
        return f"exact gradient of the {name}, 0 at every token where policy and reference agree; {lost}"
    if cfg.estimator == "supervised":
        return f"gradient of the {name}, exact in expectation, from f less f'(inf) (u - 1): no token is pushed down"
    likelihood = " (negative log-likelihood, weight -1 everywhere)" if cfg.name == "forward_kl" else ""
    return f"gradient of the {name}, exact in expectation, from f as it is{likelihood}; less its mean, {lost}"


def _describe_own(cfg: DivergenceConfig, name: str) -> str:
    fresh = "for answers of the current policy (stale ones bias it)"
    if cfg.exact or cfg.potential:
        return _describe_exact(cfg, name)
    tangent = "f'(u)" if cfg.normalised else "f'(u) - f'(1)"
    if cfg.wiring == "joint":
        return (
            f"exact gradient of the {name}, also for stale answers; {tangent} by the current policy is taken off each "
            "token's advantage, detached, so that one clip bounds reward and divergence"
        )
    if cfg.wiring == "reward":
        prefixes = "with prefixes held fixed" if cfg.horizon == "token" else "through the prefixes too"
        held = "" if cfg.level == "sequence" else f" {prefixes}"
        later = " (and f(u) / u of all tokens after it)" if cfg.horizon == "to_go" else ""
        return (
            f"exact gradient of the {name}{held}, {fresh}; {tangent}{later} is taken off each token's "
            "advantage, so a clip of the ratio applies to it too"
        )
    if cfg.estimator == "k3" and cfg.name == "chi_squared":
        root = ", over twice the root" if cfg.root else ""
        return (
            f"the value is the {name}; differentiated as it stands, its gradient is half that of chi-squared and that "
            f"of the forward KL(anchor || policy) besides{root}, {fresh}"
        )
    if cfg.estimator == "k3" or (cfg.estimator == "naive" and cfg.name == "reverse_kl"):
        return (
            f"the value is the {name}, the gradient is that of the forward KL(anchor || policy), "
            f"{fresh}: a pull towards what the anchor says, not the mode-seeking one of the value"
        )
    if cfg.estimator == "naive":
        return (
            f"the value is the {name}; differentiated as it stands, without the score, its gradient is not that of the "
            f"divergence, {fresh}"
        )
    if cfg.estimator == "ratio_weighted":
        return (
            f"exact gradient of the {name} with prefixes held fixed, also for stale answers (weighted by pi / pi_old)"
        )
    return f"exact gradient of the {name} with prefixes held fixed, {fresh}"


def _describe_target(cfg: DivergenceConfig) -> str:
    if not cfg.reweights:
        return ""
    earned = "the answer's reward" if cfg.reweight == "reward" else "the share of correct answers in its group"
    return (
        f"; phi = {cfg.reweight_floor:g} + {1 - cfg.reweight_floor:g} x {earned}, so what a token is pulled to is a "
        "mean of these distributions over the answers drawn"
    )


def _describe_weights(cfg: DivergenceConfig) -> str:
    temperature = cfg.weights.certainty_temperature
    certainty = cfg.weights.certainty + (f" at temperature {temperature:g}" if temperature else "")
    length = cfg.weights.step_length
    steps = f"turns, or {length} tokens of a single one" if length else "turns"
    chosen = {
        "by difficulty of the prompt (DADS)": cfg.weights.difficulty,
        f"on {cfg.weights.only.replace('_', ' ')} alone": cfg.weights.only != "all",
        "each answer as long as its group's shortest (SamPO)": cfg.weights.length_debias,
        f"on the {cfg.weights.keep:g} of an answer's tokens that count most by {cfg.weights.importance} (TIP)": (
            cfg.weights.importance != "none"
        ),
        f"by {steps}, the less the farther off the anchor, at most {cfg.weights.step_limit:g} (SOD)": (
            cfg.weights.step_limit > 0
        ),
        f"by the policy's entropy to the power {cfg.weights.entropy_power:g}": cfg.weights.entropy_power > 0,
        f"by the anchor's certainty ({certainty}) to the power {cfg.weights.certainty_power:g}": (
            cfg.weights.certainty_power > 0
        ),
    }
    words = ", ".join(text for text, on in chosen.items() if on)
    mean = ", in a mean over the tokens kept" if cfg.weights.masks else ""
    return f"; tokens weighted: {words}{mean}" if words else ""


def describe_no_terms(cfg: ObjectiveConfig) -> str:
    """What holds the policy where no divergence term does."""
    if cfg.advantage != "target":
        return describe(cfg.divergence)
    target = "tilted by the reward" if cfg.target.kind == "tilt" else "kept to what has full reward"
    name = _name(DivergenceConfig(name=cfg.target.divergence, estimator="straight_through"))
    return f"no term of its own: the advantage has the gradient of the {name} to the reference {target}"


def describe_policy_gradient(cfg: ObjectiveConfig) -> str:
    """The ratio, its bound and the gates, in words."""
    unrewarded = " (rewards are not learned from, divergence terms are)" if cfg.advantage == "none" else ""
    seen = _critic(cfg.critic) if cfg.advantage == "critic" else ""
    words = [f"advantage {cfg.advantage}{unrewarded}{seen}", _ratio(cfg)]
    if cfg.mismatch.active:
        words.append(_mismatch(cfg.mismatch))
    gates = cfg.gates
    words += ["conflict tokens doubled in winners, silent in losers"] if gates.conflict_tokens else []
    words += [f"{gates.entropy_penalty:g} x entropy off the advantage"] if gates.entropy_penalty else []
    words += [f"answers above {gates.entropy_limit:g} nats left out"] if gates.entropy_limit else []
    words += ["long failures weigh more"] if gates.long_failures > 1 else []
    words += [f"entropy bonus {cfg.entropy_bonus:g}"] if cfg.entropy_bonus else []
    words += [f"times {_recap(cfg.recap, 'its domain')}"] if cfg.recap.window else []
    return "; ".join(words)


def describe_replay(cfg: ObjectiveConfig) -> str:
    """The loss of replayed answers, in words."""
    recap = f", times {_recap(cfg.recap, 'the replay loss')}" if cfg.recap.window else ""
    return f"negative log-likelihood of right answers, mean over their own tokens, times {cfg.replay_weight:g}{recap}"


def _recap(cfg: RecapConfig, of: str) -> str:
    return f"RECAP's weight of {of} (windows of {cfg.window} steps, T = {cfg.temperature:g}, {cfg.orientation})"


def _critic(cfg: CriticConfig) -> str:
    knows = (
        "read at an answer's end: what it knows of the reward is no longer learned from"
        if cfg.reads == "answer"
        else "read at the prompt's end: a baseline that leaves the gradient as it is"
    )
    return f" ({cfg.heads} value head{'s' * (cfg.heads > 1)} {knows})"


def _mismatch(cfg: MismatchConfig) -> str:
    chosen = {
        cfg.kind: cfg.kind != "none",
        f"answers with a token below {cfg.veto:g} left out": cfg.veto > 0,
        f"failed answers {cfg.off_policy:g} nats off the policy left out": cfg.off_policy > 0,
    }
    return f"sampler mismatch: {', '.join(text for text, on in chosen.items() if on)}"


def _ratio(cfg: ObjectiveConfig) -> str:
    if cfg.ratio == "none":
        return "no ratio: plain policy gradient"
    ratio = f"policy / {cfg.old_policy}, per {cfg.ratio}"
    if cfg.clip.kind == "none":
        return f"{ratio}, not clipped"
    low, high = bounds(cfg.clip)
    if cfg.clip.kind == "cispo":
        return f"{ratio}, cut to [{low:g}, {high:g}] and detached: it weighs log pi, and every token keeps its gradient"
    dual = f", dual clip at {cfg.clip.dual:g}" if cfg.clip.dual else ""
    return f"{ratio}, clipped to [{low:.6g}, {high:.6g}]{dual}"


def describe_coefficient(cfg: CoefficientConfig, steps: int) -> str:
    """How the weight of a term moves, in words."""
    if cfg.kind == "constant":
        return f"{cfg.value:g}, constant"
    if cfg.kind == "adaptive":
        return (
            f"{cfg.value:g} at first, then towards {cfg.target:g} nats per trajectory over {cfg.horizon:,} trajectories"
        )
    if cfg.kind == "share":
        return (
            f"{cfg.value:g} at first, 0.1 more whenever the term's mean over {cfg.over} steps has risen by 0.1 nats, "
            "to at most 1"
        )
    if cfg.kind == "rest":
        return f"1 less the coefficient of {cfg.of}"
    if cfg.kind == "safe":
        return f"SAFE: {cfg.value:g} x the smoothed KL above a threshold that reward velocity and phase move"
    return f"from {cfg.value:g} to {cfg.final:g} over {cfg.over or steps} steps, {cfg.kind}"
