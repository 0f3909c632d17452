"""Every preset on the GPU beside the CPU, in float32: scores of references and policy, loss and gradient.

About 80 presets at 0.4 s each on both devices: 35 s, and 12 s of imports.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actors.learning.rank_parts import plan_updates
from actors.local import LocalLearner, LocalReference
from actors.reference import References
from benchmarks.gpu.inputs import (
    TINY,
    KeepingLearner,
    credited,
    random_batch,
    random_policy,
    relative_error,
    with_routes,
)
from benchmarks.gpu.record import Record
from configs.config import Config
from configs.learner import LearnerConfig
from configs.load import load, presets
from objectives.diagnostics import means
from orchestrator.references import Anchors, policies
from trajectories.batch import Batch, with_own_totals

SHAPES = ((5, 9), (5, 1), (7, 14), (7, 6), (4, 11), (4, 3), (6, 10))
CHANGED = {"gtpo": ["objective.gates.entropy_limit=4.5"], "passk_training": ["objective.pass_k.k=1"]}
"""Settings without which a random policy, or a group of two answers, would have no gradient."""
COLUMNS = ("logp_reference", "logp_old", "entropy_old", "value_old", "advantage", "gate", "value_target")
TABLES = ("anchors", "reweighted", "certainty", "distance", "hidden", "term_weights")
SCORE_LIMIT, LOSS_LIMIT, GRADIENT_LIMIT = 2e-3, 1e-3, 2e-3
"""Largest absolute difference of a score, in nats, and relative ones of metrics and gradient."""
COEFFICIENT = 0.5
EVERY = 9
"""One preset of so many is computed at small sizes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how a preset is computed."""

    device: str
    layout: str


def run(record: Record) -> None:
    """Compare all presets."""
    first, second = (
        random_policy(record.scratch / name, TINY, device=record.device, dtype=torch.float32, seed=seed)
        for seed, name in enumerate(("policy", "other"))
    )
    # On a CPU alone, another layout is compared.
    places = Place(device="cpu", layout="pad"), Place(device=record.device, layout="auto" if record.gpu else "varlen")
    worst: dict[str, float] = {}
    names = presets("method")[:: EVERY if record.small else 1]
    for number, method in enumerate(names, 1):
        with record.part(method):
            errors = _compared(method, first, second, *places)
            for kind, error in errors.items():
                worst[kind] = max(worst.get(kind, 0.0), error if math.isfinite(error) else math.inf)
            bad = {kind: error for kind, error in errors.items() if not error <= _limit(kind)}
            if bad:
                raise AssertionError(f"{method}: differs on {record.device} by {bad}")
        if number % 10 == 0:
            record.value("so far", {"presets": number, **worst})
    record.value("presets", len(names))
    for kind, error in sorted(worst.items()):
        record.check(f"largest error of {kind}", error, at_most=_limit(kind))


def _limit(kind: str) -> float:
    return {"metrics": LOSS_LIMIT, "gradient": GRADIENT_LIMIT}.get(kind, SCORE_LIMIT)


def _compared(method: str, policy: str, other: str, cpu: Place, gpu: Place) -> dict[str, float]:
    """Return the errors of a preset: of each column of scores, of the metrics, and of the gradient."""
    cfg = load([f"method={method}", *CHANGED.get(method, [])])
    batch = with_own_totals(with_routes(random_batch(SHAPES, rehearsed=2), cfg.objective))
    expected, found = (asyncio.run(_scored(cfg, batch, policy, other, place)) for place in (cpu, gpu))
    errors = _column_errors(expected, found)
    # Both updates are of the same scores.
    (metrics, gradient), (own_metrics, own_gradient) = (
        _updated(cfg, expected, policy, other, place) for place in (cpu, gpu)
    )
    assert metrics.keys() == own_metrics.keys(), sorted(metrics.keys() ^ own_metrics.keys())
    errors["metrics"] = max(
        abs(own_metrics[name] - value) / max(1.0, abs(value))
        for name, value in metrics.items()
        if not (math.isnan(value) and math.isnan(own_metrics[name]))
    )
    norm = float(gradient.norm())
    assert norm > 1e-6, "the preset has no gradient on this batch"
    errors["gradient"] = relative_error(own_gradient, gradient)
    return errors


def _column_errors(expected: Batch, found: Batch) -> dict[str, float]:
    """Return the largest absolute difference of each column that both batches have."""
    pairs: dict[str, list[tuple[Any, Any]]] = {
        **{name: [(getattr(expected, name), getattr(found, name))] for name in COLUMNS},
        **{
            name: [(value, getattr(found, name)[key]) for key, value in getattr(expected, name).items()]
            for name in TABLES
        },
    }
    errors = {}
    for name, columns in pairs.items():
        for one, other in columns:
            assert (one is None) == (other is None), f"{name} is missing on one device"
            if one is not None:
                assert bool((one.isnan() == other.isnan()).all()), f"{name} is NaN elsewhere"
                errors[name] = max(errors.get(name, 0.0), float((one - other).nan_to_num().abs().max()))
    return errors


async def _scored(cfg: Config, batch: Batch, policy: str, other: str, place: Place) -> Batch:
    """Return the batch with scores of references and policy, and with advantages."""
    named = {name: {other: 1.0} for name in policies(cfg)}
    references = References(
        named, config=_config(place), dtype="float32", temperature=cfg.sampling.temperature, device=place.device
    )
    scored = await Anchors(LocalReference(references), cfg.objective).score(batch)
    if cfg.scores_first:
        scored = await LocalLearner(_learner(cfg, policy, other, place), checksum=False).score(scored)
    return credited(scored, cfg.objective, COEFFICIENT)


def _updated(cfg: Config, batch: Batch, policy: str, other: str, place: Place) -> tuple[dict[str, float], Tensor]:
    """Return metrics and gradient [parameters] of one update."""
    learner = _learner(cfg, policy, other, place)
    [updates] = plan_updates(batch, learner.config, 1, learner.linear_width())
    names = [*cfg.objective.terms, "replay"]
    stats = means(learner.update(updates, dict.fromkeys(names, COEFFICIENT)))
    gradients = [p.grad.detach().cpu().flatten() for p in learner.policy.model.parameters() if p.grad is not None]
    return stats, torch.cat(gradients)


def _learner(cfg: Config, policy: str, other: str, place: Place) -> KeepingLearner:
    learner = KeepingLearner(
        policy,
        config=_config(place),
        objective=cfg.objective,
        dtype="float32",
        temperature=cfg.sampling.temperature,
        total_steps=10,
        references={name: {other: 1.0} for name in policies(cfg)},
        device=place.device,
    )
    learner.join()
    return learner


def _config(place: Place) -> LearnerConfig:
    """Return settings with three microbatches, several chunks of logits, and a gradient that is not clipped."""
    layout: Any = place.layout
    return LearnerConfig(learning_rate=3e-4, token_budget=45, logits_megabytes=0.035, max_grad_norm=1e9, layout=layout)
