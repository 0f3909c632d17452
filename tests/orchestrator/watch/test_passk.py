"""Pass@k, its intervals, and the prompts lost and gained against the base."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.watch.measurement import Measurement, PromptResult, measure
from orchestrator.watch.passk import fired_rule, lost_and_gained, pass_at_k, summary
from trajectories.trajectory import Grade, Group, Prompt, Trajectory


def result(prompt_id: str, total: int, correct: int, **changes: object) -> PromptResult:
    fields: dict[str, object] = {
        "prompt_id": prompt_id,
        "prompt_text": prompt_id,
        "total": total,
        "correct": correct,
        "ungraded": 0,
        "distinct_correct": min(correct, 2),
        "majority_correct": correct * 2 > total,
        "tokens": 10 * total,
        "negative_logp": 5.0 * total,
        "log_probs": (-5.0,) * total,
        "kl_to_base": None,
        "correct_answers": (),
        "wrong_answers": (),
    }
    return PromptResult(**{**fields, **changes})  # type: ignore[arg-type]


def measured(corrects: list[int], total: int = 8, name: str = "m") -> Measurement:
    rows = tuple(result(f"p{i}", total, c) for i, c in enumerate(corrects))
    return Measurement(name=name, step=0, temperature=1.0, answers=total, prompts=rows)


def trajectory(index: int, text: str, status: str, reference: float | None = None) -> Trajectory:
    """Two prompt tokens and two generated ones with log-probs -1 and -2."""
    return Trajectory(
        prompt_id="p",
        sample_index=index,
        tokens=np.arange(4, dtype=np.int32),
        mask=np.array([False, False, True, True]),
        logp_sampler=np.array([9, 9, -1, -2], dtype=np.float32),
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=0,
        text=text,
        grade=Grade(reward=None if status == "grader_error" else float(status == "correct"), status=status),
        logp_reference=None if reference is None else np.array([np.nan, np.nan, reference, reference], np.float32),
    )


def group(*trajectories: Trajectory) -> Group:
    prompt = Prompt(id="p", position=0, text="1,2=3:", verifier="countdown", problem={})
    return Group(prompt=prompt, trajectories=trajectories)


def test_pass_at_k_has_the_published_value() -> None:
    assert pass_at_k(16, 3, 8) == pytest.approx(0.9)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_fraction_of_all_draws_that_include_a_correct_answer(case: tuple[int, int, int]) -> None:
    total, correct, k = case
    draws = list(combinations(range(total), k))
    fraction = sum(min(draw) < correct for draw in draws) / len(draws)
    assert pass_at_k(total, correct, k) == pytest.approx(fraction, abs=1e-12)


@given(st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n - 1))))
def test_pass_at_k_never_falls_with_k_or_with_another_correct_answer(case: tuple[int, int, int]) -> None:
    total, correct, k = case
    here = pass_at_k(total, correct, k)
    assert 0.0 <= here <= 1.0
    assert pass_at_k(total, correct, k + 1) >= here - 1e-12
    assert pass_at_k(total, min(correct + 1, total), k) >= here - 1e-12


@pytest.mark.parametrize(("total", "correct", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_without_an_unbiased_estimate_is_refused(total: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        pass_at_k(total, correct, k)


def test_a_measurement_counts_answers_and_leaves_out_ungraded_ones() -> None:
    answers = [
        trajectory(0, " 1+2 ", "correct"),
        trajectory(1, "1+2", "correct"),
        trajectory(2, "2+1", "correct"),
        trajectory(3, "2*1", "wrong"),
        trajectory(4, "", "timeout"),
        trajectory(5, "9", "grader_error"),
    ]
    got = measure([group(*answers)], "base", 3, 1.0)
    (prompt,) = got.prompts
    assert (got.name, got.step, got.answers, got.ungraded) == ("base", 3, 6, 1)
    assert (prompt.total, prompt.correct, prompt.ungraded, prompt.distinct_correct) == (5, 3, 1, 2)
    assert prompt.majority_correct
    assert prompt.correct_answers == ("1+2", "2+1") and prompt.wrong_answers == ("2*1", "")
    values = summary(got, [1], None)
    assert values["entropy"].value == pytest.approx(1.5)
    assert "kl_to_base" not in values


def test_a_kept_wrong_answer_has_its_verdict_and_reason() -> None:
    graded = replace(trajectory(0, "2*1", ""), grade=Grade(reward=0.0, status="wrong", reason="evaluates to 2, not 3"))
    (prompt,) = measure([group(graded, trajectory(1, "", "timeout"))], "base", 3, 1.0).prompts
    assert dict(zip(prompt.wrong_answers, prompt.wrong_reasons, strict=True)) == {
        "2*1": "wrong: evaluates to 2, not 3",
        "": "timeout",
    }


def test_kl_to_base_is_the_mean_over_answers_of_the_sum_over_their_generated_tokens() -> None:
    got = measure([group(trajectory(0, "a", "wrong", -2.0), trajectory(1, "b", "wrong", -4.0))], "m", 0, 1.0)
    # (-1 + 2) + (-2 + 2) = 1 and (-1 + 4) + (-2 + 4) = 5
    assert got.prompts[0].kl_to_base == pytest.approx(3.0)
    assert summary(got, [1], None)["kl_to_base"].value == pytest.approx(3.0)


def test_an_answer_of_any_length_and_content_is_measured_and_its_kept_text_is_short() -> None:
    hostile = "\x00\ud800" + "x" * 100_000
    got = measure([group(trajectory(0, hostile, "wrong"))], "m", 0, 1.0)
    assert len(got.prompts[0].wrong_answers[0]) <= 2_000
    assert Measurement.from_json(got.to_json()) == got


def test_a_measurement_survives_json_and_other_text_is_refused() -> None:
    got = measured([0, 3, 8])
    assert Measurement.from_json(got.to_json()) == got
    for text in (
        "",
        "[]",
        '{"name": "x"}',
        '{"prompts": [{"total": 1}], "name": "x", "step": 0, "answers": 1, "temperature": 1}',
    ):
        with pytest.raises(ValueError, match="measurement"):
            Measurement.from_json(text)


def test_the_summary_has_the_values_counted_by_hand() -> None:
    base = measured([4, 0, 8, 0, 1])
    got = summary(measured([2, 1, 8, 0, 0]), [1, 4], base)
    assert got["pass@1"].value == pytest.approx((2 + 1 + 8) / 40)
    assert got["pass@4"].value == pytest.approx((pass_at_k(8, 2, 4) + 0.5 + 1) / 5)
    assert got["retention"].value == pytest.approx(2 / 3) and got["retention"].prompts == 3
    assert got["expansion"].value == pytest.approx(1 / 2) and got["expansion"].prompts == 2
    assert got["maj@n"].value == pytest.approx(1 / 5)
    assert got["distinct_correct"].value == pytest.approx((2 + 1 + 2) / 5)
    assert got["entropy"].value == pytest.approx(0.5)
    assert got["change/pass@1"].value == pytest.approx((2 + 1 + 8) / 40 - (4 + 8 + 1) / 40)
    assert "kl_to_base" not in got


def test_the_change_since_the_base_is_paired_and_leaves_out_prompts_without_k_graded_answers_in_both() -> None:
    base = measured([4, 2, 6, 1])
    every = summary(measured([5, 3, 7, 2]), [1, 4], base)["change/pass@1"]
    assert (every.value, every.low, every.high) == pytest.approx((1 / 8, 1 / 8, 1 / 8)), "the same gain on each prompt"
    short = Measurement(
        name="m", step=0, answers=8, temperature=1.0, prompts=(result("p0", 3, 3), *measured([5, 3, 7, 2]).prompts[1:])
    )
    got = summary(short, [1, 4], base)
    assert (got["change/pass@4"].prompts, got["change/pass@1"].prompts) == (3, 4)
    assert "change/pass@1" not in summary(short, [1], None)


def test_a_prompt_with_fewer_graded_answers_than_k_is_in_no_pass_at_that_k() -> None:
    rows = (result("a", 8, 8), result("b", 3, 0), result("c", 0, 0))
    got = summary(Measurement(name="m", step=0, answers=8, temperature=1.0, prompts=rows), [1, 8, 9], None)
    assert (got["pass@1"].value, got["pass@1"].prompts) == (0.5, 2)
    assert (got["pass@8"].value, got["pass@8"].prompts) == (1.0, 1)
    assert math.isnan(got["pass@9"].value) and math.isnan(got["pass@9"].low) and got["pass@9"].prompts == 0


def test_retention_is_unknown_when_the_base_solved_nothing() -> None:
    got = summary(measured([1, 1]), [1], measured([0, 0]))
    assert math.isnan(got["retention"].value)
    assert got["expansion"].value == 1.0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(0, 5))
def test_an_interval_holds_its_value_and_is_the_same_for_the_same_seed(corrects: list[int], seed: int) -> None:
    now, base = measured(corrects), measured(list(reversed(corrects)))
    first = summary(now, [1, 8], base, seed=seed, resamples=200)
    assert repr(first) == repr(summary(now, [1, 8], base, seed=seed, resamples=200))
    for interval in first.values():
        assert math.isnan(interval.value) or interval.low <= interval.value <= interval.high


def test_an_interval_is_as_wide_as_the_normal_approximation_says() -> None:
    rng = np.random.default_rng(0)
    corrects = rng.integers(0, 9, size=400).tolist()
    interval = summary(measured(corrects), [1], None, resamples=4_000)["pass@1"]
    half = 1.96 * np.std(np.array(corrects) / 8) / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_the_order_of_prompts_changes_nothing_in_the_values() -> None:
    base = measured([4, 0, 8, 0, 1])
    shuffled = Measurement(name="m", step=0, answers=8, temperature=1.0, prompts=tuple(reversed(base.prompts)))
    values = {name: interval.value for name, interval in summary(shuffled, [1, 8], base).items()}
    assert values == pytest.approx({name: interval.value for name, interval in summary(base, [1, 8], base).items()})
    assert values["retention"] == 1.0 and values["expansion"] == 0.0


def mixed(**corrects: list[int]) -> Measurement:
    """A measurement of a mixture: 8 answers to each prompt, correct counts by domain."""
    rows = (result(f"{domain}/heldout/{i}", 8, c) for domain, counts in corrects.items() for i, c in enumerate(counts))
    return Measurement(name="m", step=0, answers=8, temperature=1.0, prompts=tuple(rows))


def test_a_mixture_has_pass_at_k_of_every_domain_and_of_all_prompts() -> None:
    values = summary(mixed(math=[8, 4], sql2=[0, 0, 8]), [1, 8, 16], None)
    assert values["pass@1"].value == pytest.approx((1 + 0.5 + 1) / 5)
    assert values["pass@1/math"].value == pytest.approx(0.75) and values["pass@1/math"].prompts == 2
    assert values["pass@1/sql2"].value == pytest.approx(1 / 3) and values["pass@1/sql2"].prompts == 3
    assert values["pass@8/math"].value == 1.0
    assert values["pass@1/sql2"].low == 0.0 and values["pass@1/sql2"].high == 1.0
    assert values["pass@16/math"].prompts == 0 and math.isnan(values["pass@16/math"].value)


def test_a_single_task_has_no_pass_at_k_by_domain() -> None:
    for measurement in (mixed(countdown=[1, 2]), measured([1, 2])):
        assert [name for name in summary(measurement, [1], None) if name.startswith("pass@")] == ["pass@1"]


def test_only_the_base_solved_lost_prompts_and_only_the_other_policy_gained_ones() -> None:
    base, now = measured([1, 6, 0, 3, 0]), measured([0, 0, 2, 3, 0])
    lost, gained = lost_and_gained(base, now)
    assert [b.prompt_id for b, _ in lost] == ["p1", "p0"]
    assert [(b.prompt_id, b.correct, n.correct) for b, n in gained] == [("p2", 0, 2)]


def test_measurements_of_different_prompts_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        summary(measured([1, 2]), [1], measured([1, 2, 3]))
    with pytest.raises(ValueError, match="at least one prompt"):
        summary(measured([]), [1], None)


def test_a_stop_rule_is_true_only_beyond_its_limit() -> None:
    values = {"retention": 0.75, "kl_to_base": 12.0, "expansion": math.nan}
    assert fired_rule(["retention < 0.7", "kl_to_base > 10"], values) == "kl_to_base > 10"
    assert fired_rule(["retention < 0.8"], values) == "retention < 0.8"
    assert fired_rule(["retention < 0.75", "expansion < 1", "expansion > 0"], values) is None
    assert fired_rule([], values) is None


def test_a_stop_rule_on_an_unknown_metric_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"expansion, pass@1.*'pass@2'"):
        fired_rule(["pass@2 < 0.5"], {"pass@1": 0.3, "expansion": 0.1})
