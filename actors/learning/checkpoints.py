"""Save the training state of one learner rank while training goes on, and restore it on any number of ranks."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.learning.adapters import adapter_files
from actors.learning.optimizer import Extragradient
from actors.learning.sharding import full_adapters, full_parameters, gather_only
from actors.learning.shards import Shards, held_parts, rank_file
from actors.policy_files.folder import check_policy_folder
from actors.policy_files.weights import read_weights
from actors.policy_files.writing import policy_part, write_settings, write_tensors
from actors.scoring.policy import Policy
from actors.weights.adapter_names import is_adapter


class Checkpoints:
    """Policy, critic and optimizer of a learner rank, as files.

    Every rank must make the same calls, since they contain collectives. Files are written in a thread of their own,
    without collectives, from copies in host memory.

    Args:
        policy: sharded, or on its device, with the critic if there is one.
        start: directory of the policy that the run started from.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        pair: Extragradient,
        tokenizer: Any,
        start: str,
        *,
        rank: int,
        ranks: int,
    ) -> None:
        self.policy, self.optimizer, self.pair, self.tokenizer = policy, optimizer, pair, tokenizer
        self.start, self.rank, self.ranks = start, rank, ranks
        self.adapted = any(is_adapter(name) for name, _ in policy.named_parameters())
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    def save(self, folder: Path, dtype: str, counters: Sequence[int]) -> None:
        """Copy the training state to host memory, and begin to write it: `policy/`, an ordinary Hugging Face directory
        that loads in transformers and vLLM, and `optimizer/`, a file per rank with its parts of the optimizer's
        moments, critic, counters, the weights before a look-ahead, and the float32 weights if `policy/` has others.

        With adapters (`learner.lora`), `policy/` has them merged, `adapter/` is a directory of peft, and `optimizer/`
        has their float32 weights. The frozen weights are then read from the directory the run started from.

        The policy's files are shared among the ranks. A rank needs host memory for its part of policy and state.

        Args:
            dtype: "float32" or "bfloat16", of the weights in `policy/`.
            counters: two integers of the learner, which `load` returns.
        """
        self.saved()
        write_policy = self._policy_writer(folder / "policy", dtype)
        write_adapter = self._adapter_writer(folder / "adapter")
        state = held_parts(self._state(counters, with_weights=self.adapted or dtype != "float32"), self.rank)

        def write() -> None:
            write_policy()
            write_adapter()
            (folder / "optimizer").mkdir(parents=True, exist_ok=True)
            write_tensors(folder / "optimizer" / rank_file(self.rank, self.ranks), state)

        self.writing = self.writer.submit(write)

    def saved(self) -> None:
        """Wait until this rank's files of the last `save` are on disk. Raises what writing raised, once."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def save_policy(self, folder: Path, dtype: str) -> None:
        """Write model and tokenizer as a Hugging Face directory, in place of the folder if it exists."""
        if self.rank == 0:  # no rank writes before the first collective
            shutil.rmtree(folder, ignore_errors=True)
        self._policy_writer(folder, dtype)()

    def _policy_writer(self, folder: Path, dtype: str) -> Callable[[], None]:
        """Copy this rank's part of the policy to host memory, and return what writes it."""
        model = self.policy.model
        named = full_parameters(model, getattr(torch, dtype))
        part = policy_part(model, named, dtype, rank=self.rank, ranks=self.ranks)

        def write() -> None:
            if self.rank == 0:
                write_settings(folder, model, self.tokenizer, dtype)
            part.write(folder)

        return write

    def _adapter_writer(self, folder: Path) -> Callable[[], None]:
        """Copy the adapter to the host memory of rank 0, and return what writes it there."""
        named = full_adapters(self.policy.model, torch.float32)
        if self.rank or not self.adapted:
            gather_only(named)
            return lambda: None
        files = adapter_files(self.policy.model, named, self.start)
        return lambda: files.write(folder)

    def load(self, folder: Path) -> tuple[int, int]:
        """Restore what `save` wrote, possibly on another number of ranks, and return the counters.

        Raises:
            ValueError: a file is missing or damaged, or the checkpoint lacks a part of this learner, such as its
                critic, or has it in another shape.
        """
        check_policy_folder(str(folder / "policy"))
        shards = Shards(folder / "optimizer")
        with_weights = shards.holds("weights/model.")
        if not with_weights:
            read_weights(self.policy.model, str(folder / "policy"))
        self.pair.kept = self.pair.copied() if shards.holds("kept/") else {}
        state = self._state((0, 0), with_weights=with_weights)
        shards.read(state)
        updates, skipped = state["counters"].tolist()
        return updates, skipped

    def _state(self, counters: Sequence[int], *, with_weights: bool) -> dict[str, Tensor]:
        """Return the tensors of `optimizer/` by name; loading writes into them."""
        state = {"counters": torch.tensor(counters)}
        for name, parameter in self.policy.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"{key}/{name}"] = value
            if parameter.requires_grad and (with_weights or not name.startswith("model.")):
                state[f"weights/{name}"] = parameter.detach()
        return state | {f"kept/{name}": value for name, value in self.pair.kept.items()}
