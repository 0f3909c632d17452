"""Cost of a divergence term: scores of the reference, credit and update, relative to a step without a term."""

import asyncio
from dataclasses import dataclass
from functools import partial

import torch

from actors.contracts import Learner
from benchmarks.speed.batches import credited, task_batch
from benchmarks.speed.plan import IN_PROCESS, Plan
from benchmarks.speed.result import Row
from benchmarks.speed.rows.learner import seconds, settings, small
from configs.config import Config
from configs.divergences import DIVERGENCES
from orchestrator import cluster
from orchestrator.placement import needed_roles
from orchestrator.references import Anchors
from trajectories.batch import Batch

TERM = "objective.terms.divergence"
SAMPLED = ("wiring=loss", "estimator=straight_through")
JOINT = ("wiring=joint", "estimator=k1")
EXACT = ("wiring=vocabulary", "estimator=exact")
NEEDED = {"wasserstein": ("top=128",)}
"""Further settings that a divergence needs: those of its preset."""


@dataclass(frozen=True)
class Step:
    """What a step does with a batch of explored answers under one objective."""

    cfg: Config
    learner: Learner
    anchors: Anchors | None

    async def run(self, batch: Batch) -> None:
        if self.anchors:
            batch = await self.anchors.score(batch)
        await self.learner.update(credited(self.cfg, batch), dict.fromkeys(self.cfg.objective.terms, 0.01))


def forms(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the settings of every divergence from sampled tokens and of every exact one, by the row's name."""
    found: dict[str, tuple[str, ...]] = {}
    for name, divergence in DIVERGENCES.items():
        sampled = SAMPLED if "loss" in divergence.wirings else JOINT if "joint" in divergence.wirings else ()
        for form, words in (("sampled", sampled), ("exact", EXACT)):
            if words:
                found[f"{name}/{form}"] = tuple(
                    f"{TERM}.{word}" for word in (f"name={name}", *words, *NEEDED.get(name, ()))
                )
    names = list(found)[:2] if plan.quick else list(found)
    return {name: found[name] for name in names}


async def prepared(cfg: Config) -> Step:
    """Start the roles of a step."""
    roles = await cluster.start(cfg, [role for role in needed_roles(cfg) if role in ("learner", "reference")])
    assert roles.learner is not None
    anchors = Anchors(roles.reference, cfg.objective) if roles.reference and cfg.objective.terms else None
    return Step(cfg, roles.learner, anchors)


def measure(plan: Plan) -> list[Row]:
    """Measure every form in turns with a step without a term, one thread each."""
    torch.set_num_threads(1)
    return asyncio.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    size = small(plan) or ("groups_per_step=16", "sampling.group_size=8")
    plain = await prepared(settings(*IN_PROCESS, *size))
    batch = task_batch(plain.cfg)
    rows = []
    for name, words in forms(plan).items():
        step = await prepared(settings(*IN_PROCESS, *size, *words))
        ours, other = [], []
        for number in range(plan.rounds + 1):
            with_term = await seconds(partial(step.run, batch))
            without = await seconds(partial(plain.run, batch))
            if number:
                ours.append(with_term)
                other.append(without)
        await step.learner.close()
        divergence, form = name.split("/")
        rows.append(
            Row(
                name=f"divergence/{divergence}/{form}",
                title=f"{divergence}, {'exact over the vocabulary' if form == 'exact' else 'from sampled tokens'}",
                unit="s a step",
                ours=tuple(ours),
                other_name="no divergence term",
                other=tuple(other),
                higher_is_better=False,
            )
        )
    return rows
