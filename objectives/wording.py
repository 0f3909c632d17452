"""Describe in English the expected gradient of each divergence term and the other slots, for `show-config`.

Loads no torch, which takes seconds.
"""

from configs.coefficient import CoefficientConfig
from configs.critic import CriticConfig
from configs.divergences import DIVERGENCES
from configs.flow import FlowConfig
from configs.objective import ObjectiveConfig
from configs.pairs import PairsConfig
from configs.pass_k import PassKConfig
from configs.policy_gradient import CovarianceConfig, MismatchConfig
from configs.recap import RecapConfig
from configs.rewards import with_answer
from configs.term_weights import FAILURES
from configs.terms import TermConfig
from objectives.divergence.words import describe_wiring
from objectives.policy_gradient.clip_range import bounds


def describe(cfg: TermConfig, *, right_only: bool = False, in_pairs: str = "", informed: bool = False) -> str:
    """Describe the gradient that a divergence term has, which is not always that of the value it is named after.

    Args:
        right_only: whether the stored answers are right ones alone, and not all samples of the reference.
        in_pairs: `objective.pairs.term_on` for the term of the pairs; empty for every other term.
        informed: whether the anchor reads feedback.
    """
    words = describe_wiring(cfg, _name(cfg), right_only=right_only)
    if cfg.rehearses:
        ratio = "; times rehearsed over explored answers" if cfg.weighting == "by_answer_ratio" else ""
        return f"on rehearsed answers: {words}{ratio}"
    pairs = {
        "": "",
        "losers": "; only on answers that lose a pair, by the slope of that pair's loss",
        "both": "; on answers by the slope of their pairs' loss, which is positive where they lose and else negative",
    }[in_pairs]
    told = (
        f"; {cfg.anchor} has read another right answer of the group, and the verdict on a wrong one; answers without "
        "either have no gradient of it"
    )
    weights = _describe_weights(cfg)
    return f"on explored answers: {words}{_describe_reweighting(cfg)}{weights}{pairs}{told if informed else ''}"


def _name(cfg: TermConfig) -> str:
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
        f"only on {weights.only.replace('_', ' ')}": weights.only in FAILURES,
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


def describe_no_terms(cfg: ObjectiveConfig) -> str:
    """Describe what keeps the policy near the reference without a divergence term."""
    if cfg.advantage == "pairs":
        return f"no term of its own: the loss of pairs has the {_name_of_pairs(cfg.pairs)} in its margin"
    if cfg.advantage == "flow":
        return "no term of its own: the residual of flow balance has the log-ratio to the reference in it"
    if cfg.advantage != "target":
        return "no divergence: nothing keeps the policy near the reference"
    target = {
        "tilt": "tilted by the reward",
        "filter": "restricted to answers of full reward",
        "moment": f"tilted to a mean reward of {cfg.target.moment:g}",
    }[cfg.target.kind]
    name = _name(TermConfig(name=cfg.target.divergence, estimator="straight_through"))
    return f"no term of its own: the advantage has the gradient of the {name} to the reference {target}"


def _name_of_pairs(cfg: PairsConfig) -> str:
    alpha = cfg.alpha if DIVERGENCES[cfg.divergence].alpha else TermConfig.alpha
    name = _name(TermConfig(name=cfg.divergence, alpha=alpha, estimator="straight_through"))
    anchor = " x ".join(f"{name}^{weight:g}" if weight < 1 else name for name, weight in cfg.anchors.items())
    return f"{name} to {anchor}"


def _pairs(cfg: PairsConfig) -> str:
    """Describe the loss of which advantage=pairs is minus the slope."""
    loss = f"-log sigmoid({cfg.beta:g} m)" if cfg.loss == "sigmoid" else f"(m - {1 / (2 * cfg.beta):g})^2"
    margins = {
        "each": "f'(u) of an answer - f'(u) of one of its group with a lower reward",
        "together": "mean f'(u) of all answers of a group with a higher reward than an answer - its own f'(u)",
    }
    lengths = ", log u over as many tokens as the shorter of both has" if cfg.lengths == "shorter" else ""
    lengths += f", plus its sum of term {cfg.term} times the term's coefficient" if cfg.term else ""
    return (
        f" (in the first update of a batch, the exact gradient of {loss}, m = {margins[cfg.winners]}, f' "
        f"of the {_name_of_pairs(cfg)}{lengths})"
    )


def _flow(cfg: FlowConfig) -> str:
    """Describe the loss of which advantage=flow is minus the slope."""
    low, high = 1 - cfg.clip, 1 + cfg.clip
    return (
        f" (the exact gradient of w (log Z + mean_t log pi - {cfg.beta:g} z - mean_t log reference)^2, z the reward's "
        f"z-score in its group, w the answer's ratio, clipped to [{low:g}, {high:g}], detached; log Z is a value head "
        "at the prompt's end; in expectation, for answers of T tokens and on-policy, 2 / T^2 of that of the reverse KL "
        f"to reference x exp({cfg.beta:g} T z) / Z)"
    )


