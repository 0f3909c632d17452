"""As a script: train LoRA adapters on several ranks: python adapter_ranks.py ADDRESS POLICY FOLDER RANKS

Rank 0 writes its results to FOLDER/rank0.pt. FOLDER/of_one holds the checkpoint of one rank; the ranks continue it and
save to FOLDER/of_several.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from actors.learning.learner import FsdpLearner
from actors.weights.adapter_names import is_adapter
from configs.lora import LoraConfig
from tests.actors.learning.learner_ranks import (
    RANKS_S,
    Weights,
    batch_of,
    config_of,
    fork,
    joined,
    save,
    step,
    weights_of,
)

LORA = LoraConfig(r=3, alpha=8, publish="merged")
"""With fewer rows of A than there may be ranks."""
RATE = 1e-2
DIVIDED: dict[int, dict[str, dict[str, Any]]] = {
    2: {"sharded": {}, "context": {"context_parallel": 2}},
    4: {
        "sharded": {"accumulate": "unsharded"},
        "all": {
            "replicas": 2,
            "context_parallel": 2,
            "offload_states": True,
            "gradient_checkpointing": True,
        },
    },
}
"""Settings that change where an update is computed, and no number of it, by the number of ranks."""


def adapted(
    policy: Path | str, *, lora: LoraConfig = LORA, rank: int = 0, ranks: int = 1, address: str = "", **choices: Any
) -> FsdpLearner:
    """A learner of adapters; `choices` that the learner does not have itself are its settings."""
    names = ("dtype", "checkpoint_dtype", "objective", "references", "seed")
    own = {name: choices.pop(name) for name in names if name in choices}
    config = config_of(**{"lora": lora, "learning_rate": RATE, **choices})
    return joined(str(policy), rank, ranks, address, config=config, **own)


def adapters_of(learner: FsdpLearner) -> Weights:
    """The float32 adapters under the names of the parameters. A collective."""
    named = ((name, p.detach()) for name, p in learner.policy.model.named_parameters() if is_adapter(name))
    return {name: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for name, p in named}


def run_rank(rank: int, ranks: int, address: str, policy: str, folder: Path) -> None:
    found: dict[str, Any] = {}
    for name, settings in DIVIDED[ranks].items():
        learner = adapted(policy, rank=rank, ranks=ranks, address=address, **settings)
        found["start"] = adapters_of(learner)
        for update in range(2):
            step(learner, batch_of(update))
        found[name] = {"adapters": adapters_of(learner), "weights": weights_of(learner)}
    learner.load(str(folder / "of_one"))
    found["loaded"] = adapters_of(learner)
    step(learner, batch_of(2))
    found["continued"] = adapters_of(learner)
    save(learner, folder / "of_several")
    if rank == 0:
        torch.save(found, folder / "rank0.pt")
    learner.close()


if __name__ == "__main__":
    place, start, target, count = sys.argv[1:]
    arguments = (int(count), place, start, Path(target))
    sys.exit(not fork(run_rank, *arguments, ranks=int(count), timeout_s=2 * RANKS_S))
