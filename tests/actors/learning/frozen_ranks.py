"""Score and train with references on four ranks: python frozen_ranks.py ADDRESS POLICY OTHER FOLDER

Rank RANK writes its results with each of DIVIDED to FOLDER/NAME-RANK.pt.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.distributed.tensor import DTensor

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import end_to_end, merge_columns, plan_scores
from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from tests.actors.learning.learner_ranks import ONE_ANSWER, config_of, credited, fork, gradients_of, joined, step
from tests.actors.random_batch import SHAPES, random_batch
from trajectories.batch import Batch

RANKS = 4
RANKS_S = 120.0
"""Timeout of each rank's process."""
DIVIDED: dict[str, dict[str, Any]] = {
    "sharded": {},
    "hybrid": {"replicas": 2, "accumulate": "unsharded"},
    "context": {"context_parallel": 2, "share_prefixes": False},
}
TERMS = {"divergence": TermConfig(name="jensen_shannon", anchor="teacher", wiring="vocabulary", estimator="exact")}
OBJECTIVE = ObjectiveConfig(terms=TERMS)


def compared_batch() -> Batch:
    return random_batch()


def exact_batch(shapes: tuple[tuple[int, int], ...] = SHAPES) -> Batch:
    """A batch for OBJECTIVE, whose anchor's log-probs are only reported."""
    batch = random_batch(shapes)
    batch = replace(batch, anchors={"teacher": torch.full((len(batch.tokens),), -4.0)})
    return credited(batch, OBJECTIVE, 0.5)


def learner_of(
    policy: str,
    references: dict[str, dict[str, float]],
    *ranks: Any,
    objective: ObjectiveConfig = OBJECTIVE,
    **settings: Any,
) -> FsdpLearner:
    config = config_of(token_budget=16, max_grad_norm=1e9, **settings)
    return joined(policy, *ranks, objective=objective, config=config, references=references)


def run_rank(rank: int, address: str, policy: str, other: str, folder: Path) -> None:
    for name, settings in DIVIDED.items():
        learner = learner_of(policy, {"teacher": {other: 0.5, policy: 0.5}}, rank, RANKS, address, **settings)
        model = learner.references.policies["teacher"].model
        assert all(isinstance(p, DTensor) for p in model.parameters())
        found: dict[str, Any] = {"bytes": sum(p.to_local().nbytes for p in model.parameters())}
        divided, parts = plan_scores(compared_batch(), learner.config, RANKS)
        mine = end_to_end(learner.score_references(parts[rank], ["teacher"], []))
        everyone: list[Any] = [None] * RANKS
        torch.distributed.all_gather_object(everyone, mine)
        found["scored"] = merge_columns(compared_batch(), divided, everyone)["anchors/teacher"]
        found["stats"], found["gradients"] = step(learner, exact_batch()), gradients_of(learner)
        # Three of the ranks have nothing to train on, and take part in every collective.
        step(learner, exact_batch(ONE_ANSWER))
        found["idle"] = float(sum(g.abs().sum() for g in gradients_of(learner).values()))
        torch.save(found, folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    sys.exit(not fork(run_rank, *sys.argv[1:4], Path(sys.argv[4]), ranks=RANKS, timeout_s=RANKS_S))
