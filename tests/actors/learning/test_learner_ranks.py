"""FsdpLearner in a process group: two ranks, each a process, against one; and a bfloat16 policy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from objectives.diagnostics import means, merge
from tests.actors.learning.learner_ranks import (
    CRITIC,
    ONE_ANSWER,
    RANKS_S,
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
    parameters_of,
    parameters_of_learner,
    rich_batch,
    run_script,
    save,
    step,
    weights_of,
)
from trajectories.batch import Batch
from trajectories.split import partition

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", ["pad", "varlen", "pack"])
def test_a_bfloat16_policy_keeps_float32_weights_and_finite_numbers(tiny_policy: Path, layout: str) -> None:
    exact = joined(str(tiny_policy))
    expected = means(step(exact, batch_of(0)))
    learner = joined(str(tiny_policy), dtype="bfloat16", config=config_of(layout=layout, gradient_checkpointing=True))
    try:
        stats = means(step(learner, batch_of(0)))
        assert {p.dtype for p in learner.policy.parameters()} == {torch.float32}
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients_of(learner).values())
        assert stats["loss"] == pytest.approx(expected["loss"], rel=0.05)
        assert stats["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.1)
        assert learner.weights_info().dtype == "bfloat16"
        exactly = parameters_of_learner(learner)
        assert_equal(weights_of(learner), {name: p.bfloat16() for name, p in exactly.items()})
        assert any(not torch.equal(p, p.bfloat16().float()) for p in exactly.values())
    finally:
        learner.close()
    assert not torch.distributed.is_initialized()


def test_gradients_of_a_bfloat16_policy_are_summed_over_microbatches_in_float32(tiny_policy: Path) -> None:
    """Each microbatch's gradient is rounded to bfloat16 once, by the dtype of the gathered weights, and no sum is."""
    learner = joined(str(tiny_policy), dtype="bfloat16", config=config_of(token_budget=1))
    try:
        parts = partition(batch_of(0), 1, 1)[0]
        head = learner.policy.model.get_output_embeddings()

        def gradient(some: list[Batch]) -> torch.Tensor:
            learner.policy.zero_grad()
            for part in some:
                (part.logp_sampler * learner.policy(part).logp).sum().backward()
            return head.weight.grad.full_tensor().clone()

        alone = [gradient([part]) for part in parts]
        assert len(alone) > 4 and all(torch.equal(one, one.bfloat16().float()) for one in alone)
        total = torch.stack(alone).sum(0)
        torch.testing.assert_close(gradient(parts), total, rtol=1e-5, atol=1e-6 * float(total.abs().max()))
        assert not torch.allclose(total, total.bfloat16().float(), rtol=1e-5)
    finally:
        learner.close()


def test_a_sharded_learner_is_saved_after_a_score_that_no_update_follows(tiny_policy: Path, tmp_path: Path) -> None:
    learner = joined(str(tiny_policy), dtype="bfloat16")
    try:
        step(learner, batch_of(0))
        learner.score([batch_of(0)])
        save(learner, tmp_path)
    finally:
        learner.close()
    assert (tmp_path / "policy" / "model.safetensors").is_file()


# Two ranks, each a process.


