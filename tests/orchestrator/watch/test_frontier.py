"""The sharpening frontier, on policies whose answers can be enumerated: every Pass@k is known in closed form."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.watch.frontier import BaseCurve, place
from orchestrator.watch.passk import pass_at_k
from orchestrator.watch.power import effective_answers, power_passes

KS = (1, 4, 16, 64)
TEMPERATURES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
PROMPTS, ANSWERS = 48, 12


def base_logits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs of 12 answers to each of 48 prompts [P, V], and which are right [P, V]: 1 to 4 of them."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (PROMPTS, ANSWERS))
    right = np.arange(ANSWERS) < random.integers(1, 5, (PROMPTS, 1))
    logits += np.where(right, 0.3, 0.0)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), right


def chance(logits: np.ndarray, right: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probability of a right answer [P] at a temperature."""
    if temperature == 0:
        return right[np.arange(len(right)), logits.argmax(1)].astype(float)
    tempered = logits / temperature
    tempered = np.exp(tempered - tempered.max(1, keepdims=True))
    found: np.ndarray = (tempered * right).sum(1) / tempered.sum(1)
    return found


def passes(p: np.ndarray) -> dict[int, np.ndarray]:
    return {k: 1 - (1 - p) ** k for k in KS}


def frontier(logits: np.ndarray, right: np.ndarray, heat: tuple[float, ...] = TEMPERATURES) -> BaseCurve:
    settings_ = np.stack([chance(logits, right, t) for t in heat])
    return BaseCurve(temperatures=heat, passes=passes(settings_))


def words(policy: np.ndarray, base: BaseCurve) -> dict[int, str]:
    return {k: place(passes(policy), base, k).word for k in KS}


def test_the_base_is_on_its_own_frontier_with_differences_of_0() -> None:
    logits, right = base_logits()
    base = frontier(logits, right)
    for k in KS[1:]:
        placed = place(passes(chance(logits, right)), base, k)
        assert placed.word == "on"
        assert placed.margin.value == pytest.approx(0, abs=1e-12)
        assert placed.pass_k_above.value == pytest.approx(0, abs=1e-12)
    # At k = 1 the frontier is the single best Pass@1, which the base has at a colder temperature.
    assert place(passes(chance(logits, right)), base, 1).word == "below"


@pytest.mark.parametrize("temperature", [0.93, 0.7, 0.66, 0.5, 0.47])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tempered_policy_is_on_the_frontier_also_between_the_measured_temperatures(
    temperature: float, seed: int
) -> None:
    logits, right = base_logits(seed)
    tempered = chance(logits, right, temperature)
    for k in KS[1:]:
        placed = place(passes(tempered), frontier(logits, right), k)
        assert abs(placed.margin.value) < 0.003, (k, placed)
        assert placed.word == "on", (k, placed)


def test_a_policy_with_new_skill_is_beyond_the_frontier_at_every_k() -> None:
    logits, right = base_logits()
    skilled = chance(logits + np.where(right, 2.0, 0.0), right)  # e^2 times the odds of every right answer
    base = frontier(logits, right)
    assert words(skilled, base) == dict.fromkeys(KS, "beyond")
    assert skilled.mean() > max(of_setting.mean() for of_setting in base.passes[1])
    placed = place(passes(skilled), base, 16)
    assert placed.unreached and placed.pass_k_above.low == np.inf
    assert placed.margin.low > 0.05


def test_a_collapsed_policy_is_below_the_frontier() -> None:
    logits, right = base_logits()
    # One answer to each prompt, right where greedy decoding is right, except on a fifth of the prompts.
    collapsed = chance(logits, right, 0.0)
    collapsed[::5] = 0.0
    assert words(collapsed, frontier(logits, right)) == dict.fromkeys(KS, "below")


def test_a_policy_with_less_breadth_at_the_pass_1_of_a_setting_is_below_by_the_difference() -> None:
    base = BaseCurve(
        temperatures=(1.0, 0.0), passes={1: np.full((2, 8), [[0.3], [0.5]]), 4: np.full((2, 8), [[0.9], [0.6]])}
    )
    placed = place({1: np.full(8, 0.3), 4: np.full(8, 0.7)}, base, 4)
    assert (placed.word, placed.unreached) == ("below", False)
    assert placed.pass_k_above.value == pytest.approx(0.7 - 0.9)
    assert placed.margin.value < 0


