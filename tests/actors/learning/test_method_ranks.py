"""Every preset's gradient on two ranks, which divide microbatches or their tokens, is the one on one rank."""

import asyncio
from pathlib import Path

import pytest
import torch

from actors.local import LocalLearner, LocalReference
from actors.reference import References
from configs.load import presets
from orchestrator.references import Anchors, policies
from tests.actors.learning.learner_ranks import assert_near, config_of, gradients_of, run_script, step
from tests.actors.learning.method_ranks import KINDS, RANKS_S, config_for, learner_of
from tests.actors.random_batch import credited, random_batch, with_common_prompts, with_routes
from trajectories.batch import Batch, with_own_totals


def batch_of(method: str, policy: str, other: str) -> Batch:
    """A batch with all that the preset's loss reads, the same on any number of ranks."""
    cfg = config_for(method)
    named = {name: {other: 1.0} for name in policies(cfg)}
    references = References(named, config=config_of(), dtype="float32", temperature=0.7, device="cpu")
    drawn = with_routes(with_common_prompts(random_batch(seed=1, rehearsed=2)), cfg.objective)
    anchors = Anchors(LocalReference(references), cfg.objective)
    batch = asyncio.run(anchors.score(with_own_totals(drawn)))
    batch.reward[0] = 1.0  # one answer that is correct
    if cfg.scores_first:
        batch = asyncio.run(LocalLearner(learner_of(method, policy, other), checksum=False).score(batch))
    return credited(batch, cfg.objective, 0.5)


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_for_every_method(
    tiny_policy: Path, other_policy: Path, tmp_path: Path
) -> None:
    policy, other = str(tiny_policy), str(other_policy)
    alone = {}
    for method in presets("method"):
        batch = batch_of(method, policy, other)
        torch.save(batch, tmp_path / f"{method}.batch")
        learner = learner_of(method, policy, other)
        step(learner, batch)
        alone[method] = gradients_of(learner)
        assert max(float(g.abs().max()) for g in alone[method].values()) > 1e-4, f"{method}: nothing to compare"
    run_script("method_ranks.py", policy, other, tmp_path, timeout_s=3 * RANKS_S)
    for method, expected in alone.items():
        for kind in KINDS:
            assert_near(torch.load(tmp_path / f"{method}.{kind}"), expected, atol=2e-6)
