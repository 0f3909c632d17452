"""Which references a run has, what it asks of them, and when they follow the policy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from actors.contracts import Column, Reference
from configs.config import Config
from configs.objective import ObjectiveConfig
from configs.references import ReferenceConfig
from objectives.divergence.reweighted_reference import reference_power
from trajectories.batch import Batch

MAIN = "reference"
SMOOTHING = 0.9


def policies(cfg: Config) -> dict[str, dict[str, float]]:
    """Every reference by name, as directories and weights."""
    found = {MAIN: {cfg.reference_path or cfg.policy.path: 1.0}}
    for name, reference in cfg.references.items():
        found[name] = dict(reference.soup) or {reference.path or cfg.policy.path: 1.0}
    return found


def columns(objective: ObjectiveConfig) -> list[Column]:
    """What the divergence terms need of their anchors besides log-probs and hidden states."""
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
    """The references the objective compares the policy with."""

    role: Reference
    objective: ObjectiveConfig

    async def score(self, batch: Batch) -> Batch:
        """The batch with all the objective needs of them; `batch` is whole, as what it earned decides on some of it."""
        terms = self.objective.terms
        power = {name: reference_power(batch, term) for name, term in terms.items() if term.reweights}
        return await self.role.score(
            replace(batch, power=power), self.objective.anchors, self.objective.hidden_anchors, columns(self.objective)
        )


class Unscored:
    """Stands in where nobody has to score a batch."""

    async def score(self, batch: Batch) -> Batch:
        return batch


class Moves:
    """Says after each step which references are to be moved, and how far. Its state is `drift`."""

    def __init__(self, references: Mapping[str, ReferenceConfig], drift: Mapping[str, float]) -> None:
        self.references = {name: reference for name, reference in references.items() if reference.moves}
        self.drift = {name: drift.get(name, 0.0) for name in self.references}
        """Smoothed KL per token to each reference since it last moved, in nats."""

    def after(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Name and share of every reference whose turn it is after `step`."""
        shares = {}
        for name, reference in self.references.items():
            self.drift[name] += (1 - SMOOTHING) * (metrics.get(f"kl_{name}", self.drift[name]) - self.drift[name])
            drifted = reference.update == "kl" and self.drift[name] > reference.threshold
            if drifted or (reference.update == "periodic" and step % reference.every == 0):
                shares[name] = reference.mixing_weight
                self.drift[name] = 0.0
        return shares
