"""Reward against KL on distributions that can be enumerated: best of n, the tilt, and the efficiency of policies."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evaluation.reward_kl import (
    best_of,
    best_of_bound,
    best_of_points,
    binary_kl,
    efficiency,
    tilt_curve,
    tilt_points,
    tilted,
)
from orchestrator.watch.measurement import Measurement, PromptResult

BASE = np.array([0.4, 0.1, 0.3, 0.2])
RIGHT = np.array([0, 1, 0, 1])  # p = 0.3
ANSWERS = 1000


def measurement(name: str, rights: list[int], kls: list[float] | None, answers: int = ANSWERS) -> Measurement:
    """A policy with so many right of ANSWERS answers, and this KL to the base, on each prompt."""
    prompts = tuple(
        PromptResult(
            prompt_id=f"p{i}",
            prompt_text="",
            total=answers,
            correct=right,
            ungraded=0,
            distinct_correct=1,
            verifier="countdown",
            votes=(),
            right_votes=(),
            tokens=answers,
            negative_logp=0.0,
            log_probs=(),
            kl_to_base=None if kls is None else kls[i],
            correct_answers=(),
            wrong_answers=(),
        )
        for i, right in enumerate(rights)
    )
    return Measurement(name=name, step=0, temperature=1.0, answers=answers, prompts=prompts)


def kl(q: np.ndarray, p: np.ndarray) -> float:
    return float((q * np.log(q / p)).sum())


def best_of_distribution(n: int) -> np.ndarray:
    """The exact distribution of the best of n answers of BASE, the first one of equal reward, by enumeration."""
    found = np.zeros(4)
    for drawn in product(range(4), repeat=n):
        best = max(drawn, key=lambda answer: RIGHT[answer])
        found[best] += BASE[list(drawn)].prod()
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_kl_of_the_best_of_n_is_that_of_the_enumerated_distribution_and_below_its_bound(n: int) -> None:
    exact, p = best_of_distribution(n), np.array(0.3)
    assert (exact * RIGHT).sum() == pytest.approx(float(best_of(p, n)), abs=1e-12)
    assert kl(exact, BASE) == pytest.approx(float(binary_kl(best_of(p, n), p)), abs=1e-12)
    assert kl(exact, BASE) <= best_of_bound(n) + 1e-12


def test_the_best_of_n_has_the_numbers_worked_out_by_hand() -> None:
    """p = 0.3. n = 2: q = 1 - 0.49 = 0.51, KL = .51 log(.51/.3) + .49 log(.49/.7) = .27062 - .17477 = .0958, bound
    log 2 - 1/2 = .1931. n = 4: q = .7599, KL = .4493, bound .6363. n = 64: KL = log(1/.3) = 1.2040, bound 3.1745."""
    points = {point["n"]: point for point in best_of_points(measurement("base", [300], None, 1000))}
    assert [points[n]["reward"] for n in (1, 2, 4)] == pytest.approx([0.3, 0.51, 0.7599])
    assert [points[n]["kl"] for n in (1, 2, 4, 64)] == pytest.approx([0, 0.0958, 0.4493, 1.2040], abs=5e-5)
    assert [points[n]["bound"] for n in (1, 2, 4, 64)] == pytest.approx([0, 0.1931, 0.6363, 3.1745], abs=5e-5)
    # Without replacement: 1 - (700 * 699) / (1000 * 999).
    assert points[2]["pass@n"] == pytest.approx(1 - 700 * 699 / (1000 * 999))


def test_the_tilt_is_the_maximum_of_reward_minus_beta_times_kl() -> None:
    beta = 0.5
    weights = BASE * np.exp(RIGHT / beta)
    exact = weights / weights.sum()
    p = np.array(0.3)
    q = tilted(p, 1 / beta)
    assert (exact * RIGHT).sum() == pytest.approx(float(q))
    assert kl(exact, BASE) == pytest.approx(float(binary_kl(q, p)))

    def value(rate: np.ndarray) -> np.ndarray:
        return rate - beta * binary_kl(rate, p)

    others = np.linspace(0.001, 0.999, 999)
    assert (value(others) <= value(q)).all()
    # J = beta log Z at the optimum, Z = E[exp(r / beta)] = .3 e^2 + .7.
    assert float(value(q)) == pytest.approx(beta * np.log(0.3 * np.exp(2) + 0.7))


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6), st.floats(0.1, 5.0))
def test_along_the_tilt_the_reward_rises_by_beta_per_nat_for_all_prompts_together(
    rates: list[float], at: float
) -> None:
    step = 1e-4
    spent, reward = (values.mean(1) for values in tilt_curve(np.array(rates), np.array([at - step, at + step])))
    assert (reward[1] - reward[0]) / (spent[1] - spent[0]) == pytest.approx(1 / at, rel=1e-3)


def test_prompts_without_a_right_or_a_wrong_answer_stay_at_kl_0() -> None:
    spent, reward = tilt_curve(np.array([0.0, 1.0]))
    assert not spent.any()
    assert (reward == [0.0, 1.0]).all()
    with np.errstate(all="raise"):
        assert binary_kl(np.array([0.2, 0.8]), np.array([0.0, 1.0])).tolist() == [np.inf, np.inf]


def test_best_of_n_lies_on_the_tilt_for_one_prompt_and_inside_it_for_several() -> None:
    strengths = np.linspace(0, 30, 50_001)
    for rights, inside in (([300] * 4, False), ([10, 100, 500, 900], True)):
        spent, reward = (v.mean(1) for v in tilt_curve(np.array(rights) / ANSWERS, strengths))
        for point in best_of_points(measurement("base", rights, None))[1:6]:
            highest = np.interp(point["kl"], spent, reward)
            assert (highest - point["reward"] > 1e-3) == inside
            assert highest >= point["reward"] - 1e-6


def test_every_beta_of_the_results_is_a_point_of_the_tilt() -> None:
    points = {point["beta"]: point for point in tilt_points(measurement("base", [300, 0], None))}
    # beta = 0.5: q = .3 e^2 / (.3 e^2 + .7) = 2.21672 / 2.91672 = .76000 and
    # kl = .76 log(.76/.3) + .24 log(.24/.7) = .4495.
    assert points[0.5]["reward"] == pytest.approx(0.76000 / 2, abs=1e-5)
    assert points[0.5]["kl"] == pytest.approx(0.4495 / 2, abs=1e-4)


def test_a_policy_on_the_tilt_uses_all_of_its_kl_and_any_other_one_less() -> None:
    rights = [100, 300, 500, 0, 1000]
    base = measurement("base", rights, None)
    p = np.array(rights) / ANSWERS
    q = tilted(p, 1.5)
    passed = [round(ANSWERS * rate) for rate in q]
    needed = binary_kl(np.array(passed) / ANSWERS, p)
    at = efficiency(measurement("tilt", passed, needed.tolist()), base)
    assert at["optimal_gain"].value == pytest.approx(1, abs=1e-3)
    assert at["kl_efficiency"].value == pytest.approx(1, abs=5e-3), "smoothed pass rates"

    # The same pass rates at twice the KL: half of it is needed, and the tilt at twice the KL gains more.
    twice = efficiency(measurement("far", passed, (2 * needed).tolist()), base)
    assert twice["kl_efficiency"].value == pytest.approx(0.5, abs=5e-3)
    strengths = np.linspace(0, 12, 20_001)
    spent, reward = (v.mean(1) for v in tilt_curve(p, strengths))
    expected = (np.mean(passed) / ANSWERS - p.mean()) / (np.interp(2 * needed.mean(), spent, reward) - p.mean())
    assert twice["optimal_gain"].value == pytest.approx(expected, abs=1e-3)
    assert expected < 0.8

    # Another temperature per prompt: every prompt is a reweighting, but the KL is not where it gains most.
    uneven = tilted(p, np.array([3.0, 0.2, 0.2, 0.0, 0.0]))
    passed = [round(ANSWERS * rate) for rate in uneven]
    found = efficiency(measurement("uneven", passed, binary_kl(np.array(passed) / ANSWERS, p).tolist()), base)
    assert found["kl_efficiency"].value == pytest.approx(1, abs=1e-2)
    assert found["optimal_gain"].value < 0.99


def test_where_no_kl_is_shown_the_efficiency_is_undefined_and_without_a_kl_there_is_none() -> None:
    base = measurement("base", [500, 500], None)
    found = efficiency(measurement("same", [510, 490], [0.1, -0.1]), base)
    assert {name: value.prompts for name, value in found.items()} == {"kl_efficiency": 0, "optimal_gain": 0}
    assert efficiency(measurement("unscored", [500, 500], None), base) == {}


def test_solving_what_the_base_never_solved_has_a_finite_efficiency() -> None:
    base = measurement("base", [0, 500], None)
    found = efficiency(measurement("new", [500, 500], [5.0, 0.1]), base)
    # Smoothed: q = 500.5/1001 = .5, p = .5/1001 = .0004995: kl = .5 log(.5/.0004995) + .5 log(.5/.9995) = 3.1081.
    assert found["kl_efficiency"].value == pytest.approx(3.1081 / 5.1, abs=1e-4)
    assert found["optimal_gain"].value > 1 / 2
