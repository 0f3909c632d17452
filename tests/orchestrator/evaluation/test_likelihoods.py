"""Log-likelihood vectors of policies whose KL is known: their map, and the KL from own answers."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.evaluation.likelihoods import Likelihoods, read_likelihoods

MEANS = np.array([[0.0, 0.0], [0.6, -0.2], [1.0, 1.0], [-0.3, 0.4]])


def gaussians(prompts: int = 3) -> Likelihoods:
    """Four Gaussians N(m, 1) in the plane. Each contributes one answer, the corners of a square around a point that
    differs by prompt, scaled so that the answers of a prompt have the unbiased covariance 1."""
    corners = np.sqrt(1.5) * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    answers = np.stack([corners + np.array([0.3, -1.0]) * prompt for prompt in range(prompts)])  # [P, 4, 2]
    differences = answers[None] - MEANS[:, None, None]  # [M, P, 4, 2]
    log_density = -0.5 * (differences**2).sum(-1) - np.log(2 * np.pi)
    return Likelihoods(
        names=("base", "a", "b", "c"),
        prompt_ids=tuple(f"p{i}" for i in range(prompts)),
        values=log_density[..., None],
    )


def test_the_squared_distance_of_gaussians_is_exactly_their_kl() -> None:
    """KL(N(m, 1) || N(m', 1)) = ||m - m'||^2 / 2. Here 0 and a: (.36 + .04) / 2 = .2; 0 and b: (1 + 1) / 2 = 1."""
    found = gaussians().map()
    exact = ((MEANS[:, None] - MEANS[None]) ** 2).sum(-1) / 2
    assert exact[0, 1:3] == pytest.approx([0.2, 1.0])
    assert found.squared_distances == pytest.approx(exact)
    # Four points of a plane: the map shows all of their distances, with the base at 0.
    assert found.shown == pytest.approx(1)
    assert found.places[0].tolist() == [0, 0]
    assert ((found.places[:, None] - found.places[None]) ** 2).sum(-1) == pytest.approx(exact)


def test_the_map_does_not_depend_on_the_order_of_the_policies_but_for_its_origin_and_axes() -> None:
    one = gaussians()
    order = [0, 3, 1, 2]
    other = Likelihoods(
        names=tuple(one.names[i] for i in order), prompt_ids=one.prompt_ids, values=one.values[order][:, :, order]
    )
    assert np.abs(other.map().places) == pytest.approx(np.abs(one.map().places[order]))
    assert other.map().places == pytest.approx(one.map().places[order]), "the sign of an axis is chosen by the places"


def test_constants_that_a_policy_adds_to_all_answers_of_a_prompt_do_not_matter() -> None:
    one = gaussians()
    shifted = Likelihoods(
        names=one.names, prompt_ids=one.prompt_ids, values=one.values + np.arange(12.0).reshape(4, 3, 1, 1)
    )
    assert shifted.map().squared_distances == pytest.approx(one.map().squared_distances)


def categoricals(distance: float) -> tuple[Likelihoods, float, float]:
    """Two categoricals of three answers that differ by `distance`, with answers in exact proportion to each, and their
    two KL."""
    p = np.array([0.5, 0.3, 0.2])
    q = p + distance * np.array([0.1, -0.2, 0.1])
    counts = [np.round(10_000 * rates).astype(int) for rates in (p, q)]
    drawn = np.stack([np.repeat(np.arange(3), count) for count in counts])  # [M, A]
    values = np.stack([np.log(rates)[drawn] for rates in (p, q)])[:, None]
    likelihoods = Likelihoods(names=("p", "q"), prompt_ids=("x",), values=values)
    return likelihoods, float((p * np.log(p / q)).sum()), float((q * np.log(q / p)).sum())


@pytest.mark.parametrize("distance", [1.0, 0.5, 0.1])
def test_the_kl_from_own_answers_is_exact_in_both_directions(distance: float) -> None:
    likelihoods, forward, backward = categoricals(distance)
    assert likelihoods.kl()[:, :, 0] == pytest.approx(np.array([[0, forward], [backward, 0]]), rel=1e-9)


@pytest.mark.parametrize(("distance", "error"), [(0.5, 0.05), (0.1, 0.002), (0.05, 0.0008)])
def test_the_squared_distance_of_categoricals_approaches_their_kl_as_they_do(distance: float, error: float) -> None:
    likelihoods, forward, backward = categoricals(distance)
    found = likelihoods.map().squared_distances[0, 1]
    assert found == pytest.approx((forward + backward) / 2, rel=error)


def test_likelihoods_are_read_as_they_were_written_one_row_per_answer(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2, 4))
    written = Likelihoods(names=("base", "run"), prompt_ids=("x", "y", "z"), values=values)
    assert read_likelihoods(tmp_path) is None
    written.write(tmp_path)
    read = read_likelihoods(tmp_path)
    assert read is not None
    assert (read.names, read.prompt_ids) == (written.names, written.prompt_ids)
    assert (read.values == values).all()
