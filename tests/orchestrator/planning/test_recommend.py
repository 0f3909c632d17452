"""The choice of placement and lag."""

from dataclasses import replace

import pytest

from orchestrator.planning.candidates import candidates
from orchestrator.planning.recommend import LAGS, WORTH, Recommendation, recommend
from orchestrator.planning.request import Request, split_words
from orchestrator.planning.wording import bottleneck, lines
from orchestrator.simulation.hardware import GPUS
from orchestrator.simulation.lengths import Lengths, lognormal
from orchestrator.simulation.steps import Outcome
from tests.orchestrator.planning.known_models import shapes_of

SMALL = ("policy.path=/policy", "groups_per_step=8", "sampling.group_size=4", "monitor.every=0")
LENGTHS = lognormal(600, 3072)


def recommended(gpus: int, model: str, *words: str, lengths: Lengths = LENGTHS) -> Recommendation:
    return recommend(Request(gpus=gpus), [*SMALL, *words], None, shapes_of(model), lengths, 256)


def test_the_first_lag_that_is_nearly_the_best_is_recommended() -> None:
    found = recommended(2, "1.5B", "scale=8gpu")
    assert list(found.by_lag) == list(LAGS)
    chosen = (found.candidate.cfg.lag, found.candidate.cfg.take)
    best = min(found.by_lag.values())
    assert found.by_lag[chosen] <= WORTH * best
    assert all(found.by_lag[key] > WORTH * best for key in LAGS[: LAGS.index(chosen)])
    assert found.by_lag[0, "fifo"] > found.by_lag[2, "fifo"]
    assert found.by_lag[chosen] == found.outcome.step_s


def test_a_lag_that_is_given_is_kept_and_no_other_is_simulated() -> None:
    found = recommended(2, "1.5B", "scale=8gpu", "lag=1")
    assert set(found.by_lag) == {(1, "fifo")} and found.candidate.cfg.lag == 1


def test_no_other_placement_that_was_simulated_is_faster() -> None:
    reported: list[str] = []
    words = [*SMALL, "lag=2"]
    found = recommend(Request(gpus=8), words, None, shapes_of("7B"), LENGTHS, 256, reported.append)
    assert found.others and all(seconds >= found.outcome.step_s for _, seconds in found.others)
    assert len(reported) == 1 + len(found.others)
    assert found.compared + found.too_large == len(candidates(8, words, None, shapes_of("7B"), GPUS["h100"]))


def test_a_policy_that_fits_no_placement_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        ValueError, match=r"^gpus: must hold the policy, got 8 h100 of 80 GB. None of \d+ placements"
    ) as error:
        recommended(8, "72B")
    assert str(error.value).splitlines()[1].startswith("placement: a learner")
    assert " GB, got " in str(error.value).splitlines()[1]


def test_the_text_begins_with_the_settings_to_paste_and_names_what_limits_the_step() -> None:
    found = recommended(1, "1.5B")
    text = lines(Request(gpus=1), SMALL, shapes_of("1.5B"), LENGTHS, 256, found)
    assert text[2].split() == [*found.candidate.words, *SMALL]
    assert any(line.startswith("bottleneck: ") for line in text)
    shown = sum(float(line.split()[1]) for line in text if line.startswith("  ") and line.endswith("%"))
    assert shown == pytest.approx(found.outcome.step_s, abs=0.5)


def test_the_bottleneck_tells_full_engines_from_single_long_answers_and_traffic_from_computation() -> None:
    found = recommended(1, "1.5B")
    candidate, given = found.candidate, found.outcome

    def words(seconds: dict[str, float], **changes: float) -> str:
        outcome: Outcome = replace(given, seconds=seconds, **changes)  # type: ignore[arg-type]
        return bottleneck(candidate, outcome)

    waiting = {"wait_generation": 9.0, "update": 1.0}
    assert "the step waits for its longest answers" in words(waiting, batch=2.0, preemptions=0.0)
    assert "the engines are busy" in words(waiting, batch=30.0, preemptions=0.0)
    assert "the key-value cache is full" in words(waiting, batch=30.0, preemptions=5.0)
    updating = {"wait_generation": 1.0, "update": 9.0}
    assert words(updating, exposed_s=0.0) == "update (90% of the step): more GPUs, or fewer answers"
    assert "gathering parameters" in words(updating, exposed_s=8.0)
    assert words({"reference": 2.0, "update": 1.0}).startswith("reference (67% of the step)")


def test_words_of_the_plan_are_told_from_settings() -> None:
    request, settings = split_words(["gpus=16", "gpu=h200", "answer_tokens=700", "lag=2", "policy.path=/p"])
    assert request == Request(gpus=16, gpu="h200", answer_tokens=700.0)
    assert settings == ["lag=2", "policy.path=/p"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gpus=3", "gpus: must be 1, 2, 4, or a multiple of 8: whole nodes, got 3"),
        ("gpus=many", "gpus: must be a number, got 'many'"),
        ("gpu=h101", "gpu: must be one of "),
        ("prompt_tokens=-1", "prompt_tokens: must not be negative, got -1"),
    ],
)
def test_a_wrong_word_is_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        split_words([word])
    assert str(error.value).startswith(message)
