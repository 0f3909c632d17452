"""Sampling: every token as often as it is probable, from random numbers that seed and position alone determine."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.contracts import GenerationJob
from actors.generation.sampling import draw, uniform

LOGITS = torch.tensor([2.0, -torch.inf, 0.0, 1.0, -3.0, 0.5])
COUNT = 40_000


def job(temperature: float = 1.0, **truncation: Any) -> GenerationJob:
    prompt = np.array([5], np.int32)
    return GenerationJob(
        key="a",
        prompt_id="a",
        prompt_tokens=prompt,
        seeds=(1,),
        temperature=temperature,
        max_new_tokens=4,
        **truncation,
    )


def assert_drawn_from(probabilities: torch.Tensor, drawn: torch.Tensor) -> None:
    """Pearson's chi-square statistic below its 1 - 1e-6 quantile: 35.9 for at most 5 degrees of freedom."""
    counts = torch.bincount(drawn, minlength=len(probabilities))
    assert not counts[probabilities == 0].any()
    expected = (probabilities * len(drawn))[probabilities > 0]
    assert float(((counts[probabilities > 0] - expected) ** 2 / expected).sum()) < 35.9


def test_a_gpu_sums_probabilities_in_float64_and_a_cpu_does_without_being_told() -> None:
    """On the meta device, which has dtypes but no numbers."""

    class Sums(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.dtypes: list[torch.dtype] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            self.dtypes += [result.dtype] if function is torch.ops.aten.cumsum.default else []
            return result

    with Sums() as sums:
        tokens, logps = draw(LOGITS.repeat(3, 1).to("meta"), np.full(3, 0.5), job())
    assert sums.dtypes == [torch.float64]
    assert (tokens.dtype, logps.dtype) == (torch.int64, torch.float32)
    many = torch.full((1, 200_000), 0.1).cumsum(-1)[0, -1]
    assert float(many) == float(np.float32(200_000 * float(np.float32(0.1))))


@pytest.mark.parametrize("over", ["seeds", "positions"])
@pytest.mark.parametrize("temperature", [1.0, 0.8, 2.5])
def test_each_token_is_drawn_as_often_as_it_is_probable(over: str, temperature: float) -> None:
    many, one = np.arange(COUNT), np.full(COUNT, 7)
    points = uniform(many, one) if over == "seeds" else uniform(one, many)
    drawn, logps = draw(LOGITS.repeat(COUNT, 1), points, job(temperature))
    probabilities = torch.softmax(LOGITS / temperature, -1)
    assert_drawn_from(probabilities, drawn)
    torch.testing.assert_close(logps, probabilities.log()[drawn], rtol=0, atol=2e-6)


def test_truncated_draws_are_from_the_tokens_that_are_kept_with_their_log_probs() -> None:
    # Probabilities .563, 0, .076, .207, .004, .126, .025 (sums of exp over 13.1): min_p .2 keeps .563, .207, .126;
    # top_k 2 then keeps two of them.
    logits, truncation = torch.cat([LOGITS, torch.tensor([-1.1])]), {"min_p": 0.2, "top_k": 2}
    drawn, logps = draw(logits.repeat(COUNT, 1), uniform(np.arange(COUNT), np.zeros(COUNT)), job(**truncation))
    kept = torch.zeros(7)
    kept[[0, 3]] = torch.tensor([2.0, 1.0]).exp()
    assert_drawn_from(kept / kept.sum(), drawn)
    torch.testing.assert_close(logps, (kept / kept.sum()).log()[drawn], rtol=0, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_a_mixed_token_is_drawn_as_often_as_it_is_probable_under_the_mixture(temperature: float) -> None:
    other = torch.tensor([-1.0, 2.0, 0.0, 1.0, 0.5, -torch.inf])
    mixing = job(temperature, mixture=0.2)
    drawn, logps = draw(
        LOGITS.repeat(COUNT, 1), uniform(np.arange(COUNT), np.zeros(COUNT)), mixing, other.repeat(COUNT, 1)
    )
    mixture = 0.8 * torch.softmax(LOGITS / temperature, -1) + 0.2 * torch.softmax(other / temperature, -1)
    assert_drawn_from(mixture, drawn)
    torch.testing.assert_close(logps, mixture.log()[drawn], rtol=0, atol=2e-6)


def test_top_p_keeps_the_smallest_set_of_likely_tokens_that_reaches_it() -> None:
    # softmax(LOGITS) = .576, 0, .078, .212, .004, .129: the first two sum to .788, so top_p = .8 needs the third.
    drawn, _ = draw(LOGITS.repeat(COUNT, 1), uniform(np.arange(COUNT), np.zeros(COUNT)), job(top_p=0.8))
    kept = torch.softmax(LOGITS, -1) * torch.tensor([1, 0, 0, 1, 0, 1])
    assert_drawn_from(kept / kept.sum(), drawn)


@pytest.mark.parametrize("point", [0.0, 0.25, 1 - 2.0**-53])
def test_no_point_draws_a_token_of_probability_0(point: float) -> None:
    logits = torch.full((1, 50_000), -torch.inf)
    logits[0, [7, 20_000, 40_000]] = torch.tensor([0.3, 1.0, -2.0])
    drawn, logps = draw(logits, np.array([point]), job())
    assert int(drawn) in (7, 20_000, 40_000)
    assert np.isfinite(float(logps))


def test_at_temperature_0_the_most_likely_token_has_log_prob_0() -> None:
    drawn, logps = draw(
        torch.stack([LOGITS, -LOGITS[[0, 2, 1, 3, 4, 5]].nan_to_num(0, 0, 0)]), np.ones(2) / 2, job(0.0)
    )
    assert drawn.tolist() == [0, 4]
    assert logps.tolist() == [0.0, 0.0]


def test_random_numbers_of_neighbouring_seeds_and_positions_are_not_correlated() -> None:
    seeds, positions = (grid.ravel() for grid in np.meshgrid(np.arange(300), np.arange(300), indexing="ij"))
    numbers = uniform(seeds, positions).reshape(300, 300)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert len(np.unique(numbers)) == numbers.size
    # The correlation of n independent pairs has standard deviation n**-0.5, here 1 / 300.
    for a, b in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1]), (numbers[1:, :-1], numbers[:-1, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / 300
