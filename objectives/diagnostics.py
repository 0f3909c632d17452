"""Metrics as (weighted sum, weight), so that those of microbatches, ranks and updates combine exactly."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from objectives.coefficient.controllers import KL_PER_TOKEN, KL_PER_TRAJECTORY
from objectives.divergence.anchors import named_logps
from objectives.policy_gradient.ratios import LOG_RATIO_LIMIT
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch

Stats = dict[str, tuple[float, float]]
"""name -> (weighted sum, weight), or (maximum, 1) where the name ends in LARGEST."""
LARGEST = "_max"
TensorStats = dict[str, Tensor]
"""name -> detached float tensor [2]: (weighted sum, weight). The names depend on the config alone, never on the
data, so that every rank reduces the same ones."""


def total(values: Tensor, weight: float | None = None) -> Tensor:
    """Return the sum of `values` and its weight [2]; by default the weight is their number."""
    count = float(values.numel()) if weight is None else weight
    return torch.stack([values.detach().sum(), values.new_tensor(count)]).float()


def largest(values: Tensor) -> Tensor:
    """Return the maximum of `values` (all >= 0) with weight 1 [2]; weight 0 for no values."""
    found = values.detach().amax() if len(values) else values.new_zeros(())
    return torch.stack([found, found.new_tensor(float(len(values) > 0))]).float()


def added(totals: TensorStats, more: TensorStats) -> TensorStats:
    """Add `more` to `totals`, in float64 on the CPU, in one transfer from each device; a name may be missing from
    `totals`."""
    found = dict(totals)
    for device in dict.fromkeys(pair.device for pair in more.values()):
        names = [name for name, pair in more.items() if pair.device == device]
        pairs = torch.stack([more[name] for name in names]).cpu().double()
        for name, pair in zip(names, pairs, strict=True):
            before = found.get(name, torch.zeros(2, dtype=torch.float64))
            found[name] = torch.maximum(before, pair) if name.endswith(LARGEST) else before + pair
    return found


def to_stats(stats: TensorStats) -> Stats:
    """Convert to plain numbers, in one transfer from the device."""
    if not stats:
        return {}
    rows = torch.stack(list(stats.values())).tolist()
    return {name: (row[0], row[1]) for name, row in zip(stats, rows, strict=True)}


def merge(*parts: Stats) -> Stats:
    """Return the sums and weights over all `parts`; a name may be missing from some."""
    merged: Stats = {}
    for part in parts:
        for name, (value, weight) in part.items():
            before = merged.get(name, (0.0, 0.0))
            if name.endswith(LARGEST):
                merged[name] = (max(before[0], value), max(before[1], weight))
            else:
                merged[name] = (before[0] + value, before[1] + weight)
    return merged


def means(stats: Stats) -> dict[str, float]:
    """Return weighted means. A metric of weight 0 was not measured and is left out.

    Where the sampler mismatch was measured, add `effective_sample_fraction`, E[k]^2 / E[k^2] in (0, 1], and
    `mismatch_perplexity_ratio`, exp(E[-log k]): the learner's perplexity over the sampler's.
    """
    result = {name: value / weight for name, (value, weight) in stats.items() if weight != 0}
    if {"mismatch_ratio", "mismatch_chi_square"} <= result.keys():
        result["effective_sample_fraction"] = _effective_fraction(result)
        result["mismatch_perplexity_ratio"] = math.exp(result["mismatch_kl_k1"])
    return result


def _effective_fraction(result: Mapping[str, float]) -> float:
    return result["mismatch_ratio"] ** 2 / (1 + result["mismatch_chi_square"])


def sampler_mismatch(logp_old: Tensor, logp_sampler: Tensor) -> TensorStats:
    """Measure the difference between the learner's and the sampler's log-probs [M], with k = pi_old / pi_sampler.

    Mean and maximum of |log k|; KL(sampler || learner) by k1 (-log k) and by k3 (k - 1 - log k), in nats per token;
    chi-square E[k^2] - 1; and E[k], which is 1 if the sampler samples from the distribution it reports.
    """
    log_ratio = (logp_old.detach() - logp_sampler).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {
        "mismatch_abs_log_ratio": total(log_ratio.abs()),
        "mismatch_abs_log_ratio_max": largest(log_ratio.abs()),
        "mismatch_kl_k1": total(-log_ratio),
        "mismatch_kl_k3": total(log_ratio.expm1() - log_ratio),
        "mismatch_chi_square": total((2 * log_ratio).expm1()),
        "mismatch_ratio": total(log_ratio.exp()),
    }


def per_trajectory(values: Tensor, seq: Tensor, trajectories: int) -> Tensor:
    """Return the sums of token `values` [M] over each trajectory that has a token in `seq` [M]; NaN sums are left
    out."""
    sums = sum_by_trajectory(values.detach(), seq, trajectories)
    sums = sums[torch.bincount(seq, minlength=trajectories) > 0]
    return sums[~sums.isnan()]


def trajectory_stats(batch: Batch, tokens: Tensor, logp_old: Tensor) -> TensorStats:
    """Measure reward and answer length per explored trajectory, and the k1 KL where reference log-probs are known.

    Args:
        tokens: bool [N], the explored tokens; logp_old: float32 [M], under the policy that sampled them.
    """
    seq, count = batch.seq[tokens], len(batch.route)
    lengths = torch.bincount(seq, minlength=count)
    rewards, kl = batch.reward[lengths > 0], logp_old.new_zeros(0)
    if batch.logp_reference is not None:
        kl = logp_old - batch.logp_reference[tokens]
    return {
        "reward": total(rewards[~rewards.isnan()]),
        "answer_length": total(lengths[lengths > 0].float()),
        KL_PER_TRAJECTORY: total(per_trajectory(kl, seq[: len(kl)], count)),
        KL_PER_TOKEN: total(kl[~kl.isnan()]),
        **{f"kl_{name}": total(logp_old - named_logps(batch, name, tokens)) for name in batch.anchors},
    }
