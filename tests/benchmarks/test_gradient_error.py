"""Check the claims of docs/study/gradient_error.md with the script that writes it."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "study"))

from error_tables import PAIRS, Results, moving_weight_error, right_answers, rows
from exact_gradients import (
    NAMES,
    accepted,
    differentiated_k1,
    exact_gradient,
    gradients,
    label,
    measure,
    term_of,
)
from gradient_error import FIGURE, PAGE, page
from root_errors import root_errors
from world import DISTANCES, STALENESS, World, world

from configs.divergences import DIVERGENCES

EXACTLY = 1e-9
WITH_F = [name for name in NAMES if DIVERGENCES[name].is_f_divergence]
TWO_TOKENS = world(DISTANCES["middle"], two_tokens=True)


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(rows())


@pytest.mark.slow
def test_the_page_agrees_with_the_script_that_writes_it(results: Results) -> None:
    assert PAGE.read_text() == page(results), "run: python benchmarks/study/gradient_error.py"
    assert f"../figures/{FIGURE.name}" in PAGE.read_text() and FIGURE.exists()


def test_gradients_of_k2_and_k3_match_a_calculation_by_hand() -> None:
    # Policy (.7, .2, .1), reference (.5, .3, .2). k2: pi (log u - KL) with KL .0851228; k3: pi - reference.
    policy, reference = (torch.tensor([row], dtype=torch.float64).log() for row in ((0.7, 0.2, 0.1), (0.5, 0.3, 0.2)))
    where = World(policy, reference, reference)
    for estimator, expected in (("k2", [0.17594, -0.09812, -0.07783]), ("k3", [0.2, -0.1, -0.1])):
        each = gradients(term_of("reverse_kl", estimator=estimator), where, policy)
        assert (where.probabilities(policy) @ each).tolist() == pytest.approx(expected, abs=1e-5)
    # The k2 gradient of one answer is log u (e_a - pi). Its mean square is sum_a pi_a log^2 u_a |e_a - pi|^2 with
    # |e_a - pi|^2 = 1 - 2 pi_a + .54: .7 .113215 .14 + .2 .164402 1.14 + .1 .480453 1.34 = .112960.
    square = float(
        (where.probabilities(policy) @ gradients(term_of("reverse_kl", estimator="k2"), where, policy).square()).sum()
    )
    assert square == pytest.approx(0.112960, abs=1e-5)
    noise = measure(term_of("reverse_kl", estimator="k2"), where).noise
    size = math.hypot(0.17594, 0.09812, 0.07783)
    assert noise == pytest.approx(math.sqrt(0.112960 - size**2) / size, rel=1e-3)


def test_policy_and_reference_have_the_stated_distance() -> None:
    for pair, nats in DISTANCES.items():
        where = PAIRS[pair]
        assert float(where.kl(where.policy, where.reference)) == pytest.approx(nats)
        assert float(where.kl(where.policy, where.older)) == pytest.approx(STALENESS)


def test_every_setting_that_show_config_calls_exact_is_exact(results: Results) -> None:
    called = [row for row in results.rows if row.exact]
    assert [(r.pair, r.term.name, r.label, r.stale) for r in called if r.measured.bias > EXACTLY] == []
    assert {row.term.name for row in called} == set(NAMES)


def test_every_setting_that_show_config_calls_biased_is_biased_at_some_distance(results: Results) -> None:
    worst: dict[tuple[str, str, bool], float] = {}
    for row in results.rows:
        if not row.exact:
            key = (row.term.name, row.label, row.stale)
            worst[key] = max(worst.get(key, 0.0), row.measured.bias)
    assert worst and {key: bias for key, bias in worst.items() if bias < 0.05} == {}


def test_rehearsed_answers_give_the_exact_gradient_and_value_of_every_divergence(results: Results) -> None:
    # A ranking that begins with the token of the answer is another loss than that of the teacher's ranking.
    rehearsed = [row for row in results.rows if row.term.rehearses and row.term.name != "plackett_luce"]
    assert {"rehearse, loss k1", "rehearse, loss k3", "rehearse, vocabulary exact"} <= {row.label for row in rehearsed}
    regressed = [row for row in rehearsed if row.term.estimator == "k2"]
    assert [row.exact for row in regressed] == [False] * 3 and min(row.measured.bias for row in regressed) > 0.01
    rehearsed = [row for row in rehearsed if row not in regressed]
    assert max(row.measured.bias for row in rehearsed) < EXACTLY
    plain = [row for row in rehearsed if row.term.estimator != "supervised"]
    assert max(abs(row.measured.value_bias) for row in plain) < EXACTLY


def test_right_answers_alone_give_another_gradient_than_the_divergence() -> None:
    # The right token has u = .7 / .5 and the gradient (.3, -.2, -.1) of its log-prob: k1 has the weight -1, k3 u - 1.
    _, found, exact = right_answers()
    assert exact.tolist() == pytest.approx([0.2, -0.1, -0.1])
    for name, (everything, right) in found.items():
        assert everything.tolist() == pytest.approx(exact.tolist()), name
        expected = [0.12, -0.08, -0.04] if name.endswith("k3") else [-0.3, 0.2, 0.1]
        assert right.tolist() == pytest.approx(expected), name


def test_a_differentiated_k1_has_zero_expected_gradient_for_the_reverse_kl_and_a_wrong_one_for_others() -> None:
    with pytest.raises(ValueError, match="k1"):
        term_of("reverse_kl", estimator="k1")
    for where in PAIRS.values():
        each = gradients(differentiated_k1("reverse_kl"), where, where.policy)
        assert (where.probabilities(where.policy) @ each).abs().max() < EXACTLY
        assert each.abs().max() > 0.1
        assert measure(differentiated_k1("skew_reverse_kl"), where).cosine < -0.9
        assert measure(differentiated_k1("tsallis"), where).bias == pytest.approx(0.5)  # q = 2: f(u) / u is u - 1


def test_k2_is_the_reverse_kl_and_k3_the_forward_kl_at_every_distance() -> None:
    k2, k3 = (term_of("reverse_kl", estimator=estimator) for estimator in ("k2", "k3"))
    errors = []
    for where in PAIRS.values():
        assert measure(k2, where).bias < EXACTLY
        assert measure(k3, where, target="forward_kl").bias < EXACTLY
        assert abs(measure(k3, where).value_bias) < EXACTLY < abs(measure(k2, where).value_bias)
        errors.append(measure(k3, where).bias)
    assert errors == sorted(errors) and errors[0] < 0.1 and errors[-1] > 0.6


def test_naive_has_the_gradient_of_another_function_of_the_ratio() -> None:
    # F' = f' - f'(1) - ft / u: for chi-squared u - 1 / u, for the forward KL log u / u
    for where in PAIRS.values():
        means = {
            name: where.probabilities(where.policy) @ gradients(term_of(name, estimator="naive"), where, where.policy)
            for name in ("reverse_kl", "chi_squared", "forward_kl")
        }
        forward, chi = (exact_gradient(where, name)[1] for name in ("forward_kl", "chi_squared"))
        torch.testing.assert_close(means["reverse_kl"], forward)
        torch.testing.assert_close(means["chi_squared"], chi / 2 + forward)
        table = where.policy.clone().requires_grad_()
        log_u = table.log_softmax(-1) - where.reference.log_softmax(-1)
        squared = (where.reference.softmax(-1) * log_u.square() / 2).sum()
        torch.testing.assert_close(means["forward_kl"], torch.autograd.grad(squared, table)[0].flatten())


@pytest.mark.parametrize("name", [name for name, row in DIVERGENCES.items() if row.is_f_divergence])
def test_on_policy_the_exact_wirings_have_the_same_gradient_for_every_answer(name: str) -> None:
    where = PAIRS["middle"]
    wired = [{"wiring": "reward", "estimator": "k1"}, {"wiring": "joint", "estimator": "k1"}]
    terms = [term_of(name, **w) for w in (*wired, {"estimator": "straight_through"}, {"estimator": "ratio_weighted"})]
    first, *others = (gradients(term, where, where.policy) for term in terms)
    for other in others:
        torch.testing.assert_close(other, first)


def test_on_stale_answers_ratio_weighted_is_unbiased_and_the_reported_value_of_reward_terms_is_not() -> None:
    for name in WITH_F:
        for where in PAIRS.values():
            weighted = measure(term_of(name, estimator="ratio_weighted"), where, stale=True)
            assert weighted.bias < EXACTLY and abs(weighted.value_bias) < EXACTLY
            assert measure(term_of(name, wiring="reward", estimator="k1"), where, stale=True).value_bias > 0.03


def test_subtracting_the_tangent_never_adds_noise(results: Results) -> None:
    for pair in PAIRS:
        for name in WITH_F:
            for stale in (False, True):
                less = results.one(pair, name, "explore, joint k1", stale)
                as_it_is = results.one(pair, name, "explore, joint k1, normalised", stale)
                assert less and as_it_is and less.noise <= as_it_is.noise * (1 + EXACTLY), (pair, name, stale)


@pytest.mark.parametrize("name", WITH_F)
def test_on_two_token_answers_each_level_and_horizon_has_its_exact_gradient(name: str) -> None:
    reward = {"wiring": "reward", "estimator": "k1"}
    assert measure(term_of(name, horizon="to_go", **reward), TWO_TOKENS, kind="through").bias < EXACTLY
    assert measure(term_of(name, level="sequence", **reward), TWO_TOKENS, kind="whole").bias < EXACTLY
    to_go = measure(term_of(name, horizon="to_go", **reward), TWO_TOKENS, kind="whole").bias
    assert (to_go < EXACTLY) == (name == "reverse_kl")
    for term in accepted(name):
        if not term.rehearses and not term.exact and term.estimator not in ("naive", "k3"):
            assert measure(term, TWO_TOKENS).bias < EXACTLY, label(term)
            if term.estimator == "ratio_weighted" or term.wiring == "joint":
                assert measure(term, TWO_TOKENS, stale=True, kind="older").bias < EXACTLY, label(term)


def test_k3_of_whole_answers_has_the_forward_kl_gradient_plus_half_chi_squared_for_chi_squared() -> None:
    forward = exact_gradient(TWO_TOKENS, "forward_kl", "whole")[1]
    half = exact_gradient(TWO_TOKENS, "chi_squared", "whole")[1] / 2
    for name, expected in (("reverse_kl", forward), ("chi_squared", half + forward)):
        each = gradients(term_of(name, level="sequence", estimator="k3"), TWO_TOKENS, TWO_TOKENS.policy)
        torch.testing.assert_close(TWO_TOKENS.probabilities(TWO_TOKENS.policy) @ each, expected)


def test_the_error_of_a_root_decreases_with_batch_size() -> None:
    for title, (two, four, eight) in root_errors().items():
        assert two > 1.4 * four > 1.4 * 1.4 * eight > 0.05, title


def test_the_gradient_through_the_weight_of_mixed_kl_grows_with_distance() -> None:
    near, middle, far = (moving_weight_error(where) for where in PAIRS.values())
    assert 0 < near < middle < far < 0.2
