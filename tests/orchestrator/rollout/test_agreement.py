"""Generators and learner must agree on log-probs after the first publication."""

import asyncio
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from actors.generation.transformers_engine import TransformersGenerator
from actors.learning.learner import FsdpLearner
from actors.local import LocalLearner
from configs.config import Config
from configs.load import load
from orchestrator import cluster, constructors
from orchestrator.commands.paths import absolute
from orchestrator.rollout.agreement import check_agreement
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.rollouts import Rollouts
from tasks.registry import build
from tests.conftest import make_mixture_of_experts


def config(policy: Path, *overrides: str) -> Config:
    shared = ("placement.kind=in_process", "generator.engine=transformers", f"policy.path={policy}")
    return absolute(load([*shared, *overrides]))


async def compare(cfg: Config, served: Path, *, publish: bool) -> None:
    """Compare the learner of `policy.path` with generators that were started with the policy `served`."""
    roles = await cluster.start(cfg, ["grader"])
    arguments = [constructors.generator_arguments(cfg, path) for path in (cfg.policy.path, str(served))]
    generators = [TransformersGenerator(**one) for one in arguments]
    core = FsdpLearner(**constructors.learner_arguments(cfg))
    core.join()
    learner = LocalLearner(core, checksum=False)
    try:
        if publish:
            await learner.connect(generators)
            await learner.publish(0)
        async with Rollouts(generators, roles.graders, 60) as rollouts:
            await check_agreement(cfg, build(cfg.task, 0), PromptEncoder(cfg.policy), rollouts, learner.score)
    finally:
        await asyncio.gather(*(generator.close() for generator in generators), roles.close())


def test_a_generator_with_other_weights_is_refused_with_both_log_probs(tiny_policy: Path, other_policy: Path) -> None:
    found = (
        r"policy\.path: log-probs .* at most 0\.02 nats .*, got [1-9]\S*: on average -\d+\.\d+ by the generator and "
    )
    with pytest.raises(ValueError, match=found):
        asyncio.run(compare(config(tiny_policy), other_policy, publish=False))


def test_published_weights_agree(tiny_policy: Path, other_policy: Path) -> None:
    asyncio.run(compare(config(tiny_policy), other_policy, publish=True))


def test_published_experts_agree(tmp_path: Path) -> None:
    policies = [make_mixture_of_experts(tmp_path / str(seed), seed) for seed in range(2)]
    before = PreTrainedModel.tie_weights
    asyncio.run(compare(config(policies[0]), policies[1], publish=True))
    # Both engines load a model to convert the experts, each in its thread, and transformers replaces this meanwhile.
    assert PreTrainedModel.tie_weights is before