@pytest.fixture(scope="module")
def one(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one rank does, and its checkpoint after UPDATES of them."""
    folder = tmp_path_factory.mktemp("ranks")
    learner = joined(str(tiny_policy))
    stats = [step(learner, batch_of(update)) for update in range(UPDATES)]
    found = {"folder": folder, "stats": stats, "gradients": gradients_of(learner), "weights": weights_of(learner)}
    save(learner, folder / "of_one")
    learner.checkpoint_dtype = "bfloat16"
    save(learner, folder / "half_of_one")
    step(learner, batch_of(UPDATES))
    return found | {"continued": weights_of(learner)}


@pytest.fixture(scope="module")
def two(tiny_policy: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of two ranks found in `learner_ranks.scenarios`."""
    run_script("learner_ranks.py", tiny_policy, one["folder"], timeout_s=3 * RANKS_S)
    return [torch.load(one["folder"] / f"rank{rank}.pt") for rank in range(2)]


def test_two_ranks_have_the_gradient_and_the_weights_of_one(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert_near(two[0]["gradients"], one["gradients"], atol=1e-6)
    assert_equal(two[1]["gradients"], two[0]["gradients"])
    assert_near(two[0]["weights"], one["weights"], atol=WEIGHTS_ATOL)
    assert two[1]["weights"] == {}, "only the first rank hands weights over"


def test_the_metrics_of_two_ranks_add_up_to_those_of_one(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for update in range(UPDATES):
        found, expected = merge(two[0]["stats"][update], two[1]["stats"][update]), one["stats"][update]
        assert {name: weight for name, (_, weight) in found.items()} == pytest.approx(
            {name: weight for name, (_, weight) in expected.items()}, rel=1e-6
        )
        found_means, expected_means = means(found), means(expected)
        assert found_means["grad_norm"] == pytest.approx(expected_means["grad_norm"], rel=1e-6)
        assert found_means == pytest.approx(expected_means, rel=1e-5, abs=1e-6)


def test_no_gate_weight_or_bonus_depends_on_the_number_of_ranks(tiny_policy: Path, two: list[dict[str, Any]]) -> None:
    alone = joined(str(tiny_policy), objective=RICH)
    expected = means(step(alone, rich_batch()))
    found = means(merge(two[0]["rich_stats"], two[1]["rich_stats"]))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert_near(two[0]["rich_gradients"], gradients_of(alone), atol=1e-6)
    for name in ("conflict_tokens", "entropy_filtered", "mismatch_rejected"):
        assert 0 < expected[name] < 1, name


def test_a_rank_without_trajectories_of_its_own_neither_hangs_nor_counts(
    tiny_policy: Path, two: list[dict[str, Any]]
) -> None:
    alone = joined(str(tiny_policy))
    expected = means(step(alone, batch_of(0, ONE_ANSWER)))
    assert means(merge(two[0]["idle_stats"], two[1]["idle_stats"])) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert_near(two[0]["idle_gradients"], gradients_of(alone), atol=1e-6)


def test_what_is_not_finite_on_one_rank_is_skipped_on_both(tiny_policy: Path, two: list[dict[str, Any]]) -> None:
    assert means(two[0]["spoiled_stats"])["skipped_updates"] == 1
    assert means(merge(two[0]["spoiled_stats"], two[1]["spoiled_stats"]))["skipped_updates"] == 1
    alone = joined(str(tiny_policy))
    step(alone, batch_of(0, ONE_ANSWER))
    assert_near(two[0]["idle_weights"], weights_of(alone), atol=WEIGHTS_ATOL)


def test_a_checkpoint_of_two_ranks_continues_on_one_and_the_reverse(
    tiny_policy: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    of_two = joined(str(tiny_policy))
    of_two.load(str(one["folder"] / "of_two"))
    assert_equal(weights_of(of_two), two[0]["weights"])
    assert of_two.updates == UPDATES
    step(of_two, batch_of(UPDATES))
    assert_near(weights_of(of_two), two[0]["continued"], atol=WEIGHTS_ATOL)
    assert_near(two[0]["continued_of_one"], one["continued"], atol=WEIGHTS_ATOL)


def test_a_checkpoint_with_a_bfloat16_policy_restores_the_float32_weights_on_any_number_of_ranks(
    tiny_policy: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    saved: dict[str, torch.Tensor] = {}
    for file in sorted((one["folder"] / "half_of_two" / "policy").glob("model-0000?-of-00002.safetensors")):
        saved |= load_file(file)
    assert_equal(saved, {name: weight.bfloat16() for name, weight in two[0]["weights"].items()})
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    of_two = joined(str(tiny_policy))
    of_two.load(str(one["folder"] / "half_of_two"))
    assert_equal(weights_of(of_two), two[0]["weights"])
    assert_equal(two[0]["loaded_of_half"], two[0]["loaded_of_one"])


def test_a_critic_is_trained_and_kept_by_two_ranks_as_by_one(
    tiny_policy: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    alone = joined(str(tiny_policy), objective=CRITIC)
    assert alone.policy.critic is not None
    for update in range(UPDATES):
        expected = means(step(alone, critic_batch(update)))
        found = means(merge(two[0]["critic_stats"][update], two[1]["critic_stats"][update]))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert expected["value_loss"] > 0
    assert_near(two[0]["critic_heads"], parameters_of(alone.policy.critic), atol=WEIGHTS_ATOL)
    of_two = joined(str(tiny_policy), objective=CRITIC)
    assert of_two.policy.critic is not None
    of_two.load(str(one["folder"] / "critic_of_two"))
    assert_equal(parameters_of(of_two.policy.critic), two[0]["critic_heads"])
    step(of_two, critic_batch(UPDATES))
    assert_near(parameters_of(of_two.policy.critic), two[0]["critic_continued"], atol=WEIGHTS_ATOL)
    idle = joined(str(tiny_policy), objective=CRITIC)
    expected = means(step(idle, critic_batch(0, ONE_ANSWER)))
    assert means(merge(*(rank["critic_idle_stats"] for rank in two))) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_two_ranks_look_ahead_as_one_and_one_continues_their_checkpoint_between_two_steps(
    tiny_policy: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    alone, of_two = (joined(str(tiny_policy), config=config_of(extragradient=True)) for _ in range(2))
    for update in range(4):
        step(alone, batch_of(update))
        assert_near(two[0]["pairs"][update], weights_of(alone), atol=4 * WEIGHTS_ATOL)
    of_two.load(str(one["folder"] / "pairs_of_two"))
    assert_equal(weights_of(of_two), two[0]["pairs"][2])
    step(of_two, batch_of(3))
    assert_near(weights_of(of_two), two[0]["pairs"][3], atol=WEIGHTS_ATOL)


def test_two_bfloat16_ranks_with_checkpointed_packed_layers_agree(two: list[dict[str, Any]]) -> None:
    stats = means(merge(two[0]["half_stats"], two[1]["half_stats"]))
    assert stats["skipped_updates"] == 0
    assert stats["grad_norm"] == pytest.approx(means(two[0]["stats"][0])["grad_norm"], rel=0.1)
    assert two[0]["half_masters"] == two[1]["half_masters"] == {"torch.float32"}
