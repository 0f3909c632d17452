"""Describe in English the expected gradient of each divergence term and the other slots, for `show-config`.

Loads no torch, which takes seconds.
"""

from configs.coefficient import CoefficientConfig
from configs.objective import ObjectiveConfig
from configs.policy_gradient import CovarianceConfig, MismatchConfig
from configs.recap import RecapConfig
from configs.sampling import SamplingConfig
from configs.term_weights import BY_REWARD
from configs.terms import TermConfig
from objectives.advantage.words import describe_advantage
from objectives.divergence.words import describe_wiring, divergence_name
from objectives.policy_gradient.clip_range import bounds


def describe(cfg: TermConfig, *, right_only: bool = False, in_pairs: str = "", informed: bool = False) -> str:
    """Describe the gradient that a divergence term has, which is not always that of the value it is named after.

    Args:
        right_only: whether the stored answers are right ones alone, and not all samples of the reference.
        in_pairs: `objective.pairs.term_on` for the term of the pairs; empty for every other term.
        informed: whether the anchor reads feedback.
    """
    words = describe_wiring(cfg, divergence_name(cfg), right_only=right_only)
    if cfg.rehearses:
        ratio = "; times rehearsed over explored answers" if cfg.weighting == "by_answer_ratio" else ""
        return f"on rehearsed answers: {words}{ratio}"
    pairs = {
        "": "",
        "losers": "; only on answers that lose a pair, by the slope of that pair's loss",
        "both": "; on answers by the slope of their pairs' loss, which is positive where they lose and else negative",
    }[in_pairs]
    hinge = f"; a token within {cfg.hinge:g} nats of the anchor has no gradient" if cfg.hinge else ""
    told = (
        f"; {cfg.anchor} has read another right answer of the group, and the verdict on a wrong one; answers without "
        "either have no gradient of it"
    )
    weights = f"{_describe_reweighting(cfg)}{_describe_weights(cfg)}"
    return f"on explored answers: {words}{hinge}{weights}{pairs}{told if informed else ''}"


def _describe_reweighting(cfg: TermConfig) -> str:
    if not cfg.reweights:
        return ""
    rate = "the answer's reward" if cfg.reweight == "reward" else "the fraction of correct answers in its group"
    return (
        f"; phi = {cfg.reweight_floor:g} + {1 - cfg.reweight_floor:g} x {rate}, so the target of a token is a mean of "
        "these distributions over the sampled answers"
    )


def _describe_weights(cfg: TermConfig) -> str:
    weights = cfg.weights
    temperature = weights.certainty_temperature
    certainty = weights.certainty + (f" at temperature {temperature:g}" if temperature else "")
    steps = f"turns, or {weights.step_length} tokens of a single turn" if weights.step_length else "turns"
    chosen = {
        "by difficulty of the prompt (DADS)": weights.difficulty,
        f"only on {weights.only.replace('_', ' ')}": weights.only in BY_REWARD,
        "only on the best answers of each prompt, which share its weight": weights.only == "best_answers",
        "every answer as long as the shortest of its group (SamPO)": weights.length_debias,
        f"only on the {weights.keep:g} of an answer's tokens with the highest {weights.importance} score (TIP)": (
            weights.importance != "none"
        ),
        f"by {steps}: the farther from the anchor, the less, at most {weights.step_limit:g} (SOD)": (
            weights.step_limit > 0
        ),
        f"by the policy's entropy to the power {weights.entropy_power:g}": weights.entropy_power > 0,
        f"by the anchor's certainty ({certainty}) to the power {weights.certainty_power:g}": (
            weights.certainty_power > 0
        ),
    }
    words = ", ".join(text for text, on in chosen.items() if on)
    mean = ", in a mean over the kept tokens" if weights.masks else ""
    return f"; tokens weighted: {words}{mean}" if words else ""


def describe_policy_gradient(cfg: ObjectiveConfig) -> str:
    """Describe advantage, ratio, clipping and gates."""
    words = [describe_advantage(cfg), _ratio(cfg)]
    if cfg.mismatch.active:
        words.append(_mismatch(cfg.mismatch))
    gates = cfg.gates
    words += ["conflict tokens weigh 2 or 4 in winners, 0 in losers"] if gates.conflict_tokens else []
    words += [f"{gates.entropy_penalty:g} x entropy subtracted from the advantage"] if gates.entropy_penalty else []
    words += [f"answers above {gates.entropy_limit:g} nats left out"] if gates.entropy_limit else []
    words += ["long failures weigh more"] if gates.long_failures > 1 else []
    words += [_covariance(cfg.covariance)] if cfg.covariance.kind != "none" else []
    words += [f"entropy bonus {cfg.entropy_bonus:g}"] if cfg.entropy_bonus else []
    words += [f"times {_recap(cfg.recap, 'its domain')}"] if cfg.recap.window else []
    return "; ".join(words)


