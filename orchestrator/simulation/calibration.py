"""Measure the costs of a machine from short runs at lag 0, so that other settings can be simulated.

A step at lag 0 waits for generation, then trains. With a lag the roles compute at the same time and share the cores of
the machine. The seconds of computation stay the same; how they share the cores is simulated (`cores.py`).
`benchmarks/plan_check.py` compares.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.config import Config
from configs.load import load
from orchestrator.simulation.costs import Costs, EngineCosts, LearnerCosts
from orchestrator.simulation.lengths import Lengths
from orchestrator.simulation.steps import simulate

CORRECTIONS = 3
"""Number of times that the costs of engines are corrected by a simulation of the runs that they are fitted to."""
FIRST_STEPS = 3
"""Steps at the beginning of a run that are not measured: engine and learner reserve memory."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians over the steps of one run."""

    cfg: Config
    lengths: Lengths
    prompt_tokens: int
    """Mean tokens of a prompt."""
    step_s: float
    """Seconds of a step, without held-out measurements and checkpoints."""
    wait_s: float
    update_s: float
    publish_s: float

    @property
    def other_s(self) -> float:
        """Seconds of a step in no other part."""
        return max(0.0, self.step_s - self.wait_s - self.update_s - self.publish_s)

    @property
    def answers(self) -> int:
        """Answers of a step."""
        return self.cfg.groups_per_step * self.cfg.sampling.group_size


def measured_run(run: Path, lengths: Lengths, prompt_tokens: int) -> Measured:
    """Return what the steps of a run took, from its metrics.jsonl.

    Args:
        lengths: of its answers.
        prompt_tokens: mean tokens of its prompts.
    """
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    later = [row for row in rows if row["step"] > FIRST_STEPS and "seconds/step" in row]

    def median(*names: str) -> float:
        return float(np.median([sum(row.get(f"seconds/{name}", 0.0) for name in names) for row in later]))

    return Measured(
        cfg=load(file=str(run / "config.yaml")),
        lengths=lengths,
        prompt_tokens=prompt_tokens,
        step_s=float(np.median([row["seconds/step"] - row.get("seconds/due", 0.0) for row in later])),
        wait_s=median("wait_generation"),
        update_s=median("update", "score", "reference"),
        publish_s=median("publish"),
    )


def fit(runs: Sequence[Measured], *, cores: float = math.inf, grade_s: float = 0.0) -> Costs:
    """Return the costs of the machine that made these runs, by least squares.

    Generation of n answers takes a * (tokens of the longest) + b * (tokens of all), where a is the time of a decoding
    step and b that of a further answer in it. An update takes c + d * (its tokens), and the driver e + f * n. As
    answers are graded while others are generated, a and b are corrected until a simulation generates as long.

    Args:
        runs: at lag 0, with one generator that decodes all answers at once, one learner rank, one thread in each, and
            at least two numbers of answers.
        cores: of the machine (`Cores`).
        grade_s: seconds of computation per answer besides generator, learner and driver.
    """
    assert all(run.cfg.lag == 0 and run.cfg.placement.generators == run.cfg.placement.learners == 1 for run in runs)
    answers = np.array([run.answers for run in runs], float)
    assert all(run.answers <= run.cfg.generator.max_sequences for run in runs), "answers wait for others"
    assert len(set(answers)) > 1, "one number of answers does not tell costs per step from costs per answer"
    means = np.array([run.lengths.mean for run in runs])
    longest = np.array([run.lengths.longest(run.answers) for run in runs])
    prompts = np.array([run.prompt_tokens for run in runs], float)
    once, token = _line(np.ones_like(answers), answers * (means + prompts), np.array([run.update_s for run in runs]))
    driver, answer = _line(np.ones_like(answers), answers, np.array([run.other_s for run in runs]))
    one = runs[0].cfg
    costs = Costs(
        engine=EngineCosts(
            max_sequences=one.generator.max_sequences, one_submission=one.generator.engine == "transformers"
        ),
        learner=LearnerCosts(update_s=once, token_s=token),
        publish_s=float(np.mean([run.publish_s for run in runs])),
        grade_s=grade_s,
        cores=cores,
        other_s=driver,
        other_answer_s=answer,
    )
    # The generators begin when the slots are released, while the driver still records the step before.
    taken = np.array([run.wait_s + run.other_s for run in runs])
    generation = taken
    for _ in range(CORRECTIONS if grade_s else 1):
        step, sequence = _line(longest, answers * means, generation)
        costs = replace(costs, engine=replace(costs.engine, overhead_s=step, overhead_sequence_s=sequence))
        if grade_s:
            outcomes = [simulate(run.cfg, costs, run.lengths, run.prompt_tokens, steps=2).seconds for run in runs]
            generation = generation * taken / [parts["wait_generation"] + parts["other"] for parts in outcomes]
    return costs


def _line(first: np.ndarray, second: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the coefficients x, y >= 0 of x * first + y * second that are nearest to the values, relative to them."""
    if not values.all():  # A part that takes no time has no relative error.
        return 0.0, 0.0
    columns = np.stack([first, second], axis=1) / values[:, None]
    both, *_ = np.linalg.lstsq(columns, np.ones_like(values), rcond=None)
    if min(both) >= 0:
        return float(both[0]), float(both[1])
    alone = [float(column.sum() / (column @ column)) for column in columns.T]  # of each coefficient without the other
    errors = [float(np.sum((column * x - 1) ** 2)) for column, x in zip(columns.T, alone, strict=True)]
    return (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])