def test_a_setting_that_is_worse_in_both_does_not_lower_the_frontier() -> None:
    """The most likely answer is wrong: colder sampling loses Pass@1 and Pass@k, so the frontier is temperature 1."""
    base = BaseCurve(
        temperatures=(1.0, 0.5, 0.0),
        passes={1: np.full((3, 8), [[0.3], [0.2], [0]]), 4: np.full((3, 8), [[0.8], [0.5], [0]])},
    )
    placed = place({1: np.full(8, 0.25), 4: np.full(8, 0.8)}, base, 4)
    assert placed.pass_k_above.value == pytest.approx(0.0)
    assert place({1: np.full(8, 0.25), 4: np.full(8, 0.75)}, base, 4).word == "below"
    assert place({1: np.full(8, 0.31), 4: np.full(8, 0.5)}, base, 4).word == "beyond"


def test_the_three_differences_agree_in_sign() -> None:
    random = np.random.default_rng(5)
    logits, right = base_logits()
    base = frontier(logits, right)
    for _ in range(40):
        shifted = logits + random.normal(0, 1, logits.shape) + np.where(right, random.normal(0, 0.6), 0)
        placed = place(passes(chance(shifted, right, random.uniform(0.3, 1.2))), base, 16)
        values = [placed.margin.value, placed.pass_k_above.value, placed.pass_1_above.value]
        assert len({np.sign(v) for v in values}) == 1, values


def test_the_interval_is_paired_so_a_small_gain_on_every_prompt_is_seen() -> None:
    logits, right = base_logits()
    base = frontier(logits, right, (1.0, 0.8))
    p = chance(logits, right, 0.8)
    gained = place(passes(p + 0.01 * (1 - p)), base, 1)
    assert gained.word == "beyond"
    assert gained.margin.high - gained.margin.low < p.std() / np.sqrt(len(p)) / 2


def test_prompts_with_too_few_graded_answers_are_left_out_of_policy_and_base() -> None:
    logits, right = base_logits()
    base, policy = frontier(logits, right), passes(chance(logits, right, 0.8))
    cut = {k: np.append(v[:-1], np.nan) for k, v in policy.items()}
    short = BaseCurve(temperatures=base.temperatures, passes={k: v[:, :-1] for k, v in base.passes.items()})
    without, shorter = place(cut, base, 4), place({k: v[:-1] for k, v in policy.items()}, short, 4)
    assert without.margin.value == pytest.approx(shorter.margin.value)
    assert without.margin.prompts == PROMPTS - 1
    nothing = place({k: np.full(PROMPTS, np.nan) for k in KS}, base, 4)
    assert (nothing.word, nothing.margin.prompts, nothing.unreached) == ("not measured", 0, False)


def test_an_interval_over_few_known_prompts_leaves_out_resamples_without_them() -> None:
    base = BaseCurve(temperatures=(1.0,), passes={1: np.full((1, 64), 0.2), 4: np.full((1, 64), 0.5)})
    policy = {1: np.full(64, np.nan), 4: np.full(64, np.nan)}
    policy[1][:2], policy[4][:2] = 0.7, 0.9
    placed = place(policy, base, 4)
    assert (placed.word, placed.margin.prompts) == ("beyond", 2)
    assert (placed.margin.low, placed.margin.high) == pytest.approx((0.5, 0.5))


def test_a_tie_in_one_of_both_is_below_where_the_other_is_behind() -> None:
    """The base solves everything in 4 answers at each temperature, so Pass@4 is a tie and Pass@1 decides."""
    base = BaseCurve(temperatures=(1.0, 0.0), passes={1: np.full((2, 8), [[0.8], [0.9]]), 4: np.full((2, 8), 1.0)})
    behind = place({1: np.full(8, 0.2), 4: np.full(8, 1.0)}, base, 4)
    assert behind.margin.value == 0 and behind.pass_1_above.value == pytest.approx(-0.7)
    assert behind.word == "below"
    assert place({1: np.full(8, 0.9), 4: np.full(8, 1.0)}, base, 4).word == "on"
    assert place({1: np.full(8, 0.95), 4: np.full(8, 1.0)}, base, 4).word == "beyond"


