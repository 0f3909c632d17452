"""Metrics of a batch: sums and weights that are merged over microbatches, and the sampler mismatch."""

import math
from functools import reduce
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.diagnostics import added, means, merge, per_trajectory, sampler_mismatch, to_stats, total


def test_merged_means_are_means_over_all_values_not_means_of_means() -> None:
    merged = merge({"a": (1.0, 1.0)}, {"a": (9.0, 3.0), "b": (2.0, 4.0)})
    assert means(merged) == {"a": 2.5, "b": 0.5}


def test_a_metric_without_weight_is_left_out() -> None:
    assert means({"measured": (0.0, 2.0), "not measured": (0.0, 0.0)}) == {"measured": 0.0}


def test_to_stats_keeps_sums_and_weights() -> None:
    assert to_stats({"a": total(torch.tensor([1.0, 2.0])), "b": total(torch.tensor(3.0), weight=0.5)}) == {
        "a": (3.0, 2.0),
        "b": (3.0, 0.5),
    }
    assert to_stats({}) == {}


def test_adding_metrics_makes_one_transfer_from_the_gpu_however_many_there_are() -> None:
    class Transfers(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            moved = isinstance(result, torch.Tensor) and args and isinstance(args[0], torch.Tensor)
            self.count += bool(moved and args[0].is_cuda and result.is_cpu)
            return result

    with FakeTensorMode(), Transfers() as transfers:  # tensors on a GPU without one
        there = {f"metric {i}": torch.zeros(2, device="cuda") for i in range(7)}
        found = added(added({}, there | {"here": torch.zeros(2)}), there)
    assert list(found) == [*there, "here"]
    assert all(pair.is_cpu and pair.dtype == torch.float64 for pair in found.values())
    assert transfers.count == 2


def test_the_sampler_mismatch_has_the_numbers_computed_by_hand() -> None:
    learner, sampler = torch.tensor([2.0, 0.5]).log(), torch.zeros(2)
    got = means(to_stats(sampler_mismatch(learner, sampler)))
    assert got["mismatch_abs_log_ratio"] == pytest.approx(math.log(2))
    assert got["mismatch_abs_log_ratio_max"] == pytest.approx(math.log(2))
    assert got["mismatch_kl_k1"] == pytest.approx(0.0, abs=1e-6)
    assert got["mismatch_kl_k3"] == pytest.approx((1 + -0.5) / 2)  # (2 - 1 - ln 2 + .5 - 1 + ln 2) / 2
    assert got["mismatch_chi_square"] == pytest.approx((4 + 0.25) / 2 - 1)
    assert got["effective_sample_fraction"] == pytest.approx(1.25**2 / 2.125)
    # Perplexities (1 / (1/2 * 1/4))^(1/2) and (1 / (1/4 * 1/4))^(1/2): the learner's is 1 / sqrt(2) of the sampler's.
    learner, sampler = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.25]).log()
    got = means(to_stats(sampler_mismatch(learner, sampler)))
    assert got["mismatch_perplexity_ratio"] == pytest.approx(0.5**0.5)


def test_the_mismatch_merged_over_parts_is_that_of_the_whole_and_an_empty_part_has_none() -> None:
    learner, sampler = torch.tensor([0.5, 0.1, 0.3]).log(), torch.tensor([0.4, 0.4, 0.3]).log()
    parts = [sampler_mismatch(learner[part], sampler[part]) for part in (slice(0, 0), slice(0, 2), slice(2, 3))]
    whole = means(to_stats(sampler_mismatch(learner, sampler)))
    assert whole["mismatch_abs_log_ratio_max"] == pytest.approx(math.log(4))
    assert means(merge(*map(to_stats, parts))) == pytest.approx(whole)
    assert means(to_stats(reduce(added, parts, {}))) == pytest.approx(whole)
    assert "mismatch_abs_log_ratio_max" not in means(to_stats(parts[0]))


def test_equal_log_probs_have_no_mismatch() -> None:
    logp = torch.tensor([-0.2, -3.0, -11.0])
    got = means(to_stats(sampler_mismatch(logp, logp)))
    ones = {"mismatch_ratio", "effective_sample_fraction", "mismatch_perplexity_ratio"}
    assert {got.pop(name) for name in ones} == {1.0}
    assert set(got.values()) == {0.0}


def test_the_mismatch_estimates_the_kl_between_sampler_and_learner() -> None:
    sampler, learner = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.2, 0.1])
    tokens = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # the sampler's probabilities in tenths
    got = means(to_stats(sampler_mismatch(learner.log()[tokens], sampler.log()[tokens])))
    expected = float((sampler * (sampler / learner).log()).sum())
    assert got["mismatch_kl_k1"] == pytest.approx(expected, abs=1e-6)
    assert got["mismatch_kl_k3"] == pytest.approx(expected, abs=1e-6)
    assert got["mismatch_ratio"] == pytest.approx(1.0)


def test_sums_per_trajectory_leave_out_trajectories_without_tokens_and_with_missing_values() -> None:
    values = torch.tensor([1.0, 2.0, math.nan, 4.0, 5.0])
    assert per_trajectory(values, torch.tensor([0, 0, 1, 1, 3]), trajectories=4).tolist() == [3.0, 5.0]
