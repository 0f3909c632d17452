"""Metrics that carry their weight, so that those of microbatches, ranks and updates combine without error."""

from collections.abc import Mapping

import torch
from torch import Tensor

from objectives.ratios import LOG_RATIO_LIMIT

Stats = dict[str, tuple[float, float]]
"""name -> (weighted sum, weight)"""
TensorStats = dict[str, Tensor]
"""name -> detached float tensor [2]: (weighted sum, weight). Its names depend on the config alone, never on the data,
so that every rank reduces the same ones."""


def total(values: Tensor, weight: float | None = None) -> Tensor:
    """[2]: the sum of `values` and its weight, by default their number."""
    count = float(values.numel()) if weight is None else weight
    return torch.stack([values.detach().sum(), values.new_tensor(count)]).float()


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
            merged[name] = (before[0] + value, before[1] + weight)
    return merged


def means(stats: Stats) -> dict[str, float]:
    """Weighted means; a metric of weight 0 was not measured and is left out.

    Adds `effective_sample_fraction`, E[k]^2 / E[k^2] in (0, 1], where the sampler mismatch was measured.
    """
    result = {name: value / weight for name, (value, weight) in stats.items() if weight != 0}
    if {"mismatch_ratio", "mismatch_chi_square"} <= result.keys():
        result["effective_sample_fraction"] = _effective_fraction(result)
    return result


def _effective_fraction(result: Mapping[str, float]) -> float:
    return result["mismatch_ratio"] ** 2 / (1 + result["mismatch_chi_square"])


def sampler_mismatch(logp_trainer: Tensor, logp_sampler: Tensor) -> TensorStats:
    """How far the trainer's log-probs [N] are from the engine's [N], with k = pi_trainer / pi_sampler.

    Mean |log k|; KL(sampler || trainer) by k1 (-log k) and by k3 (k - 1 - log k), in nats per token; chi-square
    E[k^2] - 1; and E[k], 1 when the sampler draws from the distribution it reports.
    """
    log_ratio = (logp_trainer.detach() - logp_sampler).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {
        "mismatch_abs_log_ratio": total(log_ratio.abs()),
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
