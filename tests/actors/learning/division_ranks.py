"""Run `scenarios` on four ranks, each in a process of its own: python division_ranks.py ADDRESS POLICY FOLDER

Rank RANK writes its results to FOLDER/rankRANK.pt, and reads the checkpoint of one rank from FOLDER/of_one.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import plan_scores
from actors.learning.sharding import full_parameters
from tests.actors.learning.learner_ranks import (
    CRITIC,
    ONE_ANSWER,
    RICH,
    UPDATES,
    batch_of,
    config_of,
    critic_batch,
    fork,
    gradients_of,
    joined,
    rich_batch,
    save,
    step,
    weights_of,
)

RANKS = 4
TOKEN_BUDGET = 16
"""Several microbatches of `random_batch()` on each of four ranks."""
RANKS_S = 200.0
"""Timeout of each rank's process."""
HYBRID: dict[str, Any] = {"replicas": 2}
CONTEXT: dict[str, Any] = {"context_parallel": 2}
DIVIDED: dict[str, dict[str, Any]] = {
    "sharded": {},
    "hybrid": HYBRID,
    "replicated": {"replicas": 4},
    "unsharded": {"accumulate": "unsharded"},
    "hybrid_unsharded": HYBRID | {"accumulate": "unsharded"},
    "offloaded": HYBRID | {"offload_states": True},
    "checkpointed": HYBRID | {"gradient_checkpointing": True, "checkpoint_every": 2, "offload_activations": True},
    "context": CONTEXT | {"share_prefixes": False},
    "context_of_four": {"context_parallel": 4},
    "hybrid_context": HYBRID | CONTEXT | {"gradient_checkpointing": True},
    "context_varlen": CONTEXT | {"layout": "varlen"},
    "context_of_four_varlen": {"context_parallel": 4, "layout": "varlen", "share_prefixes": False},
    "all": HYBRID | CONTEXT | {"accumulate": "unsharded", "offload_states": True, "gradient_checkpointing": True},
}
"""Settings that change where an update is computed, and no number of it."""


class Collectives(TorchDispatchMode):
    """Record each collective that runs meanwhile: its name, and the dtype of what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            if tensors:
                self.seen.append((func.__name__.split(".")[0], tensors[-1].dtype))
        return func(*args, **(kwargs or {}))


def run_rank(rank: int, address: str, policy: str, folder: Path) -> None:
    torch.save(scenarios(rank, address, policy, folder), folder / f"rank{rank}.pt")


def scenarios(rank: int, address: str, policy: str, folder: Path) -> dict[str, Any]:
    def learner(settings: dict[str, Any], **choices: Any) -> FsdpLearner:
        return joined(policy, rank, RANKS, address, config=config_of(token_budget=TOKEN_BUDGET, **settings), **choices)

    found: dict[str, Any] = {}
    for name, settings in DIVIDED.items():
        one = learner(settings)
        columns: list[int] = []
        layer = one.policy.model.model.layers[0]
        layer.register_forward_pre_hook(lambda _, args, columns=columns: columns.append(args[0].shape[1]))
        with Collectives() as collectives:
            stats = [step(one, batch_of(update)) for update in range(UPDATES)]
        found[name] = {"stats": stats, "gradients": gradients_of(one), "weights": weights_of(one)}
        found[name] |= {"columns": columns, "collectives": [kind for kind, _ in collectives.seen]}
        if name == "hybrid":
            save(one, folder / "of_hybrid")
            step(one, batch_of(UPDATES))
            found["continued"] = weights_of(one)

    of_one = learner(HYBRID | {"offload_states": True})
    of_one.load(str(folder / "of_one"))
    found["loaded_of_one"] = weights_of(of_one)
    step(of_one, batch_of(UPDATES))
    found["continued_of_one"] = weights_of(of_one)
    with Collectives() as collectives:
        gathered = [p.dtype for _, p in full_parameters(of_one.policy.model, torch.bfloat16)]
    found["dtypes"] = {*gathered, *(dtype for kind, dtype in collectives.seen if "gather" in kind)}

    rich = learner(HYBRID | CONTEXT, objective=RICH)
    divided, parts = plan_scores(rich_batch(), rich.config, RANKS, rich.linear_width())
    found["scored"] = divided, rich.score(parts[rank])
    found["rich"] = {"stats": step(rich, rich_batch()), "gradients": gradients_of(rich)}
    critic = learner(CONTEXT, objective=CRITIC)
    found["critic"] = {"stats": [step(critic, critic_batch(update)) for update in range(UPDATES)]}
    assert critic.policy.critic is not None
    heads = dict(critic.policy.critic.named_parameters())
    found["critic_heads"] = {name: p.grad.full_tensor() for name, p in heads.items()}  # type: ignore[union-attr]
    idle = learner(HYBRID | CONTEXT)
    found["idle"] = {"stats": step(idle, batch_of(0, ONE_ANSWER)), "gradients": gradients_of(idle)}
    half = learner(HYBRID | CONTEXT | {"gradient_checkpointing": True}, dtype="bfloat16")
    found["half"] = {"stats": step(half, batch_of(0))}
    half.close()
    return found


if __name__ == "__main__":
    sys.exit(not fork(run_rank, sys.argv[1], sys.argv[2], Path(sys.argv[3]), ranks=RANKS, timeout_s=RANKS_S))
