"""Save the training state of one learner rank, and restore it on any number of ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from actors.learning.optimizer import Extragradient
from actors.learning.sharding import full_parameters
from actors.learning.shards import holds, read_shards, write_shards
from actors.policy_files.folder import check_policy_folder
from actors.policy_files.reading import load_model
from actors.policy_files.writing import save_policy
from actors.scoring.policy import Policy


class Checkpoints:
    """Policy, critic and optimizer of a learner rank, as files.

    Every rank must make the same calls, since they contain collectives.

    Args:
        policy: sharded, or on its device, with the critic if there is one.
        sharded: whether the ranks are in a process group.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        pair: Extragradient,
        tokenizer: Any,
        *,
        rank: int,
        sharded: bool,
    ) -> None:
        self.policy, self.optimizer, self.pair, self.tokenizer = policy, optimizer, pair, tokenizer
        self.rank, self.sharded = rank, sharded

    def save(self, folder: Path, dtype: str, counters: Sequence[int]) -> None:
        """Write `policy/` (loads in transformers and vLLM) and `optimizer/` (one shard per rank; also critic, counters,
        the weights before a look-ahead, and the float32 weights if `policy/` has others).

        Args:
            dtype: "float32" or "bfloat16", of the weights in `policy/`.
            counters: two integers of the learner, which `load` returns.
        """
        self.save_policy(folder / "policy", dtype)
        write_shards(folder / "optimizer", self._state(dtype != "float32", counters), sharded=self.sharded)

    def save_policy(self, folder: Path, dtype: str) -> None:
        """Write model and tokenizer as a Hugging Face directory, from rank 0."""
        to = getattr(torch, dtype)
        parameters = {name: p.to("cpu", to) for name, p in full_parameters(self.policy.model) if self.rank == 0}
        if self.rank == 0:
            save_policy(str(folder), self.policy.model, self.tokenizer, parameters)

    def load(self, folder: Path) -> tuple[int, int]:
        """Restore what `save` wrote, possibly on another number of ranks, and return the counters.

        Raises:
            ValueError: the checkpoint lacks a part of this learner, such as its critic, or has it in another shape.
        """
        check_policy_folder(str(folder / "policy"))
        with_weights = holds(folder / "optimizer", "weights")
        if not with_weights:
            model = load_model(str(folder / "policy"))
            options = StateDictOptions(full_state_dict=True) if self.sharded else StateDictOptions()
            set_model_state_dict(self.policy.model, model.state_dict(), options=options)
        self.pair.kept = self.pair.copied() if holds(folder / "optimizer", "kept") else {}
        state = self._state(with_weights, (0, 0))
        read_shards(folder / "optimizer", state, sharded=self.sharded)
        if with_weights:
            set_model_state_dict(self.policy.model, state["weights"])
        set_optimizer_state_dict(self.policy, self.optimizer, state["optimizer"])
        updates, skipped = state["counters"].tolist()
        return updates, skipped

    def _state(self, with_weights: bool, counters: Sequence[int]) -> dict[str, Any]:
        """Return the content of `optimizer/`. Loading writes into the tensors of the critic and of the kept weights."""
        state = {
            "optimizer": get_optimizer_state_dict(self.policy, self.optimizer),
            "counters": torch.tensor(counters),
        }
        if with_weights:
            state["weights"] = get_model_state_dict(self.policy.model)
        if self.pair.kept:
            state["kept"] = self.pair.kept
        return state if self.policy.critic is None else state | {"critic": self.policy.critic.state_dict()}
