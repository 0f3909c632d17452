"""Schedules of a coefficient: pure functions of the step."""

import json
from dataclasses import asdict

import pytest

from configs.coefficient import CoefficientConfig
from configs.load import presets
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState, advance, initial_state
from objectives.wording import describe_coefficient
from tests.objectives.ragged_batch import divergence, objective, weighted
from tests.objectives.random_answers import of


def scheduled(**choices: object) -> ObjectiveConfig:
    coefficient = CoefficientConfig(**choices)  # type: ignore[arg-type]
    return objective(terms={"divergence": divergence("reverse_kl", estimator="k2", coefficient=coefficient)})


def path(cfg: ObjectiveConfig, steps: int, until: int) -> list[float]:
    """The coefficient of every step, as a run advances it."""
    state = initial_state(cfg, steps)
    found = [state.coefficients["divergence"]]
    for step in range(1, until + 1):
        state = advance(state, cfg, {}, trajectories=8, step=step, steps=steps)
        found.append(state.coefficients["divergence"])
    return found


def test_kdrls_annealing_falls_to_its_floor_and_stays() -> None:
    # max(.005 - .00005 s, .001): the floor is reached at step 80
    cfg = scheduled(kind="linear", value=0.005, final=0.001, over=80)
    found = path(cfg, 280, 200)
    assert [found[step] for step in (0, 40, 80, 200)] == pytest.approx([5e-3, 3e-3, 1e-3, 1e-3])
    assert found == pytest.approx([max(0.005 - 0.00005 * step, 0.001) for step in range(201)])
    assert of("kdrl").terms["divergence"].coefficient == cfg.terms["divergence"].coefficient


def test_grpo_d_rises_from_nothing_to_grpos_own_over_the_run() -> None:
    found = path(of("grpo_d"), 10, 12)
    assert found == pytest.approx([0.04 * min(step / 10, 1) for step in range(13)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]),
        # 1 + 2 (1 - cos(pi s / 4)) / 2: 1 - cos 45 degrees = .2928932
        ("cosine", [1.0, 1.2928932, 2.0, 2.7071068, 3.0, 3.0]),
        ("step", [1.0, 1.0, 1.0, 1.0, 3.0, 3.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_each_kind_goes_from_value_to_final(kind: str, expected: list[float]) -> None:
    assert path(scheduled(kind=kind, value=1.0, final=3.0, over=4), 100, 5) == pytest.approx(expected)
    over_the_run = path(scheduled(kind=kind, value=1.0, final=3.0), 4, 5)
    assert over_the_run == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_equal_ends_are_a_constant(kind: str) -> None:
    assert path(scheduled(kind=kind, value=0.04, final=0.04), 10, 12) == pytest.approx([0.04] * 13)


@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_a_resumed_run_goes_on_where_it_was_whatever_the_state_held(kind: str) -> None:
    cfg = scheduled(kind=kind, value=1.0, final=3.0, over=7)
    whole = path(cfg, 10, 9)
    state = ObjectiveState(coefficients={"divergence": 99.0})
    assert advance(state, cfg, {}, trajectories=8, step=5, steps=10).coefficients["divergence"] == whole[5]


def test_each_term_has_a_schedule_of_its_own() -> None:
    falling = scheduled(kind="linear", value=1.0, over=2).terms["divergence"]
    rising = scheduled(kind="linear", final=1.0, over=4).terms["divergence"]
    cfg = objective(terms={"divergence": falling, "rising": rising})
    state = initial_state(cfg, 10)
    assert state.coefficients == {"divergence": 1.0, "rising": 0.0}
    state = advance(state, cfg, {}, trajectories=8, step=1, steps=10)
    assert state.coefficients == {"divergence": 0.5, "rising": 0.25}


@pytest.mark.parametrize("preset", presets("method"))
def test_the_state_of_every_method_survives_json(preset: str) -> None:
    cfg = of(preset)
    stats = {"kl_reference": 1.5, "kl_reference_per_trajectory": 12.0, "reward": 0.4, "entropy": 1.0}
    state = initial_state(cfg, 10)
    for step in range(1, 4):
        state = advance(state, cfg, stats, trajectories=8, step=step, steps=10)
    restored = ObjectiveState.restored(json.loads(json.dumps(asdict(state))))
    assert restored == state
    one_more = [advance(s, cfg, stats, trajectories=8, step=4, steps=10) for s in (state, restored)]
    assert one_more[0] == one_more[1]
    assert set(state.coefficients) == set(weighted(cfg))


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"value": 0.04}, "0.04, constant"),
        ({"kind": "linear", "final": 0.04}, "from 0 to 0.04 over 100 steps, linear"),
        ({"kind": "cosine", "value": 0.2, "final": 0.01, "over": 60}, "from 0.2 to 0.01 over 60 steps, cosine"),
        ({"kind": "safe", "value": 1.0}, "SAFE: 1 x the smoothed KL above a threshold"),
    ],
)
def test_a_schedule_is_told_in_words(choices: dict[str, object], words: str) -> None:
    assert describe_coefficient(CoefficientConfig(**choices), 100).startswith(words)  # type: ignore[arg-type]
