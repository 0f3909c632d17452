"""As a script: load a checkpoint on several ranks, each in a process of its own, and save it again.

Rank 0 writes the whole training state to TO/state.pt: python resharding_ranks.py ADDRESS POLICY FROM TO RANKS
"""

import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from actors.learning.learner import FsdpLearner
from tests.actors.learning.learner_ranks import CRITIC, RANKS_S, config_of, fork, joined, save

CHOICES = {
    "objective": CRITIC,
    "config": config_of(extragradient=True),
    "checkpoint_dtype": "bfloat16",
}
"""A learner with everything that a checkpoint may hold: a critic, kept weights, and float32 weights beside others."""


def whole_state(learner: FsdpLearner) -> dict[str, torch.Tensor]:
    """Every tensor of the training state, gathered. A collective."""
    state = learner.checkpoints._state((learner.updates, learner.skipped_in_a_row), with_weights=True)
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for name, t in state.items()}


def run_rank(rank: int, ranks: int, address: str, policy: str, source: str, target: Path) -> None:
    learner = joined(policy, rank, ranks, address, **CHOICES)
    learner.load(source)
    state = whole_state(learner)
    save(learner, target)
    if rank == 0:
        torch.save(state, target / "state.pt")
    learner.close()


if __name__ == "__main__":
    address, policy, source, target, count = sys.argv[1:]
    sys.exit(not fork(run_rank, int(count), address, policy, source, Path(target), ranks=int(count), timeout_s=RANKS_S))
