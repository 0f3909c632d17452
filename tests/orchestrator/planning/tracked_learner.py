"""Track the memory of a learner's update on fake tensors, which have shapes and no memory, with torch's FSDPMemTracker.

Policy, sharding and layers are those of the learner. Three things are not. `Policy.forward` reads from the batch where
the mask is True, and fake tensors have no values, so `WholeRows` runs the same body and head on rows whose tokens are
all trained on. The gradients of earlier microbatches are zeros. Clipping and the optimizer's step are left out: their
kernels work in place, and their fake forms allocate all results.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

from actors.learning.sharding import decoder_layers, shard
from actors.scoring import token_scores
from actors.scoring.policy import Policy
from tests.orchestrator.planning.known_models import config_of


class WholeRows(Policy):
    """Scores all tokens of padded rows but the first of each."""

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        states = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        targets = tokens[:, 1:].flatten()
        return self._score(states[:, :-1].flatten(0, 1), targets, targets, targets, {})["logp"]


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """Be rank 0 of a process group whose collectives do nothing, with slices of logits as large as on a GPU."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    before = token_scores.SLICE_BYTES["cpu"]
    token_scores.SLICE_BYTES["cpu"] = token_scores.SLICE_BYTES["cuda"]
    try:
        yield
    finally:
        token_scores.SLICE_BYTES["cpu"] = before
        dist.destroy_process_group()


def tracked_peak(
    name: str, *, ranks: int, rows: int, width: int, checkpointing: bool = True, logits_megabytes: float = 256
) -> float:
    """Return the bytes at the peak of the second microbatch of an update in bfloat16, on one of `ranks`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name)).eval()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in decoder_layers(model):
            layer.training = True
    policy = WholeRows(model, layout="pad", logits_megabytes=logits_megabytes, temperature=1.0)
    with fake_ranks(ranks):
        shard(policy, dtype="bfloat16", device="cpu", ranks=ranks)
        with FakeTensorMode(allow_non_fake_inputs=True):
            policy.to_empty(device="cpu")
            optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
            for parameter in policy.parameters():
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
                parameter.grad = torch.zeros_like(parameter)
            tokens = torch.zeros(rows, width, dtype=torch.long)
            with FSDPMemTracker(policy, optimizer) as tracker:
                policy(tokens).sum().backward()
            [peak] = tracker.get_tracker_snapshot("peak").values()
    return float(peak["Total"])
