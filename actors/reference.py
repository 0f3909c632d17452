"""Reference: a frozen policy that scores tokens others generated."""

from dataclasses import replace

import torch

from actors.policy import Policy, load_model
from configs.schema import LearnerConfig
from trajectories.batch import Batch, plan
from trajectories.trajectory import ROUTES


class FrozenReference:
    """Log-probs of one frozen policy, microbatch by microbatch, at the learner's temperature and layout."""

    def __init__(self, policy_path: str, *, config: LearnerConfig, dtype: str, temperature: float, device: str) -> None:
        # Loaded in its dtype: casting a loaded model would round its rotary frequencies too, which no learner does.
        model = load_model(policy_path, getattr(torch, dtype)).to(device).requires_grad_(False)
        self.policy = Policy(model, layout=config.layout, logits_chunk=config.logits_chunk, temperature=temperature)
        self.token_budget = config.token_budget
        self.device = device

    @torch.no_grad()
    def score(self, batch: Batch) -> Batch:
        """The batch with `logp_reference` [N] filled on explored trajectories; stored values of rehearsed ones stay."""
        explored = (batch.route == ROUTES.index("explore")).nonzero().squeeze(1).tolist()
        unknown = torch.full((len(batch.tokens),), torch.nan)
        logps = unknown if batch.logp_reference is None else batch.logp_reference.clone()
        lengths = batch.lengths.tolist()
        for part in plan([lengths[i] for i in explored], self.token_budget):
            indices = [explored[i] for i in part]
            logp, _ = self.policy(batch.select(indices).to(self.device))
            logps[batch.token_rows(indices)] = logp.cpu()
        return replace(batch, logp_reference=logps)