def describe_mixture(cfg: SamplingConfig) -> str:
    """Describe teacher-mixed sampling, and which tokens the importance ratio corrects."""
    return (
        f"each token of the answers that are trained on is drawn from {1 - cfg.mixture:g} policy + {cfg.mixture:g} "
        f"{cfg.mixed_with}; the ratio policy / sampler is its importance weight, but the tokens before and after it "
        "are those of the mixture, and a loss without a ratio has no weight; measurements are not mixed"
    )


def describe_replay(cfg: ObjectiveConfig) -> str:
    """Describe the loss of replayed answers."""
    recap = f", times {_recap(cfg.recap, 'the replay loss')}" if cfg.recap.window else ""
    return f"negative log-likelihood of right answers, mean over their own tokens, times {cfg.replay_weight:g}{recap}"


def describe_experience(cfg: ObjectiveConfig) -> str:
    """Describe the loss of right answers of earlier steps."""
    experience = cfg.experience
    return (
        f"{experience.fraction:g} of the groups answer a prompt again and hold one of its right answers in place of a "
        f"new one, with the weight w / (w + {experience.beta:g}), w = policy / the policy that sampled it, whose "
        f"gradient is greatest at w = {experience.beta:g}; stored from the first step on with more than "
        f"{experience.start:g} right answers"
    )


def _recap(cfg: RecapConfig, of: str) -> str:
    return f"RECAP's weight of {of} (windows of {cfg.window} steps, T = {cfg.temperature:g}, {cfg.orientation})"


def _covariance(cfg: CovarianceConfig) -> str:
    if cfg.fraction == 0:
        return "no tokens chosen by covariance"
    share = f"{cfg.fraction:g} of the tokens (at least one)"
    if cfg.kind == "clip":
        between = f"{cfg.low:g} and {cfg.high:g}"
        return f"{share}, at random among those of covariance between {between}, have no gradient"
    return f"{cfg.penalty:g} x |log ratio| as a penalty on {share}, those of the highest covariance"


def _mismatch(cfg: MismatchConfig) -> str:
    chosen = {
        cfg.kind: cfg.kind != "none",
        f"answers with a token below {cfg.veto:g} left out": cfg.veto > 0,
        f"failed answers {cfg.off_policy:g} nats from the policy left out": cfg.off_policy > 0,
    }
    return f"sampler mismatch: {', '.join(text for text, on in chosen.items() if on)}"


def _ratio(cfg: ObjectiveConfig) -> str:
    if cfg.ratio == "none":
        return "no ratio: plain policy gradient"
    ratio, clip = f"policy / {cfg.old_policy}, per {cfg.ratio}", cfg.clip
    if clip.kind == "none":
        return f"{ratio}, not clipped"
    if clip.kind == "sapo":
        taus = f"{clip.temperature_positive:g}, and {clip.temperature_negative:g} unless the advantage is positive"
        gradient = "the gradient falls off smoothly away from ratio 1, and no token loses it"
        return f"{ratio}, through a sigmoid of temperature {taus}: {gradient}"
    low, high = bounds(clip)
    if clip.kind == "gmpo":
        clipped = f"clipped to [{low:.6g}, {high:.6g}]"
        return f"{ratio}, from token ratios {clipped}: a clipped token has no gradient of its own"
    if clip.kind == "dppo":
        weight = f"at most {high:g}, detached, as a weight of log pi"
        moved = f"its probability has moved by more than {clip.delta:g} in the direction of its advantage"
        return f"{ratio}, {weight}: a token loses its gradient where {moved}"
    if clip.kind == "cispo":
        return f"{ratio}, clipped to [{low:g}, {high:g}], detached, as a weight of log pi: no token loses its gradient"
    dual = f", dual clip at {clip.dual:g}" if clip.dual else ""
    return f"{ratio}, clipped to [{low:.6g}, {high:.6g}]{dual}"


def describe_coefficient(cfg: CoefficientConfig, steps: int) -> str:
    """Describe how the coefficient of a term changes over a run of `steps` steps."""
    if cfg.kind == "constant":
        return f"{cfg.value:g}, constant{': away from the anchor' if cfg.value < 0 else ''}"
    if cfg.kind == "adaptive":
        return (
            f"{cfg.value:g} at first, then towards {cfg.target:g} nats per trajectory over {cfg.horizon:,} trajectories"
        )
    if cfg.kind == "adaptive_fraction":
        return (
            f"{cfg.value:g} at first, 0.1 more whenever the term's mean over {cfg.over} steps has risen by 0.1 nats, "
            "to at most 1"
        )
    if cfg.kind == "confidence":
        return (
            f"{cfg.value:g} in the first step, then the mean probability that the anchor gave to the term's tokens in "
            "the step before"
        )
    if cfg.kind == "complement":
        return f"1 minus the coefficient of {cfg.of}"
    if cfg.kind == "safe":
        return f"SAFE: {cfg.value:g} x the smoothed KL above a threshold set by reward velocity and phase"
    return f"from {cfg.value:g} to {cfg.final:g} over {cfg.over or steps} steps, {cfg.kind}"
