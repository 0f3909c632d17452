"""Optimal-transport terms in the learner: the anchor's embeddings, and whole blocks of tokens in every chunk."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.learning.rank_parts import plan_updates
from actors.local import LocalReference
from actors.policy_files.reading import load_model
from actors.reference import References
from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.diagnostics import means
from objectives.divergence.wasserstein import token_space, wasserstein
from orchestrator.references import Anchors
from tests.actors.learning.learner_ranks import config_of, joined
from tests.actors.random_batch import credited, logits_megabytes, random_batch
from trajectories.batch import Batch

SHAPES = ((3, 40), (2, 9), (1, 33))
TEMPERATURE = 0.7
SMALL = ("objective.terms.divergence.top=8", "objective.terms.divergence.transport.epsilon=1.0")
"""Embeddings of the random policies are about 2 apart. With the default epsilon, 0.01, no mass would move."""


def objective_of(preset: str) -> ObjectiveConfig:
    if preset == "sinkd":
        return load(["method=sinkd", "objective.terms.rows.coefficient.value=1"]).objective
    cfg = load(["method=wpr", *SMALL, "objective.terms.divergence.coefficient.value=1"]).objective
    return cfg if preset == "wpr" else replace(cfg, terms={"divergence": replace(cfg.terms["divergence"], **EXACT)})


EXACT: dict[str, Any] = {"wiring": "vocabulary", "estimator": "exact"}


def directories(objective: ObjectiveConfig, anchor: Path) -> dict[str, dict[str, float]]:
    return {name: {str(anchor): 1.0} for name in dict.fromkeys([*objective.anchors, *objective.hidden_anchors])}


def scored(anchor: Path, objective: ObjectiveConfig) -> Batch:
    named = directories(objective, anchor)
    role = References(named, config=config_of(), dtype="float32", temperature=TEMPERATURE, device="cpu")
    batch = random_batch(SHAPES)
    return credited(asyncio.run(Anchors(LocalReference(role), objective).score(batch)), objective, 0.5)


def update(
    policy: Path, anchor: Path, batch: Batch, objective: ObjectiveConfig, **choices: Any
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients of one update."""
    config = config_of(max_grad_norm=1e9, **choices)
    learner = joined(str(policy), objective=objective, config=config, references=directories(objective, anchor))
    [parts] = plan_updates(batch, learner.config, 1)
    stats = means(learner.update(parts, dict.fromkeys(objective.terms, 0.5)))
    return stats, {name: p.grad.clone() for name, p in learner.policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("preset", ["wpr", "wpr over the vocabulary", "sinkd"])
def test_an_update_does_not_depend_on_microbatches_chunks_or_layout(
    tiny_policy: Path, other_policy: Path, preset: str
) -> None:
    objective = objective_of(preset)
    batch = scored(other_policy, objective)
    whole = update(
        tiny_policy, other_policy, batch, objective, token_budget=10_000, logits_megabytes=logits_megabytes(1000)
    )
    choices = {"token_budget": 80, "logits_megabytes": logits_megabytes(33), "layout": "pack"}
    stats, gradients = update(tiny_policy, other_policy, batch, objective, **choices)
    assert stats == pytest.approx(whole[0], rel=1e-3, abs=1e-4)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    measured = [name for name in whole[0] if name.startswith("terms/")]
    assert measured and all(whole[0][name] > 0.1 for name in measured)


def test_wasserstein_uses_the_anchors_embeddings_and_is_0_at_the_anchor(tiny_policy: Path, other_policy: Path) -> None:
    objective = objective_of("wpr over the vocabulary")
    batch = scored(other_policy, objective)
    found, _ = update(tiny_policy, other_policy, batch, objective, logits_megabytes=logits_megabytes(64))
    policy, anchor = load_model(str(tiny_policy)), load_model(str(other_policy))
    space = token_space(anchor.get_input_embeddings().weight.detach(), 512)
    values = []
    for tokens, mask in zip(
        batch.tokens.split(batch.lengths.tolist()), batch.mask.split(batch.lengths.tolist()), strict=True
    ):
        with torch.no_grad():
            rows = [m(input_ids=tokens[None]).logits[0, :-1][mask[1:]] / TEMPERATURE for m in (policy, anchor)]
            values.append(wasserstein(objective.terms["divergence"], *rows, tokens[1:][mask[1:]], space))
    assert found["terms/divergence/value"] == pytest.approx(float(torch.cat(values).mean()), rel=1e-4)
    at_anchor, _ = update(other_policy, other_policy, batch, objective, logits_megabytes=logits_megabytes(64))
    assert at_anchor["terms/divergence/value"] == pytest.approx(0, abs=1e-4) and found["terms/divergence/value"] > 1