def test_the_margin_is_smallest_where_the_curve_is_equally_far_in_both() -> None:
    """Straight from (0.2, 0.8) to (0.6, 0.4): the nearest point to (0.3, 0.5) from above is (0.4, 0.6), 0.1 away."""
    ends = np.linspace(1, 0, 9)
    base = BaseCurve(
        temperatures=tuple(ends),
        passes={1: np.full((9, 4), (0.6 - 0.4 * ends)[:, None]), 4: np.full((9, 4), (0.4 + 0.4 * ends)[:, None])},
    )
    placed = place({1: np.full(4, 0.3), 4: np.full(4, 0.4876)}, base, 4)
    assert placed.margin.value == pytest.approx((0.3 + 0.4876 - 1.0) / 2)


@given(st.integers(0, 10_000), st.integers(1, 7), st.floats(1, 4))
@settings(max_examples=40)
def test_pass_at_k_of_the_power_distribution_is_the_weighted_share_of_all_choices(
    seed: int, k: int, alpha: float
) -> None:
    random = np.random.default_rng(seed)
    n = 7
    correct = int(random.integers(0, n + 1))
    log_probs = random.normal(-5, 2, n)
    weights = np.exp((alpha - 1) * log_probs)
    choices = [(np.prod(weights[list(c)]), min(c) < correct) for c in combinations(range(n), k)]
    expected = sum(w for w, right in choices if right) / sum(w for w, _ in choices)
    found = power_passes([log_probs], [correct], alpha, [1, k])
    assert found[k][0] == pytest.approx(expected, abs=1e-9)


def test_the_power_distribution_approaches_its_closed_form_with_many_answers() -> None:
    logits, right = base_logits(3)
    random = np.random.default_rng(0)
    prompt, n = 0, 20_000
    drawn = random.choice(ANSWERS, size=n, p=np.exp(logits[prompt]))
    drawn = np.array(sorted(drawn, key=lambda answer: not right[prompt, answer]))
    log_probs, correct = logits[prompt][drawn], int(right[prompt][drawn].sum())
    for alpha in (1.5, 2.0, 3.0):
        p = chance(alpha * logits, right)[prompt]
        found = power_passes([log_probs], [correct], alpha, [1, 4])
        assert found[1][0] == pytest.approx(p, abs=0.01)
        assert found[4][0] == pytest.approx(1 - (1 - p) ** 4, abs=0.01)


def test_effective_answers_fall_from_all_of_them_to_those_of_the_highest_probability() -> None:
    rows = [np.array([-1.0, -1.0, -9.0, -9.0]), np.array([])]
    assert effective_answers(rows, 1.0).tolist() == [4.0, 0.0]
    assert effective_answers(rows, 9.0)[0] == pytest.approx(2.0)
    assert np.isnan(power_passes(rows, [1, 0], 2.0, [1])[1][1])


def test_a_tempered_policy_that_is_sampled_is_rarely_beyond() -> None:
    """128 answers per prompt to policies and settings: 95 % intervals may err, beyond at most once in twenty."""

    def sampled(p: np.ndarray, random: np.random.Generator) -> dict[int, np.ndarray]:
        counts = random.binomial(128, p)
        return {k: np.array([pass_at_k(128, int(c), k) for c in counts]) for k in KS}

    beyond = dict.fromkeys(KS, 0)
    for seed in range(60):
        random = np.random.default_rng(seed)
        logits, right = base_logits(seed)
        settings_ = [sampled(chance(logits, right, t), random) for t in TEMPERATURES]
        base = BaseCurve(temperatures=TEMPERATURES, passes={k: np.stack([s[k] for s in settings_]) for k in KS})
        policy = sampled(chance(logits, right, random.uniform(0.4, 1.0)), random)
        for k in KS:
            beyond[k] += place(policy, base, k).word == "beyond"
    assert max(beyond.values()) <= 3, beyond
