"""Ways to divide a policy and its batches among four ranks: each gives the gradients and weights of one rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from actors.learning.context import check_context
from actors.learning.rank_parts import end_to_end, merge_columns, plan_scores, with_columns
from objectives.diagnostics import means, merge
from tests.actors.learning.division_ranks import DIVIDED, RANKS, RANKS_S
from tests.actors.learning.learner_ranks import (
    CRITIC,
    ONE_ANSWER,
    RICH,
    UPDATES,
    WEIGHTS_ATOL,
    assert_equal,
    assert_near,
    batch_of,
    config_of,
    critic_batch,
    gradients_of,
    joined,
    rich_batch,
    run_script,
    save,
    step,
    weights_of,
)
from tests.conftest import make_policy

pytestmark = pytest.mark.slow
LAYERS = 3


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy with 4 attention heads and 2 key heads: two ranks divide the key heads, four share them."""
    return make_policy(tmp_path_factory.mktemp("grouped"), layers=LAYERS, head_size=16, key_heads=2)


@pytest.fixture(scope="module")
def one(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one rank does, and its checkpoint."""
    folder = tmp_path_factory.mktemp("ranks")
    learner = joined(str(policy))
    stats = [step(learner, batch_of(update)) for update in range(UPDATES)]
    found = {"folder": folder, "stats": stats, "gradients": gradients_of(learner), "weights": weights_of(learner)}
    save(learner, folder / "of_one")
    step(learner, batch_of(UPDATES))
    return found | {"continued": weights_of(learner)}


@pytest.fixture(scope="module")
def four(policy: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of four ranks found in `division_ranks.scenarios`."""
    run_script("division_ranks.py", policy, one["folder"], timeout_s=2 * RANKS_S)
    return [torch.load(one["folder"] / f"rank{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.mark.parametrize("name", DIVIDED)
def test_no_division_of_the_policy_changes_gradients_weights_or_metrics(
    name: str, one: dict[str, Any], four: list[dict[str, Any]]
) -> None:
    ranks = [rank[name] for rank in four]
    assert_near(ranks[0]["gradients"], one["gradients"], atol=1e-6)
    assert all(list(rank["gradients"]) == list(one["gradients"]) for rank in ranks)
    for rank in ranks[1:]:
        assert_equal(rank["gradients"], ranks[0]["gradients"])
    assert_near(ranks[0]["weights"], one["weights"], atol=WEIGHTS_ATOL)
    for update in range(UPDATES):
        found = means(merge(*(rank["stats"][update] for rank in ranks)))
        assert found == pytest.approx(means(one["stats"][update]), rel=1e-5, abs=1e-6)


def test_unsharded_accumulation_gathers_and_reduces_once_per_update(four: list[dict[str, Any]]) -> None:
    counts = {
        name: {kind: four[0][name]["collectives"].count(kind) for kind in ("_allgather_base_", "_reduce_scatter_base_")}
        for name in ("sharded", "unsharded")
    }
    modules = LAYERS + 1  # the root holds embedding, norm and head
    assert counts["unsharded"] == {"_allgather_base_": UPDATES * modules, "_reduce_scatter_base_": UPDATES * modules}
    microbatches = len(four[0]["sharded"]["columns"])
    assert microbatches > UPDATES
    assert counts["sharded"]["_reduce_scatter_base_"] == microbatches * modules
    assert counts["sharded"]["_allgather_base_"] >= microbatches * (modules + LAYERS - 1)


def test_replicas_sum_their_gradients_once_per_update(four: list[dict[str, Any]]) -> None:
    sums = {name: four[0][name]["collectives"].count("allreduce_") for name in ("sharded", "hybrid")}
    assert sums["hybrid"] - sums["sharded"] == UPDATES * (LAYERS + 1)


@pytest.mark.parametrize(("name", "size"), [("context", 2), ("context_of_four", 4)])
def test_each_rank_of_a_context_group_computes_its_share_of_the_columns(
    name: str, size: int, four: list[dict[str, Any]]
) -> None:
    groups = [[rank[name]["columns"] for rank in four[start : start + size]] for start in range(0, RANKS, size)]
    for ranks in groups:
        for columns in zip(*ranks, strict=True):
            assert max(columns) - min(columns) <= 1
            assert sum(columns) > 1


def test_a_context_group_scores_a_batch_as_one_rank_does(policy: Path, four: list[dict[str, Any]]) -> None:
    alone = joined(str(policy), objective=RICH)
    divided, [part] = plan_scores(rich_batch(), alone.config, 1, alone.linear_width())
    expected = with_columns(rich_batch(), merge_columns(rich_batch(), divided, [end_to_end(alone.score(part))]))
    found = with_columns(
        rich_batch(),
        merge_columns(rich_batch(), four[0]["scored"][0], [end_to_end(rank["scored"][1]) for rank in four]),
    )
    for name in ("logp_old", "entropy_old"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_gates_weights_and_an_entropy_bonus_are_those_of_one_rank_in_a_context_group(
    policy: Path, four: list[dict[str, Any]]
) -> None:
    alone = joined(str(policy), objective=RICH)
    expected = means(step(alone, rich_batch()))
    assert means(merge(*(rank["rich"]["stats"] for rank in four))) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert_near(four[0]["rich"]["gradients"], gradients_of(alone), atol=1e-6)


def test_a_context_group_trains_a_critic_as_one_rank_does(policy: Path, four: list[dict[str, Any]]) -> None:
    alone = joined(str(policy), objective=CRITIC)
    for update in range(UPDATES):
        expected = means(step(alone, critic_batch(update)))
        found = means(merge(*(rank["critic"]["stats"][update] for rank in four)))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert alone.policy.critic is not None
    heads = {name: p.grad for name, p in alone.policy.critic.named_parameters() if p.grad is not None}
    assert_near(four[0]["critic_heads"], heads, atol=1e-6)
    assert max(float(g.abs().max()) for g in heads.values()) > 1e-3


def test_a_context_group_without_trajectories_of_its_own_neither_hangs_nor_counts(
    policy: Path, four: list[dict[str, Any]]
) -> None:
    alone = joined(str(policy))
    expected = means(step(alone, batch_of(0, ONE_ANSWER)))
    assert means(merge(*(rank["idle"]["stats"] for rank in four))) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert_near(four[0]["idle"]["gradients"], gradients_of(alone), atol=1e-6)


def test_a_context_group_trains_in_bfloat16(one: dict[str, Any], four: list[dict[str, Any]]) -> None:
    found, expected = means(merge(*(rank["half"]["stats"] for rank in four))), means(one["stats"][0])
    assert found["skipped_updates"] == 0
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.1)


def test_a_checkpoint_of_replicas_continues_on_one_rank_and_the_reverse(
    policy: Path, one: dict[str, Any], four: list[dict[str, Any]]
) -> None:
    of_four = joined(str(policy))
    of_four.load(str(one["folder"] / "of_hybrid"))
    assert_equal(weights_of(of_four), four[0]["hybrid"]["weights"])
    step(of_four, batch_of(UPDATES))
    assert_near(weights_of(of_four), four[0]["continued"], atol=WEIGHTS_ATOL)
    assert_equal(four[0]["loaded_of_one"], one["weights"])
    assert_near(four[0]["continued_of_one"], one["continued"], atol=WEIGHTS_ATOL)


def test_shards_are_cast_before_they_are_gathered(four: list[dict[str, Any]]) -> None:
    assert [rank["dtypes"] for rank in four] == [{torch.bfloat16}] * RANKS


def test_a_model_that_ranks_cannot_share_is_refused(policy: Path) -> None:
    model = joined(str(policy)).policy.model
    for ranks in (2, 4):
        check_context(model, ranks)
    with pytest.raises(ValueError, match=r"^learner\.context_parallel: must divide the attention heads \(4\).*got 3$"):
        check_context(model, 3)
    model.config.sliding_window = 4
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"^learner\.context_parallel: must be 1 for Qwen2.*sliding windows.*got 2$"):
        check_context(model, 2)
    distance = BloomForCausalLM(BloomConfig(vocab_size=16, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"^learner\.context_parallel: must be 1 for Bloom.*registry, got 2$"):
        check_context(distance, 2)


def test_one_rank_keeps_its_states_in_host_memory_in_a_group_of_its_own(policy: Path, one: dict[str, Any]) -> None:
    learner = joined(str(policy), config=config_of(offload_states=True))
    try:
        for update in range(UPDATES):
            step(learner, batch_of(update))
        assert_near(gradients_of(learner), one["gradients"], atol=1e-6)
    finally:
        learner.close()
