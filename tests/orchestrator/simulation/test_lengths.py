"""Distributions of answer lengths."""

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.simulation.lengths import lognormal, measured, texts_of


@pytest.mark.parametrize(("mean", "limit"), [(2_600, 8_192), (30, 3_072), (7_000, 8_192), (1, 16)])
def test_a_lognormal_has_the_mean_that_was_asked_for_after_it_is_cut(mean: int, limit: int) -> None:
    lengths = lognormal(mean, limit)
    assert lengths.mean == pytest.approx(mean, rel=0.02)
    assert lengths.values.min() >= 1 and lengths.values.max() <= limit


def test_answers_of_different_seeds_follow_the_distribution() -> None:
    lengths = lognormal(500, 4_096)
    drawn = np.array([lengths.of(seed) for seed in np.random.default_rng(0).integers(0, 2**31, 20_000).tolist()])
    assert drawn.mean() == pytest.approx(500, rel=0.03)
    assert np.quantile(drawn, 0.9) == pytest.approx(np.quantile(lengths.values, 0.9), rel=0.05)
    assert lengths.of(7) == lengths.of(7)


def test_the_longest_of_several_answers_is_longer() -> None:
    lengths = measured([1, 2])  # Of n answers all are short with probability 2 ** -n.
    assert [lengths.longest(n) for n in (1, 2, 3)] == pytest.approx([1.5, 1.75, 1.875])


@pytest.mark.parametrize("mean", [0.5, 8_192])
def test_a_mean_outside_the_limits_is_refused(mean: float) -> None:
    with pytest.raises(
        ValueError, match=r"answer_tokens: must be at least 1 and below sampling.max_new_tokens \(8192\)"
    ):
        lognormal(mean, 8_192)


def test_texts_are_those_of_the_policys_own_answers(tmp_path: Path) -> None:
    rows = [{"route": "explore", "answer": "3+4"}, {"route": "rehearse", "answer": "other"}]
    (tmp_path / "trajectories.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert texts_of(tmp_path, "answer") == ["3+4"]
    with pytest.raises(ValueError, match=r"lengths: must be a run's directory with trajectories\.jsonl"):
        texts_of(tmp_path / "none", "answer")
