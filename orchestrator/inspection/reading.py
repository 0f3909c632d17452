"""Read prompts with the policy: the mean hidden state of each prompt, and the log-probs of its tokens.

Axes: P prompts, D hidden size, T tokens of one prompt.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from actors.policy_files.reading import load_model
from actors.scoring.policy import Policy
from configs.config import Config
from orchestrator.inspection.prompt_sets import Frame
from orchestrator.stored.replay import right_answer
from trajectories.batch import pack
from trajectories.split import plan
from trajectories.trajectory import Trajectory


class Reading(NamedTuple):
    """What the policy computed from P prompts."""

    embeddings: np.ndarray
    """float32 [P, D]: mean of the final hidden states of the tokens inside the frame."""
    logps: list[np.ndarray]
    """float32 [T] for each prompt, nats, at temperature 1: log-probs of the tokens inside the frame. A first token
    without any before it has none."""


def load_reader(cfg: Config) -> Policy:
    """Load the policy of `policy.path` to read with, without gradient.

    Raises:
        ValueError: it cannot be used; names the setting.
    """
    model = load_model(cfg.policy.path, getattr(torch, cfg.policy.dtype)).requires_grad_(False)
    device = "cuda" if cfg.placement.device == "gpu" else "cpu"
    return Policy(
        model.to(device),
        layout=cfg.learner.layout,
        logits_megabytes=cfg.learner.logits_megabytes,
        temperature=1.0,
        device=device,
        dtype=cfg.policy.dtype,
    )


@torch.no_grad()
def read(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    frame: Frame,
    token_budget: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Reading:
    """Read prompts in microbatches.

    Args:
        prompts: token ids of each prompt, each with a token inside the frame.
        token_budget: largest number of padded tokens of a microbatch.
        progress: called with the number of prompts of each microbatch.
    """
    trajectories = [_trajectory(tokens, frame) for tokens in prompts]
    embeddings = np.zeros((len(prompts), policy.width), dtype=np.float32)
    logps: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(prompts)
    for microbatch in plan([len(t.tokens) for t in trajectories], token_budget):
        batch = pack([], [trajectories[i] for i in microbatch]).to(policy.model.device)
        scored = policy(batch, keep_hidden=True)
        assert scored.hidden is not None
        for row, i in enumerate(microbatch):
            predicted = ((batch.seq == row) & batch.mask).nonzero().squeeze(1)
            # The state at a position is the one that predicts its token: that of the token before. Where the frame has
            # tokens, the first predicted token follows one of them, whose state is left out.
            states = scored.hidden[predicted[min(frame.begin, 1) :]]
            embeddings[i] = states.float().mean(0).cpu().numpy()
            logps[i] = scored.logp[predicted[:-1]].cpu().numpy()
        progress(len(microbatch))
    return Reading(embeddings, logps)


def _trajectory(tokens: Sequence[int], frame: Frame) -> Trajectory:
    """Return a prompt up to its last token inside the frame, and one more token, which only that last one predicts."""
    begin = max(frame.begin, 1)
    kept = list(tokens[: len(tokens) - frame.end])
    return right_answer("", kept[:begin], [*kept[begin:], tokens[-1]], "")
