"""Costs of a machine from short runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load, to_yaml
from orchestrator.simulation.calibration import Measured, fit, measured_run
from orchestrator.simulation.costs import Costs, EngineCosts, LearnerCosts
from orchestrator.simulation.lengths import lognormal
from orchestrator.simulation.steps import simulate

LENGTHS = lognormal(9, 16)
PROMPT = 12
TRUE = Costs(
    engine=EngineCosts(overhead_s=0.004, overhead_sequence_s=4e-5, max_sequences=4096),
    learner=LearnerCosts(update_s=0.05, token_s=2e-5),
    publish_s=0.01,
    grade_s=0.0,
    other_s=0.02,
    other_answer_s=3e-5,
)


def measured_on(machine: Costs, groups: int, lag: int) -> Measured:
    """What a run on a machine with these costs measures."""
    cfg = load(
        ["scale=cpu", "monitor.every=0", "generator.max_sequences=4096", f"groups_per_step={groups}", f"lag={lag}"]
    )
    outcome = simulate(cfg, machine, LENGTHS, PROMPT)
    taken = outcome.seconds
    return Measured(
        cfg=cfg,
        lengths=LENGTHS,
        prompt_tokens=PROMPT,
        step_s=outcome.step_s,
        wait_s=taken["wait_generation"],
        update_s=taken["update"],
        publish_s=taken["publish"],
    )


def test_costs_fitted_at_lag_0_give_the_steps_of_other_batches_and_lags() -> None:
    costs = fit([measured_on(TRUE, groups, 0) for groups in (16, 64, 128)])
    assert costs.engine.overhead_sequence_s == pytest.approx(4e-5, rel=0.1)
    assert costs.learner.token_s == pytest.approx(2e-5, rel=0.1)
    for groups, lag in ((32, 0), (96, 0), (32, 1), (64, 2)):
        real = measured_on(TRUE, groups, lag)
        assert simulate(real.cfg, costs, LENGTHS, PROMPT).step_s == pytest.approx(real.step_s, rel=0.05)


def test_costs_of_a_machine_whose_roles_share_its_cores_give_the_steps_of_other_lags() -> None:
    shared = replace(TRUE, cores=1.8, grade_s=5e-5)
    costs = fit([measured_on(shared, groups, 0) for groups in (16, 64, 128)], cores=1.8, grade_s=5e-5)
    for groups, lag in ((32, 0), (32, 1), (96, 1), (64, 2)):
        real = measured_on(shared, groups, lag)
        assert simulate(real.cfg, costs, LENGTHS, PROMPT).step_s == pytest.approx(real.step_s, rel=0.05)
    quicker = simulate(measured_on(shared, 96, 1).cfg, replace(costs, cores=math.inf), LENGTHS, PROMPT).step_s
    assert quicker < 0.95 * measured_on(shared, 96, 1).step_s


def test_a_run_is_measured_by_the_medians_of_its_later_steps(tmp_path: Path) -> None:
    rows = [
        {"step": step, "seconds/step": 100.0 if step < 4 else 2.0, "seconds/due": 0.5, "seconds/wait_generation": 0.7,
         "seconds/update": 0.4, "seconds/score": 0.1, "seconds/publish": 0.05}
        for step in range(1, 9)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "config.yaml").write_text(to_yaml(load(["scale=cpu"])))
    run = measured_run(tmp_path, LENGTHS, PROMPT)
    assert (run.step_s, run.wait_s, run.publish_s) == (1.5, 0.7, 0.05)
    assert run.update_s == pytest.approx(0.5)
    assert run.other_s == pytest.approx(1.5 - 0.7 - 0.5 - 0.05)


def test_a_cost_that_the_runs_do_not_show_is_not_negative() -> None:
    flat = Costs(engine=TRUE.engine, learner=LearnerCosts(update_s=1.0), grade_s=0.0)
    costs = fit([measured_on(flat, groups, 0) for groups in (16, 64)])
    assert costs.learner.update_s == pytest.approx(1.0)
    assert costs.learner.token_s == pytest.approx(0.0, abs=1e-12)
    assert costs.other_s >= 0 and costs.other_answer_s >= 0
