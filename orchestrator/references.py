"""The references of a run: which policies they are, how they score a batch, and when they follow the policy."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from actors.contracts import Column, Reference
from actors.policy_files.reading import load_config
from configs.config import Config
from configs.objective import ObjectiveConfig
from configs.references import ReferenceConfig
from objectives.divergence.anchors import AS_POLICY
from objectives.divergence.reweighted_reference import reference_power
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.feedback import FeedbackPrompts, with_feedback
from trajectories.batch import Batch
from trajectories.trajectory import ROUTES, Group

MAIN = "reference"
"""Name of the reference policy of `reference_path`."""
SMOOTHING = 0.9
"""Decay per step of the moving average of the KL to a reference."""


def policies(cfg: Config) -> dict[str, dict[str, float]]:
    """Return the weight of each policy directory in the average that makes each reference, by the reference's name.

    Example: {"reference": {"/models/base": 1.0}, "soup": {"/models/a": 0.5, "/models/b": 0.5}}
    """
    found = {MAIN: {cfg.reference_path or cfg.policy.path: 1.0}}
    for name, reference in cfg.references.items():
        found[name] = dict(reference.soup) or {reference.path or cfg.policy.path: 1.0}
    return found


def columns(objective: ObjectiveConfig) -> list[Column]:
    """List the values [N] that divergence terms need from their anchors besides log-probs and hidden states."""
    found = []
    for name, term in objective.terms.items():
        if term.reweights:
            found.append(Column(term=name, reference=term.anchor, kind="reweighted"))
        if term.weights.certainty_power:
            kind, temperature = term.weights.certainty, term.weights.certainty_temperature
            found.append(
                Column(term=name, reference=term.anchor, kind="certainty", certainty=kind, temperature=temperature)
            )
    return found


@dataclass
class Anchors:
    """Scores batches with the references that are anchors of divergence terms."""

    role: Reference
    objective: ObjectiveConfig
    informed: Sequence[str] = ()
    """Names of the references that read feedback."""
    feedback: FeedbackPrompts | None = None
    """Makes their prompts."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`feedback_share` of the last batch, if a reference reads feedback."""

    async def score(self, batch: Batch, groups: Sequence[Group] = ()) -> Batch:
        """Return the batch with the anchors' log-probs, final hidden states and columns.

        Args:
            batch: the whole batch, because the reward-reweighted reference depends on the rewards of whole groups.
            groups: those of the batch, for references that read feedback.
        """
        terms = self.objective.terms
        power = {
            name: await asyncio.to_thread(reference_power, batch, term)
            for name, term in terms.items()
            if term.reweights
        }
        names = [name for name in self.objective.anchors if name not in self.informed]
        if names or not self.informed:
            batch = await self.role.score(
                replace(batch, power=power), names, self.objective.hidden_anchors, columns(self.objective)
            )
        return await self._informed(batch, groups) if self.informed else batch

    async def _informed(self, batch: Batch, groups: Sequence[Group]) -> Batch:
        """Return the batch with the log-probs of references that read feedback; without it an answer has AS_POLICY."""
        assert self.feedback is not None, "references that read feedback need its prompts"
        explored = (batch.route == ROUTES.index("explore"))[batch.seq]
        moved = await asyncio.to_thread(self.feedback.behind, groups)
        plain = torch.where(explored, AS_POLICY, torch.nan)
        anchors = {name: plain.clone() for name in self.informed}
        if any(moved):
            behind, rows = await asyncio.to_thread(with_feedback, batch, moved)
            scored = await self.role.score(behind, self.informed)
            for name, logps in anchors.items():
                logps[rows] = scored.anchors[name][behind.mask]
        self.metrics = {"feedback_share": sum(map(bool, moved)) / max(len(moved), 1)}
        return replace(batch, anchors={**batch.anchors, **anchors})


def anchors_of(cfg: Config, role: Reference | None, encode: PromptEncoder) -> "Anchors | NoScoring":
    """Return what scores the batches of a run with the anchors of its terms, if these need any."""
    if not (cfg.objective.anchors or cfg.objective.hidden_anchors):
        return NoScoring()
    assert role is not None, "the anchors need the Reference"
    informed = [name for name in cfg.objective.anchors if cfg.reads_feedback(name)]
    if not informed:
        return Anchors(role, cfg.objective)
    positions = getattr(load_config(cfg.policy.path).get_text_config(), "max_position_embeddings", None)
    return Anchors(role, cfg.objective, informed, FeedbackPrompts(encode, positions or sys.maxsize))


class NoScoring:
    """Takes the place of a role that scores batches when no score is needed."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    async def score(self, batch: Batch, groups: Sequence[Group] = ()) -> Batch:
        """Return the batch unchanged."""
        return batch


class ReferenceSchedule:
    """Decides after each step which references are updated towards the policy. Its state is `drift`; all else is a
    function of the step."""

    def __init__(self, references: Mapping[str, ReferenceConfig], drift: Mapping[str, float]) -> None:
        self.references = {name: reference for name, reference in references.items() if reference.moves}
        self.drift = {name: drift.get(name, 0.0) for name in self.references}
        """Smoothed KL per token to each reference since its last update, in nats."""

    def after(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the references to update after `step`, with their mixing weights in (0, 1].

        reference <- mixing weight * policy + (1 - mixing weight) * reference

        Args:
            metrics: the step's metrics; `kl_NAME` is the mean KL per token to the reference NAME, in nats.
        """
        mixing_weights = {}
        for name, reference in self.references.items():
            self.drift[name] += (1 - SMOOTHING) * (metrics.get(f"kl_{name}", self.drift[name]) - self.drift[name])
            drifted = reference.update == "kl" and self.drift[name] > reference.threshold
            if drifted or (reference.update in ("periodic", "average") and step % reference.every == 0):
                mixing_weights[name] = mixing_weight_after(reference, step)
                self.drift[name] = 0.0
        return mixing_weights


def mixing_weight_after(reference: ReferenceConfig, step: int) -> float:
    """Return the mixing weight of the update of a reference after `step`.

    For update=average the n-th update has the weight 1 / min(n + 1, iterates). The reference after it is the mean of
    the start and the n iterates since, and from n + 1 = iterates on an exponential average. A uniform mean of the last
    iterates alone would need a stored model for each.
    """
    if reference.update != "average":
        return reference.mixing_weight
    return 1 / min(step // reference.every + 1, reference.iterates)
