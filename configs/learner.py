"""Learner: optimizer, learning-rate schedule, microbatching and memory."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_not_negative, require_positive
from configs.lora import LoraConfig

WIDEST_MASK = 4_096
"""Most tokens of a row whose attention may need a mask of row x row tokens."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of every learner rank."""

    learning_rate: float = 1e-6
    """Peak learning rate of AdamW. 1e-6 suits language models of 1B parameters or more, 1e-5 smaller ones; runs from a
    committed policy have 3e-4 by default (`tasks/base_policies/settings.yaml`)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: float = 0.9
    """Decay rate of Adam's first moment."""
    beta2: float = 0.999
    """Decay rate of Adam's second moment."""
    frozen_updates: int = 0
    """Number of initial updates with learning rate 0. The critic, Adam's moments and the coefficient controllers are
    updated; the policy is not. Warm-up and schedule start after them (WSRL, arXiv:2412.07762)."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly to its peak."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Decay of the learning rate after the warm-up; cosine and linear reach 0 at the last step."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient over all ranks; a larger gradient is scaled down to it."""
    updates_per_batch: int = 1
    """Optimizer updates per batch. Above 1 the groups are split into that many mini-batches, one per update."""
    extragradient: bool = False
    """Steps in pairs, as in Nash-MP (arXiv:2505.19731): the first is a look-ahead; the second goes back to the weights
    before it and steps by the gradient of the answers that the look-ahead's policy has given. Both have the learning
    rate of the first, and only the second advances Adam's moments. In between a second copy of the weights is held."""
    token_budget: int = 16_384
    """Largest number of padded tokens in one microbatch. It changes memory and speed, never the loss."""
    logits_megabytes: float = 256
    """Memory of the logits that exist at the same time, in 10^6 bytes: 4 bytes per token and entry of the vocabulary,
    whatever the batch; half as much again in the backward pass of a bfloat16 policy. Terms that compare whole
    distributions hold several such tensors, of 32 tokens or more. The larger, the fewer times the gradient of the LM
    head is read and written."""
    layout: Literal["auto", "pad", "varlen", "pack"] = "auto"
    """Input layout of a microbatch. pad: right-padded rows, without an attention mask. varlen: one row of sequences end
    to end, without padding and mask, by torch's FlashAttention kernel for sequences of different lengths. pack: the
    same row with a mask of row x row tokens, for models that varlen refuses and rows of at most 4,096 tokens. auto:
    varlen on a GPU in bfloat16 where the model allows it, else pad."""
    share_prefixes: bool = True
    """Compute the tokens that trajectories have in common at their start once: the prompt of a group, the examples of
    few-shot prompts, equal answers. Trajectories share a row where that costs less than rows of their own. The loss and
    its gradient are the same up to rounding. Without effect with layout pack; with layout pad also in models with
    sliding windows, and on a GPU in bfloat16, where the mask of a shared row would cost more than it saves."""
    replicas: int = 1
    """Copies of the policy among the learner ranks (HSDP). Each copy is sharded over `placement.learners` / `replicas`
    ranks, which alone gather its parameters; gradients are summed over the copies once per update. With one copy per
    node, only that sum crosses nodes. 16 bytes per parameter are divided among fewer ranks."""
    accumulate: Literal["sharded", "unsharded"] = "sharded"
    """How an update adds up the gradients of its microbatches. sharded: every microbatch gathers the parameters twice
    and reduces its gradient; unsharded: an update gathers and reduces once, and each rank holds all parameters in the
    policy's dtype and the whole gradient in float32 meanwhile: 6 bytes per parameter in bfloat16, 8 in float32."""
    context_parallel: int = 1
    """Learner ranks that share the tokens of each microbatch, for sequences too long for one GPU (Ulysses,
    arXiv:2309.14509): activations are divided among them. It divides the model's attention heads, and divides or is a
    multiple of its key heads. `token_budget` is that of all the ranks that share a microbatch."""
    offload_states: bool = False
    """Keep master weights, gradients and Adam's moments in host memory: 16 bytes per parameter, divided among the ranks
    of a copy. Shards are copied to the GPU before they are gathered, and the optimizer steps on the CPU."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """LoRA: low-rank adapters are trained instead of all weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them."""
    checkpoint_every: int = 1
    """With gradient_checkpointing: recompute the first of every so many layers, and store the activations of the
    others."""
    offload_activations: bool = False
    """With gradient_checkpointing: keep the inputs of the recomputed layers in host memory between forward and backward
    pass. On the GPU this frees 2 bytes per token, hidden dimension and recomputed layer, in bfloat16."""
    compile: bool = False
    """Compile each decoder layer with torch.compile, for all shapes of microbatches. The first update takes minutes
    longer."""
    max_skipped_in_a_row: int = 3
    """Number of successive skipped updates (non-finite loss or gradient) after which the run stops."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "max_grad_norm", "logits_megabytes")
        require_not_negative(self, "weight_decay", "frozen_updates", "warmup_steps")
        require(0 <= self.beta1 < 1, "beta1", "must be in [0, 1)", self.beta1)
        require(0 <= self.beta2 < 1, "beta2", "must be in [0, 1)", self.beta2)
        require_positive(self, "updates_per_batch", "token_budget", "max_skipped_in_a_row")
        fits = self.context_parallel == 1 or self.layout != "pack"
        require(fits, "layout", "must not be 'pack' with learner.context_parallel", self.layout)
        short = self.layout != "pack" or self.token_budget <= WIDEST_MASK
        rule = f"must be at most {WIDEST_MASK} with layout pack, whose mask has token_budget^2 elements, or use varlen"
        require(short, "token_budget", rule, self.token_budget)
        require_positive(self, "replicas", "checkpoint_every", "context_parallel")
        fits = self.gradient_checkpointing or self.checkpoint_every == 1
        require(fits, "checkpoint_every", "must be 1 without learner.gradient_checkpointing", self.checkpoint_every)
        fits = self.gradient_checkpointing or not self.offload_activations
        rule = "must be false without learner.gradient_checkpointing"
        require(fits, "offload_activations", rule, self.offload_activations)
        rule = "must be 1 with extragradient: the second gradient of a pair is of answers from the look-ahead"
        fits = self.updates_per_batch == 1 or not self.extragradient
        require(fits, "updates_per_batch", rule, self.updates_per_batch)