def describe_policy_gradient(cfg: ObjectiveConfig) -> str:
    """Describe advantage, ratio, clipping and gates."""
    unrewarded = " (rewards are not trained on, divergence terms are)" if cfg.advantage == "none" else ""
    learned = _critic(cfg.critic) if cfg.advantage == "critic" else ""
    preferred = _pairs(cfg.pairs) if cfg.advantage == "pairs" else _flow(cfg.flow) if cfg.advantage == "flow" else ""
    words = [f"advantage {cfg.advantage}{unrewarded}{learned}{preferred}{_parameters(cfg)}{_rewards(cfg)}", _ratio(cfg)]
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


def _rewards(cfg: ObjectiveConfig) -> str:
    """Describe how several rewards are combined; empty if there is one."""
    if not cfg.rewards:
        return ""
    rewards = with_answer(cfg.rewards)
    parts = " + ".join(f"{reward.weight:g} x {name}" for name, reward in rewards.items() if reward.weight)
    gates = [name for name, reward in rewards.items() if reward.gate]
    closed = f", 0 where {' or '.join(gates)} is below 1" if gates else ""
    of = "each reward, summed as" if cfg.weighs_rewards else "the reward"
    over = ", over their standard deviation in the batch" if cfg.combine == "whitened_advantages" else ""
    return f" of {of} {parts}{closed}{over}"


def describe_replay(cfg: ObjectiveConfig) -> str:
    """Describe the loss of replayed answers."""
    recap = f", times {_recap(cfg.recap, 'the replay loss')}" if cfg.recap.window else ""
    return f"negative log-likelihood of right answers, mean over their own tokens, times {cfg.replay_weight:g}{recap}"


def _recap(cfg: RecapConfig, of: str) -> str:
    return f"RECAP's weight of {of} (windows of {cfg.window} steps, T = {cfg.temperature:g}, {cfg.orientation})"


def _critic(cfg: CriticConfig) -> str:
    effect = (
        "computed at an answer's end: the part of the reward that it predicts is no longer trained on"
        if cfg.reads == "answer"
        else "computed at the prompt's end: a baseline, which leaves the expected gradient unchanged"
    )
    return f" ({cfg.heads} value head{'s' * (cfg.heads > 1)} {effect})"


def _parameters(cfg: ObjectiveConfig) -> str:
    """Describe the parameters and the expected gradient of an advantage of `objective.pass_k`, and of MaxRL."""
    weight, penalty = cfg.pass_k.right_weight, cfg.pass_k.rank_penalty
    parameters = {
        "pass_k_zscore": _k(cfg.pass_k),
        "pass_k_gain": _k(cfg.pass_k),
        "weighted_sign": f"{weight:g} on right answers, -1 on wrong ones",
        "unlikely_zscore": f"a right answer loses {penalty:g} m / G of its reward, where m of the G answers of its "
        "group are less likely",
        "uniform_zscore": f"{cfg.pass_k.uniformity:g} of the right answers' advantages shared out by 1 / q, q their "
        "mean probability per token",
    }
    gradients = {
        "mean_normalised": "that of the sum of Pass@k / k for k < group size, which is log Pass@1, truncated",
        "pass_k_zscore": "that of (2 / k) arcsin sqrt(Pass@k), in large groups",
        "pass_k_gain": "that of the best reward of k answers, which is Pass@k if rewards are 0 or 1",
        "weighted_sign": f"{1 + weight:g} times that of Pass@1",
    }
    words = [parameters[cfg.advantage]] if cfg.advantage in parameters else []
    if cfg.advantage in gradients:
        conditions = "expected gradient, on-policy and with sequence_mean_token_sum"
        words.append(f"{conditions}: {gradients[cfg.advantage]}")
    return f" ({'; '.join(words)})" if words else ""


def _k(cfg: PassKConfig) -> str:
    if cfg.schedule == "constant":
        return f"k = {cfg.k}"
    over = f"over {cfg.over} steps" if cfg.over else "over all steps"
    return f"k from {cfg.k} to {cfg.final_k} {over}, {cfg.schedule}"


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
    if cfg.kind == "complement":
        return f"1 minus the coefficient of {cfg.of}"
    if cfg.kind == "safe":
        return f"SAFE: {cfg.value:g} x the smoothed KL above a threshold set by reward velocity and phase"
    return f"from {cfg.value:g} to {cfg.final:g} over {cfg.over or steps} steps, {cfg.kind}"
