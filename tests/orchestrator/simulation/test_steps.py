"""Simulated steps: the real collector, window and rollouts in virtual time."""

import math

import pytest

from configs.config import Config
from configs.load import load
from orchestrator.simulation.costs import Costs, EngineCosts, LearnerCosts, ReferenceCosts
from orchestrator.simulation.lengths import Lengths, lognormal, measured
from orchestrator.simulation.steps import FEWEST_ANSWERS, simulate

STEP, UPDATE = 0.0216, 100.0
REVIEWED = lognormal(mean=2_600, limit=8_192)


def settings(*words: str) -> Config:
    """Four generators that share the GPU scale's other settings, without held-out measurements."""
    fixed = ("scale=8gpu", "policy.path=/policy", "monitor.every=0", "sampling.max_new_tokens=8192")
    return load([*fixed, "placement.generators=4", "groups_per_step=16", "sampling.group_size=4", *words])


def costs(*, step: float = STEP, update: float = UPDATE, limit: int = 4096) -> Costs:
    """Engines whose step takes the same time for any batch, and a learner whose update does."""
    engine = EngineCosts(overhead_s=step, max_sequences=limit)
    return Costs(engine=engine, learner=LearnerCosts(update_s=update), grade_s=0.0)


def fixed(tokens: int) -> Lengths:
    return measured([tokens])


def test_at_lag_0_a_step_takes_generation_and_update_after_another() -> None:
    outcome = simulate(settings("lag=0"), costs(step=0.01), fixed(1000), 10, steps=3)
    assert outcome.step_s == pytest.approx(10.0 + UPDATE)
    assert outcome.seconds["wait_generation"] == pytest.approx(10.0)
    assert outcome.staleness == 0
    assert outcome.tokens == 16 * 4 * 1000


def test_with_a_lag_a_step_takes_the_longer_of_both() -> None:
    learner_bound = simulate(settings("lag=1"), costs(step=0.01), fixed(1000), 10, steps=3)
    assert learner_bound.step_s == pytest.approx(UPDATE)
    assert learner_bound.staleness == 1
    engine = EngineCosts(overhead_sequence_s=0.05)  # 64 answers on 4 engines: 0.8 s a step of any batch's share
    generator_bound = simulate(
        settings("lag=2"), Costs(engine=engine, learner=LearnerCosts(update_s=1.0), grade_s=0.0), fixed(100), 10
    )
    assert generator_bound.step_s == pytest.approx(16 * 0.05 * 100, rel=0.05)


# 32 generators, 512 x 16 answers, lognormal with mean 2,600 and limit 8,192, an update of 100 s. A fluid simulation
# gave 277, 149, 120 and 100 s in the order of the prompts. In any order it gave 145 and 100 s at its lags of 1 and 2,
# whose windows are those of lag 2 and 3 here. A decoding step is taken to last as long as gives 277 s at lag 0. With
# it the longest answer takes 177 s, less than two updates, so that nothing waits at lag 2.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("lag", "take", "expected", "tolerance"),
    [(0, "fifo", 277, 0.01), (1, "fifo", 149, 0.03), (2, "fifo", 120, 0.17), (4, "fifo", 100, 0.01),
     (2, "any_order", 145, 0.03), (3, "any_order", 100, 0.01)],
)  # fmt: skip
def test_the_reviewed_run_takes_about_as_long_as_in_its_fluid_simulation(
    lag: int, take: str, expected: float, tolerance: float
) -> None:
    words = ["placement.generators=32", "groups_per_step=512", "sampling.group_size=16", f"lag={lag}", f"take={take}"]
    outcome = simulate(settings(*words), costs(limit=256), REVIEWED, 200, steps=3)
    assert outcome.step_s == pytest.approx(expected, rel=tolerance)
    assert outcome.staleness == lag if take == "fifo" else outcome.staleness < lag


def test_a_part_of_a_run_takes_as_long_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings("lag=1", "groups_per_step=256", "sampling.group_size=8", "placement.generators=8")
    part = simulate(cfg, costs(), REVIEWED, 200, steps=3)
    assert cfg.groups_per_step * cfg.sampling.group_size > FEWEST_ANSWERS
    monkeypatch.setattr("orchestrator.simulation.steps.FEWEST_ANSWERS", 10**9)
    whole = simulate(cfg, costs(), REVIEWED, 200, steps=3)
    assert part.step_s == pytest.approx(whole.step_s, rel=0.03)
    assert part.tokens == pytest.approx(whole.tokens, rel=0.05)


def test_colocated_engines_do_not_decode_during_the_update() -> None:
    engine = EngineCosts(overhead_sequence_s=0.05 / 16)  # 16 answers on each of 4 engines: 50 s for 1,000 tokens each
    given = Costs(engine=engine, learner=LearnerCosts(update_s=UPDATE), grade_s=0.0)
    words = ("placement.mode=colocated", "generator.transfer=ipc", "placement.learners=4")
    split, turns = (simulate(settings("lag=1", *more), given, fixed(1000), 10, steps=12) for more in ((), words))
    assert split.step_s == pytest.approx(UPDATE)
    assert turns.step_s == pytest.approx(UPDATE + 50.0, rel=0.05)


