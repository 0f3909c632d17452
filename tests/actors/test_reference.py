"""References: which log-probs they compute, which they keep, and that they agree with the learner's."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actors.local import LocalReference
from actors.reference import References
from tests.actors.learning.learner_ranks import batch_of, config_of, joined, step
from tests.actors.random_batch import random_batch
from trajectories.batch import Batch

TEMPERATURE = 0.7


def reference(policy: Path, *, dtype: str = "float32", layout: str = "pad", token_budget: int = 45) -> References:
    config = config_of(layout=layout, token_budget=token_budget)
    return References(
        {"reference": {str(policy): 1.0}}, config=config, dtype=dtype, temperature=TEMPERATURE, device="cpu"
    )


def filled(batch: Batch) -> Tensor:
    assert batch.logp_reference is not None
    return batch.logp_reference


def rehearsed(batch: Batch) -> Tensor:
    return (batch.group < 0)[batch.seq]


@pytest.mark.parametrize("layout", ["pad", "varlen", "pack"])
@pytest.mark.parametrize("token_budget", [1, 45, 4_000])
def test_explored_answers_are_scored_and_rehearsed_ones_keep_their_stored_log_probs(
    tiny_policy: Path, layout: str, token_budget: int
) -> None:
    batch = random_batch(rehearsed=3)
    stored, scored = (
        filled(batch).clone(),
        reference(tiny_policy, layout=layout, token_budget=token_budget).score(batch),
    )
    with torch.no_grad():
        expected = joined(str(tiny_policy)).policy(batch).logp
    assert torch.equal(filled(scored)[rehearsed(batch)], stored[rehearsed(batch)])
    explored = ~rehearsed(batch)
    torch.testing.assert_close(filled(scored)[explored], expected[explored], rtol=0, atol=1e-5)
    assert filled(batch)[explored].isnan().all(), "the given batch is not changed"
    assert torch.equal(scored.tokens, batch.tokens) and scored.totals == batch.totals


def test_a_frozen_reference_does_not_change_when_the_learner_is_updated(tiny_policy: Path, other_policy: Path) -> None:
    batch, learner = random_batch(), joined(str(tiny_policy))
    frozen = reference(tiny_policy)
    before = filled(frozen.score(batch))
    step(learner, batch_of(0))
    assert torch.equal(filled(frozen.score(batch)), before)
    with torch.no_grad():
        assert not torch.allclose(learner.policy(batch)[0], before, atol=1e-3)
    assert not torch.allclose(filled(reference(other_policy).score(batch)), before, atol=1e-1)


def test_a_rehearsed_answer_without_stored_log_probs_gets_nan(tiny_policy: Path) -> None:
    batch = replace(random_batch(rehearsed=2), logp_reference=None)
    found = filled(reference(tiny_policy).score(batch))
    assert found[rehearsed(batch)].isnan().all()
    assert not found[~rehearsed(batch)].isnan().any()


def test_a_batch_of_rehearsed_answers_only_keeps_their_stored_log_probs(tiny_policy: Path) -> None:
    batch = random_batch(rehearsed=7)
    assert torch.equal(filled(reference(tiny_policy).score(batch)), filled(batch))


def test_in_bfloat16_a_reference_rounds_the_same_tensors_as_the_learner(tiny_policy: Path) -> None:
    batch, frozen, learner = (
        random_batch(),
        reference(tiny_policy, dtype="bfloat16", token_budget=4_000),
        joined(str(tiny_policy)),
    )
    assert {p.dtype for p in frozen.policies["reference"].parameters()} == {torch.bfloat16}
    for (name, found), (_, expected) in zip(
        frozen.policies["reference"].named_buffers(), learner.policy.named_buffers(), strict=True
    ):
        assert torch.equal(found, expected), name
    half = joined(str(tiny_policy), dtype="bfloat16")
    try:
        with torch.no_grad():
            expected = half.policy(batch)[0]
    finally:
        half.close()
    torch.testing.assert_close(filled(frozen.score(batch)), expected, rtol=0, atol=1e-5)


def test_the_local_reference_satisfies_the_contract(tiny_policy: Path) -> None:
    async def run() -> Batch:
        local = LocalReference(reference(tiny_policy))
        scored = await local.score(random_batch())
        await local.close()
        return scored

    assert torch.equal(filled(asyncio.run(run())), filled(reference(tiny_policy).score(random_batch())))
