"""Describe in English the advantage of an answer, for `show-config`.

Loads no torch, which takes seconds.
"""

from configs.critic import CriticConfig
from configs.divergences import DIVERGENCES
from configs.flow import FlowConfig
from configs.objective import ObjectiveConfig
from configs.pairs import PairsConfig
from configs.pass_k import PassKConfig
from configs.rewards import with_answer
from configs.terms import TermConfig
from objectives.divergence.words import divergence_name


def describe_advantage(cfg: ObjectiveConfig) -> str:
    """Describe `objective.advantage`, with its parameters and what its gradient is."""
    unrewarded = " (rewards are not trained on, divergence terms are)" if cfg.advantage == "none" else ""
    learned = _critic(cfg.critic) if cfg.advantage == "critic" else ""
    preferred = _pairs(cfg.pairs) if cfg.advantage == "pairs" else _flow(cfg.flow) if cfg.advantage == "flow" else ""
    return f"advantage {cfg.advantage}{unrewarded}{learned}{preferred}{_parameters(cfg)}{_rewards(cfg)}"


def describe_no_terms(cfg: ObjectiveConfig) -> str:
    """Describe what keeps the policy near the reference without a divergence term."""
    if cfg.advantage == "pairs":
        if not cfg.pairs.compares:
            return f"no term of its own: the loss of an answer has its log-ratio to {cfg.pairs.anchor}"
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
    name = divergence_name(TermConfig(name=cfg.target.divergence, estimator="straight_through"))
    return f"no term of its own: the advantage has the gradient of the {name} to the reference {target}"


def _name_of_pairs(cfg: PairsConfig) -> str:
    alpha = cfg.alpha if DIVERGENCES[cfg.divergence].alpha else TermConfig.alpha
    name = divergence_name(TermConfig(name=cfg.divergence, alpha=alpha, estimator="straight_through"))
    anchor = " x ".join(f"{name}^{weight:g}" if weight < 1 else name for name, weight in cfg.anchors.items())
    return f"{name} to {anchor}"


def _pairs(cfg: PairsConfig) -> str:
    """Describe the loss of which advantage=pairs is minus the slope."""
    if not cfg.compares:
        weight = f"{cfg.right_weight:g} x " if cfg.right_weight != 1 else ""
        return (
            f" (in the first update of a batch, the exact gradient of {weight}(1 - sigmoid(x)) on answers of reward 1 "
            f"or more and of 1 - sigmoid(-x) on the others, x = {cfg.beta:g} (log u - z0), u = policy / {cfg.anchor}, "
            "z0 = max(0, mean log u of the batch); all answers, without pairs)"
        )
    loss = f"-log sigmoid({cfg.beta:g} m)" if cfg.loss == "sigmoid" else f"(m - {1 / (2 * cfg.beta):g})^2"
    margins = {
        "each": "f'(u) of an answer - f'(u) of one of its group with a lower reward",
        "solution": "f'(u) of a right answer of the task - f'(u) of one that the policy sampled, whatever its reward",
        "together": "mean f'(u) of all answers of a group with a higher reward than an answer - its own f'(u)",
    }
    lengths = ", log u over as many tokens as the shorter of both has" if cfg.lengths == "shorter" else ""
    lengths += f", plus its sum of term {cfg.term} times the term's coefficient" if cfg.term else ""
    if cfg.mask == "activations":
        lengths += f", each token weighted from 0 to 1 by the mean final activation of {cfg.anchor} within its answer"
    elif cfg.mask == "learned":
        lengths += f", each token weighted by a learned linear function of the final hidden state of {cfg.anchor}"
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
        "majority_zscore": "over 2 sqrt(p (1 - p)) where the fraction p of right answers is above 1/2",
        "distinct_mean_only": "each reward times the fraction of the group's other answers that are another solution",
    }
    gradients = {
        "mean_normalised": "that of the sum of Pass@k / k for k < group size, which is log Pass@1, truncated",
        "pass_k_zscore": "that of (2 / k) arcsin sqrt(Pass@k), in large groups",
        "pass_k_gain": "that of the best reward of k answers, which is Pass@k if rewards are 0 or 1",
        "weighted_sign": f"{1 + weight:g} times that of Pass@1",
        "majority_zscore": "that of 2 arcsin sqrt(Pass@1) up to 1/2, of log(Pass@1 / (1 - Pass@1)) / 2 above, in large "
        "groups",
        "distinct_mean_only": "if rewards are 0 or 1 that of (1 - 1 / G) Pass@1 - (1 - 2 / G) / 2 x the sum of p^2 "
        "over the right solutions, p the probability of one",
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