@pytest.mark.parametrize("lag", [0, 2])
def test_a_measurement_of_held_out_prompts_adds_its_share_to_every_step(lag: int) -> None:
    words = (f"lag={lag}", "monitor.every=10", "task.heldout_prompts=8", "monitor.answers=4", "monitor.ks=[1,4]")
    engine = EngineCosts(overhead_sequence_s=0.001)
    busy = Costs(engine=engine, learner=LearnerCosts(update_s=0.1), grade_s=0.0)
    outcome = simulate(settings(*words), busy, fixed(1000), 10, steps=3)
    # 32 answers on 4 engines: 8 x 0.001 x 1000 s, every 10 steps. With a lag the engines' work delays later steps.
    assert outcome.seconds["measurement"] == pytest.approx(8.0 / 10, rel=0.3)


def test_scoring_and_publication_are_parts_of_a_step() -> None:
    given = Costs(
        engine=EngineCosts(overhead_s=0.01),
        learner=LearnerCosts(update_s=UPDATE),
        publish_s=3.0,
        late_references=1,
        reference=ReferenceCosts(token_s=1e-4),
        other_s=2.0,
        grade_s=0.0,
    )
    outcome = simulate(settings("lag=0"), given, fixed(990), 10, steps=2)
    assert outcome.seconds["publish"] == 3.0
    assert outcome.seconds["reference"] == pytest.approx(16 * 4 * 1000 * 1e-4)
    # The engines begin when the slots are released, while the driver still records the step before.
    assert outcome.seconds["wait_generation"] + outcome.seconds["other"] == pytest.approx(9.9)


def test_the_waits_of_a_whole_window_are_averaged() -> None:
    """With a lag of 1 the longest answer of 177 s is waited for 77 s in every second step."""
    long = fixed(round(177 / STEP))
    for steps in (3, 4):
        outcome = simulate(settings("lag=1"), costs(), long, 10, steps=steps)
        assert outcome.step_s == pytest.approx(UPDATE + 77 / 2, rel=0.01)


def test_roles_that_share_cores_are_slower_only_where_they_compute_at_the_same_time() -> None:
    engine = EngineCosts(overhead_s=0.1)  # 100 s for 1,000 tokens
    given = [Costs(engine=engine, learner=LearnerCosts(update_s=UPDATE), grade_s=0.0, cores=n) for n in (1.0, math.inf)]
    words = ("placement.generators=1", "monitor.every=0")
    alone = [simulate(settings("lag=0", *words), one, fixed(1000), 10, steps=2).step_s for one in given]
    assert alone == pytest.approx([200.0, 200.0])
    shared, own = (simulate(settings("lag=1", *words), one, fixed(1000), 10, steps=4).step_s for one in given)
    assert (shared, own) == pytest.approx((200.0, 100.0))


def test_references_on_actors_score_groups_while_others_are_generated() -> None:
    def with_references(**counts: int) -> Costs:
        reference = ReferenceCosts(token_s=0.5e-3)  # 0.5 s for each answer of 1,000 tokens
        one = EngineCosts(overhead_s=0.01, max_sequences=4)
        return Costs(engine=one, learner=LearnerCosts(update_s=1.0), reference=reference, grade_s=0.0, **counts)

    early, late = (
        simulate(settings("lag=0"), with_references(**{name: 1}), fixed(990), 10, steps=2)
        for name in ("early_references", "late_references")
    )
    # 16 groups on 4 engines, one group at a time in each: 4 x 9.9 s. Four groups are scored in 8 s.
    assert late.seconds["wait_generation"] == pytest.approx(39.6)
    assert late.seconds["reference"] == pytest.approx(32.0)
    assert early.seconds["reference"] == 0
    assert early.seconds["wait_generation"] == pytest.approx(39.6 + 8.0)


def test_groups_wait_for_references_that_are_slower_than_engines_and_learner() -> None:
    slow = Costs(
        engine=EngineCosts(overhead_s=0.001),
        learner=LearnerCosts(update_s=1.0),
        early_references=2,
        reference=ReferenceCosts(token_s=1e-3),
        grade_s=0.0,
    )
    outcome = simulate(settings("lag=2"), slow, fixed(990), 10, steps=6)
    assert outcome.step_s == pytest.approx(2 * 16 * 4 * 1000 * 1e-3, rel=0.01)


def test_the_learner_scores_before_its_update() -> None:
    learner = LearnerCosts(token_s=1e-3, update_s=1.0, forward_share=0.25)
    given = Costs(engine=EngineCosts(overhead_s=0.01), learner=learner, scores=1, held_references=2, grade_s=0.0)
    seconds = simulate(settings("lag=0"), given, fixed(990), 10, steps=2).seconds
    assert seconds["update"] == pytest.approx(64 + 1)
    assert (seconds["score"], seconds["reference"]) == pytest.approx((16.0, 32.0))
