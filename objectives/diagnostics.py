"""Metrics that carry their weight, so that those of microbatches, ranks and updates combine without error."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from objectives.coefficient.controllers import KL_PER_TOKEN, KL_PER_TRAJECTORY
from objectives.policy_gradient.ratios import LOG_RATIO_LIMIT
from trajectories.batch import Batch

Stats = dict[str, tuple[float, float]]
"""name -> (weighted sum, weight); (largest, 1) where the name ends in LARGEST."""
LARGEST = "_max"
TensorStats = dict[str, Tensor]
"""name -> detached float tensor [2]: (weighted sum, weight). Its names depend on the config alone, never on the data,
so that every rank reduces the same ones."""


def total(values: Tensor, weight: float | None = None) -> Tensor:
    """[2]: the sum of `values` and its weight, by default their number."""
    count = float(values.numel()) if weight is None else weight
    return torch.stack([values.detach().sum(), values.new_tensor(count)]).float()


def largest(values: Tensor) -> Tensor:
    """[2]: the largest of `values`, none below 0, with weight 1; weight 0 where there are none."""
    found = values.detach().amax() if len(values) else values.new_zeros(())
    return torch.stack([found, found.new_tensor(float(len(values) > 0))]).float()


def added(totals: TensorStats, more: TensorStats) -> TensorStats:
    """Both together, in float64 on the CPU, where a name may be missing from `totals`."""
    found = dict(totals)
    for name, pair in more.items():
        before, pair = found.get(name, torch.zeros(2, dtype=torch.float64)), pair.double().cpu()
        found[name] = torch.maximum(before, pair) if name.endswith(LARGEST) else before + pair
    return found


def to_stats(stats: TensorStats) -> Stats:
    """Plain numbers, in one transfer from the device."""
    if not stats:
        return {}
    rows = torch.stack(list(stats.values())).tolist()
    return {name: (row[0], row[1]) for name, row in zip(stats, rows, strict=True)}


def merge(*parts: Stats) -> Stats:
    """Sums and weights of all `parts`; a name may be missing from some."""
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
    """Weighted means; a metric of weight 0 was not measured and is left out.

    Where the sampler mismatch was measured, adds `effective_sample_fraction`, E[k]^2 / E[k^2] in (0, 1], and
    `mismatch_perplexity_ratio`, exp(E[-log k]), the trainer's perplexity over the engine's.
    """
    result = {name: value / weight for name, (value, weight) in stats.items() if weight != 0}
    if {"mismatch_ratio", "mismatch_chi_square"} <= result.keys():
        result["effective_sample_fraction"] = _effective_fraction(result)
        result["mismatch_perplexity_ratio"] = math.exp(result["mismatch_kl_k1"])
    return result


def _effective_fraction(result: Mapping[str, float]) -> float:
    return result["mismatch_ratio"] ** 2 / (1 + result["mismatch_chi_square"])


def sampler_mismatch(logp_trainer: Tensor, logp_sampler: Tensor) -> TensorStats:
    """How far the trainer's log-probs [N] are from the engine's [N], with k = pi_trainer / pi_sampler.

    Mean and largest |log k|; KL(sampler || trainer) by k1 (-log k) and by k3 (k - 1 - log k), in nats per token;
    chi-square E[k^2] - 1; and E[k], 1 when the sampler draws from the distribution it reports.
    """
    log_ratio = (logp_trainer.detach() - logp_sampler).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {
        "mismatch_abs_log_ratio": total(log_ratio.abs()),
        "mismatch_abs_log_ratio_max": largest(log_ratio.abs()),
        "mismatch_kl_k1": total(-log_ratio),
        "mismatch_kl_k3": total(log_ratio.expm1() - log_ratio),
        "mismatch_chi_square": total((2 * log_ratio).expm1()),
        "mismatch_ratio": total(log_ratio.exp()),
    }


def per_trajectory(values: Tensor, seq: Tensor, trajectories: int) -> Tensor:
    """[<= B]: sums of token `values` over each trajectory that has a token in `seq`; sums that are NaN are left out."""
    sums = values.new_zeros(trajectories).index_add(0, seq, values.detach())
    sums = sums[torch.bincount(seq, minlength=trajectories) > 0]
    return sums[~sums.isnan()]


def trajectory_stats(batch: Batch, tokens: Tensor, old: Tensor) -> TensorStats:
    """Per explored trajectory with a trained token: reward, answer length, and summed k1 KL where it is known."""
    seq, count = batch.seq[tokens], len(batch.route)
    lengths = torch.bincount(seq, minlength=count)
    rewards, kl = batch.reward[lengths > 0], old.new_zeros(0)
    if batch.logp_reference is not None:
        kl = old - batch.logp_reference[tokens]
    return {
        "reward": total(rewards[~rewards.isnan()]),
        "answer_length": total(lengths[lengths > 0].float()),
        KL_PER_TRAJECTORY: total(per_trajectory(kl, seq[: len(kl)], count)),
        KL_PER_TOKEN: total(kl[~kl.isnan()]),
        **{f"kl_{name}": total(old - logp[tokens]) for name, logp in batch.anchors.items()},
    }
