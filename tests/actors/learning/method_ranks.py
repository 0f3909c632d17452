"""One update of every preset on two ranks: python method_ranks.py ADDRESS POLICY OTHER FOLDER

Reads METHOD.batch from FOLDER, and rank 0 writes the gradients to METHOD.KIND there, for each of KINDS.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from actors.learning.learner import FsdpLearner
from configs.config import Config
from configs.load import load
from orchestrator.references import policies
from tests.actors.learning.learner_ranks import config_of, fork, gradients_of, joined, step
from tests.actors.random_batch import logits_megabytes

RANKS_S = 180.0
"""Timeout of each rank's process."""
KINDS: dict[str, dict[str, int]] = {"microbatches": {}, "tokens": {"context_parallel": 2}}
"""What the ranks divide, and the settings with which they do."""
CHANGED = {"gtpo": ["objective.gates.entropy_limit=4.5"], "passk_training": ["objective.pass_k.k=1"]}
"""Settings without which a random policy, or a group of two answers, would have no gradient."""


def config_for(method: str) -> Config:
    return load([f"method={method}", *CHANGED.get(method, [])])


def learner_of(
    method: str, policy: str, other: str, rank: int = 0, ranks: int = 1, address: str = "", **settings: Any
) -> FsdpLearner:
    """A learner of `policy`. All its references are the `other` policy, so that no divergence is 0."""
    cfg = config_for(method)
    references = {name: {other: 1.0} for name in policies(cfg)}
    config = config_of(logits_megabytes=logits_megabytes(32), **settings)
    return joined(policy, rank, ranks, address, objective=cfg.objective, references=references, config=config)


def run_rank(rank: int, address: str, policy: str, other: str, folder: Path) -> None:
    for path in sorted(folder.glob("*.batch")):
        batch = torch.load(path, weights_only=False)
        for kind, settings in KINDS.items():
            learner = learner_of(path.stem, policy, other, rank, 2, address, **settings)
            step(learner, batch)
            gradients = gradients_of(learner)
            if rank == 0:
                torch.save(gradients, path.with_suffix(f".{kind}"))


if __name__ == "__main__":
    sys.exit(not fork(run_rank, *sys.argv[1:4], Path(sys.argv[4]), timeout_s=RANKS_S))
