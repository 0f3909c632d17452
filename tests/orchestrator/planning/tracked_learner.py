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

from actors.learning.adapters import add_adapters
from actors.learning.layers import prepare_layers
from actors.learning.sharding import mesh_of, prepare_accumulation, shard
from actors.scoring import token_scores
from actors.scoring.policy import Policy
from configs.learner import LearnerConfig
from tests.orchestrator.planning.known_models import config_of


class WholeRows(Policy):
    """Scores all tokens of padded rows but the first of each."""

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        states = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        targets = tokens[:, 1:].flatten()
        return self._score(states[:, :-1].flatten(0, 1), targets, targets, targets, {})["logp"]


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """Be rank 0 of a process group whose collectives do nothing. Logits and head are cut into larger parts than suit a
    CPU's cache, as each of the many operations takes the tracker long."""
    if dist.is_initialized():  # by a learner of one rank in an earlier test of this process
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    slices, parts = token_scores.SLICE_BYTES["cpu"], token_scores.HEAD_BYTES
    token_scores.SLICE_BYTES["cpu"] = token_scores.HEAD_BYTES = 2**28
    try:
        yield
    finally:
        token_scores.SLICE_BYTES["cpu"], token_scores.HEAD_BYTES = slices, parts
        dist.destroy_process_group()


def tracked_peak(name: str, config: LearnerConfig, *, ranks: int, rows: int, width: int) -> float:
    """Return the bytes at the peak of the second microbatch of an update in bfloat16, on one of `ranks`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name)).eval()
    if config.lora.r:
        model.bfloat16()
        add_adapters(model, config.lora)
    prepare_layers(model, config)
    # Where the gradients of the first microbatch are not those of the ranks, they cannot be zeros that exist before.
    twice = config.accumulate == "unsharded" or config.replicas > 1
    policy = WholeRows(model, layout="pad", logits_megabytes=config.logits_megabytes, temperature=1.0)
    with fake_ranks(ranks):
        shard(policy, mesh_of(config.replicas, 60.0, device="cpu", ranks=ranks), config, dtype="bfloat16")
        with FakeTensorMode(allow_non_fake_inputs=True):
            policy.to_empty(device="cpu")
            trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(trained, fused=True)
            for parameter in trained:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
                if not twice:
                    parameter.grad = torch.zeros_like(parameter)
            tokens = torch.zeros(rows, width, dtype=torch.long)
            with FSDPMemTracker(policy, optimizer) as tracker:
                if twice:
                    prepare_accumulation(policy, config.accumulate, last=False)
                    policy(tokens).sum().backward()
                    tracker.reset_mod_stats()
                prepare_accumulation(policy, config.accumulate, last=True)
                policy(tokens).sum().backward()
            [peak] = tracker.get_tracker_snapshot("peak").values()
    return float(peak["Total"])
