"""The references of a run: which policies they are, how they score a batch, and when they follow the policy."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from actors.contracts import Column, Learner, Reference
from actors.learner_reference import LearnerReference
from actors.policy_files.reading import load_config
from actors.reference_parts import READ, outputs, spread, unscored
from configs.config import Config
from configs.objective import ObjectiveConfig
from configs.references import ReferenceConfig
from objectives.divergence.anchors import AS_POLICY
from objectives.divergence.reweighted_reference import reference_power
from orchestrator.placement import MAIN, references_of_learner, references_on_actors, shares_gpus
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.feedback import FeedbackPrompts, with_feedback
from trajectories.batch import Batch, pack
from trajectories.trajectory import ROUTES, Group

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


def on_actors(cfg: Config) -> dict[str, dict[str, float]]:
    """Return those of `policies` that the reference actors hold."""
    return {name: policies(cfg)[name] for name in references_on_actors(cfg)}


def with_learner(cfg: Config, learner: Learner, others: Reference | None) -> Reference | None:
    """Return the Reference of a run, in which the learner scores with the references that it holds."""
    held = references_of_learner(cfg)
    return LearnerReference(learner, held, others) if held else others


def columns(objective: ObjectiveConfig) -> list[Column]:
    """List the values [N] that terms and masks need from their anchors besides log-probs and hidden states."""
    anchor = objective.pairs.anchor
    by_activation = objective.masks_pairs and objective.pairs.mask == "activations"
    found = [Column(term=anchor, reference=anchor, kind="activation")] if by_activation else []
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
    early: Sequence[str] = ()
    """Names of the references that score a group as soon as it is complete."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`feedback_share` of the last batch, if a reference reads feedback."""

    async def score_group(self, group: Group) -> Group:
        """Return a complete group with the log-probs of the `early` references in its answers."""
        truncated = self.objective.overlong.mask
        batch = await asyncio.to_thread(pack, [replace(group, experience=(), solution=None)], (), truncated)
        batch = await self.role.score(batch, self.early)
        logps = {MAIN: batch.logp_reference, **batch.anchors}
        lengths = batch.lengths.tolist()
        parts = {name: column.split(lengths) for name, column in logps.items() if column is not None}
        return replace(
            group,
            trajectories=tuple(
                replace(
                    t,
                    logp_reference=parts[MAIN][i].numpy() if MAIN in parts else None,
                    logp_anchors={name: part[i].numpy() for name, part in parts.items() if name != MAIN},
                )
                for i, t in enumerate(group.trajectories)
            ),
        )

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
        batch = await self._rest(replace(batch, power=power)) if self.early else replace(batch, power=power)
        names = [name for name in self.objective.anchors if name not in (*self.informed, *self.early)]
        hidden, further = self.objective.hidden_anchors, columns(self.objective)
        if names or hidden or further:
            batch = await self.role.score(batch, names, hidden, further)
        return await self._informed(batch, groups) if self.informed else batch

    async def _rest(self, batch: Batch) -> Batch:
        """Return the batch in which the `early` references have also scored what was in no group when it was complete:
        solutions."""
        rest = await asyncio.to_thread(unscored, batch, self.early)
        if not rest:
            return batch
        scored = await self.role.score(batch.reduced_to(READ).select(rest), self.early)
        return await asyncio.to_thread(lambda: spread(batch, rest, outputs(scored, self.early, (), ())))

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
    informed, early = [name for name in cfg.objective.anchors if cfg.reads_feedback(name)], early_references(cfg)
    if not informed:
        return Anchors(role, cfg.objective, early=early)
    positions = getattr(load_config(cfg.policy.path).get_text_config(), "max_position_embeddings", None)
    return Anchors(role, cfg.objective, informed, FeedbackPrompts(encode, positions or sys.maxsize), early)


def early_references(cfg: Config) -> list[str]:
    """Return the names of the references that score a group as soon as it is complete, while others are generated.

    Their log-probs must not depend on when they are computed, and neither engines nor learner may wait for them. In a
    repeatable run the whole batch is scored at once.
    """
    if cfg.repeatable or (shares_gpus(cfg) and cfg.lag == 0):
        return []
    moving = {name for name, reference in cfg.references.items() if reference.moves or reference.informed}
    elsewhere = {*references_of_learner(cfg), *(column.reference for column in columns(cfg.objective)), *moving}
    return [name for name in cfg.objective.anchors if name not in elsewhere | {*cfg.objective.hidden_anchors}]


class NoScoring:
    """Takes the place of a role that scores batches when no score is needed."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.early: Sequence[str] = ()

    async def score_group(self, group: Group) -> Group:
        """Return the group unchanged."""
        return group

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
