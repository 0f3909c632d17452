"""Nearest-neighbour estimators against the closed forms of Gaussians, their invariances, and degenerate points."""

import math

import numpy as np
import pytest

from orchestrator.inspection.estimators import (
    DRAWS,
    diversity,
    entropy,
    kl_divergence,
    matched_draws,
    novelty,
    project,
)

FACTOR = np.array([[1.0, 0.0], [0.8, 0.6]])
COVARIANCE = FACTOR @ FACTOR.T
"""[[1, .8], [.8, 1]], determinant .36."""
SHIFT = np.array([0.5, 0.0])
ROTATION = np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])


def gaussian(seed: int, points: int, dimensions: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((points, dimensions))


@pytest.mark.parametrize("seed", range(5))
def test_the_entropy_of_a_gaussian_is_its_closed_form(seed: int) -> None:
    # log(2 pi e) + log(.36) / 2 = 2.83788 - .51083 = 2.32705. Over 30 seeds: bias -.009, standard deviation .018.
    exact = 0.5 * math.log((2 * math.pi * math.e) ** 2 * np.linalg.det(COVARIANCE))
    assert exact == pytest.approx(2.32705, abs=1e-5)
    assert entropy(gaussian(seed, 2000) @ FACTOR.T, 4) == pytest.approx(exact, abs=0.009 + 3 * 0.018)


@pytest.mark.parametrize("seed", range(5))
def test_the_kl_divergence_of_two_gaussians_is_its_closed_form(seed: int) -> None:
    # (tr S + |shift|^2 - 2 - log det S) / 2 = (2 + .25 - 2 + 1.02165) / 2 = .63583. Over 30 seeds: bias -.030,
    # standard deviation .034.
    exact = 0.5 * (np.trace(COVARIANCE) + SHIFT @ SHIFT - 2 - math.log(np.linalg.det(COVARIANCE)))
    assert exact == pytest.approx(0.63583, abs=1e-5)
    new, known = gaussian(seed, 2000) @ FACTOR.T, gaussian(100 + seed, 2000) + SHIFT
    assert kl_divergence(new, known, 4) == pytest.approx(exact, abs=0.030 + 3 * 0.034)


@pytest.mark.parametrize("known", [500, 1000, 4000])
def test_the_kl_divergence_of_one_distribution_is_zero_for_any_number_of_known_points(known: int) -> None:
    # Over 30 seeds of 500 points: standard deviation .046 in both dimensions.
    assert kl_divergence(gaussian(0, 500), gaussian(1, known), 4) == pytest.approx(0, abs=3 * 0.046)


def test_rotation_and_translation_change_nothing_and_scaling_adds_its_logarithm_to_the_entropy() -> None:
    new, known = gaussian(0, 300) @ FACTOR.T, gaussian(1, 400)
    moved = [points @ ROTATION.T + 3 for points in (new, known)]
    assert entropy(moved[0], 4) == pytest.approx(entropy(new, 4), abs=1e-6)
    assert kl_divergence(*moved, 4) == pytest.approx(kl_divergence(new, known, 4), abs=1e-6)
    assert entropy(5 * new, 4) == pytest.approx(entropy(new, 4) + 2 * math.log(5), abs=1e-6)
    assert kl_divergence(5 * new, 5 * known, 4) == pytest.approx(kl_divergence(new, known, 4), abs=1e-6)


def test_three_points_on_a_line_give_the_numbers_of_a_hand() -> None:
    # 0, 1, 3 with k = 1: rho = 1, 1, 2. H = psi(3) - psi(1) + log 2 + log(2) / 3 = 1.5 + .69315 + .23105 = 2.42420.
    points = np.array([[0.0], [1.0], [3.0]])
    assert entropy(points, 1) == pytest.approx(2.42420, abs=1e-5)
    # Known 0.5, 7: nu = .5, .5, 2.5. KL = log(.5 * .5 * 2.5 / 2) / 3 + log(2 / 2) = log(.3125) / 3 = -.38772.
    assert kl_divergence(points, np.array([[0.5], [7.0]]), 1) == pytest.approx(-0.38772, abs=1e-5)


def test_equal_points_have_a_finite_entropy_and_copies_lower_it() -> None:
    points = gaussian(0, 100)
    assert math.isfinite(entropy(np.zeros((10, 2)), 4))
    assert entropy(np.concatenate([points, points, points[:50]]), 4) < entropy(points, 4) - 0.5


def test_equal_sets_have_a_negative_divergence() -> None:
    # nu is the distance to the third other point, rho that to the fourth: psi(3) - psi(4) = -1 / 3 in expectation, plus
    # log(1000 / 999). Over 30 seeds: standard deviation .011.
    found = [kl_divergence(gaussian(seed, 1000), gaussian(seed, 1000), 4) for seed in range(5)]
    assert np.mean(found) == pytest.approx(-1 / 3, abs=0.03)


def test_the_projection_keeps_the_directions_of_most_variance_with_variance_one() -> None:
    wide = gaussian(0, 400, 6) * np.array([9.0, 5.0, 0.1, 0.1, 0.1, 0.1])
    places, variance = project(wide.astype(np.float32), 2)
    assert places.shape == (400, 2) and variance > 0.99
    np.testing.assert_allclose(np.cov(places.T, bias=True), np.eye(2), atol=1e-6)
    assert abs(np.corrcoef(places[:, 0], wide[:, 0])[0, 1]) > 0.99


@pytest.mark.parametrize(("points", "dimensions"), [(np.ones((7, 5)), 0), (np.ones((1, 5)), 0), (np.eye(5)[:3], 2)])
def test_points_that_do_not_differ_have_no_dimension(points: np.ndarray, dimensions: int) -> None:
    places, variance = project(points, 4)
    assert places.shape == (len(points), dimensions) and variance == pytest.approx(1)


def test_an_entropy_is_of_half_of_the_smallest_set_that_has_enough_points() -> None:
    assert matched_draws([8, 30, 101], neighbours=4) == 15
    assert matched_draws([8, 9], neighbours=4) == 0
    found = diversity(gaussian(0, 101), 15, 4, seed=0)
    assert found is not None and found.prompts == 15 and found.low < found.value < found.high
    assert diversity(gaussian(0, 101), 0, 4, seed=0) is None
    assert diversity(gaussian(0, 8), 15, 4, seed=0) is None
    assert diversity(np.zeros((100, 0)), 15, 4, seed=0) is None


def test_a_set_of_another_place_is_new_and_one_of_the_same_place_is_alike() -> None:
    known = gaussian(0, 200)
    far, near = novelty(gaussian(1, 60) + 2, known, 4, seed=0), novelty(gaussian(2, 60), known, 4, seed=0)
    assert far is not None and near is not None
    assert (far.word, near.word) == ("new", "alike")
    assert far.divergence.prompts == far.zero.prompts == 30
    assert near.zero.low < 0 < near.zero.high
    assert novelty(gaussian(1, 60) + 2, known, 4, seed=0) == far


def test_a_set_against_itself_repeats() -> None:
    known = gaussian(0, 1000)
    found = novelty(known, known, 4, seed=0)
    assert found is not None and found.word == "repeats"


def test_a_few_hundred_points_of_one_distribution_are_never_called_new() -> None:
    # The zero is of halves, so its interval is wider than the noise of a whole set: 0 of 180 sets were called new.
    words = [novelty(gaussian(seed, 64, 4), gaussian(50 + seed, 200, 4), 4, seed) for seed in range(12)]
    assert [found.word for found in words if found] == ["alike"] * 12


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((1, 2)), np.zeros((9, 2)), np.zeros((100, 0))])
def test_too_few_points_or_no_dimension_have_no_novelty(points: np.ndarray) -> None:
    assert novelty(points, gaussian(0, 100)[:, : points.shape[1]], 4, seed=0) is None
    assert DRAWS >= 100
