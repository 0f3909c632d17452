"""The critic: hidden states it uses, its update, which leaves the policy unchanged, checkpoints, and frozen updates."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actors.learning.learner import FsdpLearner
from actors.learning.schedule import learning_rate
from actors.local import LocalLearner
from actors.policy_files.reading import load_model
from actors.scoring.value_heads import ValueHeads
from configs.critic import CriticConfig
from configs.learner import LearnerConfig
from configs.load import load
from objectives.advantage.critic import soft_min
from objectives.diagnostics import means
from tests.actors.learning.learner_ranks import (
    CRITIC,
    assert_equal,
    assert_near,
    batch_of,
    config_of,
    critic_batch,
    gradients_of,
    joined,
    parameters_of,
    parameters_of_learner,
    step,
    weights_of,
)
from tests.actors.random_batch import credited, random_batch, untrained
from trajectories.batch import Batch


def heads_of(learner: FsdpLearner) -> dict[str, Tensor]:
    assert learner.policy.critic is not None
    return parameters_of(learner.policy.critic)


def scored(learner: FsdpLearner, batch: Batch) -> Batch:
    return asyncio.run(LocalLearner(learner, checksum=False).score(batch))


def by_hand(heads: ValueHeads, hidden: Tensor) -> Tensor:
    normal = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    rows = []
    for head in heads.heads:
        assert isinstance(head, nn.Sequential)
        first, last = head[0], head[2]
        rows.append(nn.functional.gelu(normal @ first.weight.T + first.bias) @ last.weight.T + last.bias)
    return torch.cat(rows, -1)


@pytest.mark.parametrize("layout", ["pad", "pack"])
@pytest.mark.parametrize("reads", ["answer", "prompt"])
def test_a_value_is_computed_from_the_last_hidden_state_of_the_answer_or_of_the_prompt(
    tiny_policy: Path, layout: str, reads: Any
) -> None:
    objective = replace(CRITIC, critic=CriticConfig(reads=reads))
    learner, batch = joined(str(tiny_policy), objective=objective, config=config_of(layout=layout)), random_batch()
    values = learner.policy(batch).values
    assert learner.policy.critic is not None and values is not None and values.shape == (7, 2)
    assert learner.policy.critic.heads[0][0].weight.shape == (16, 64)  # type: ignore[index]
    assert not torch.equal(values[:, 0], values[:, 1]), "the heads start with different weights"
    model, starts = load_model(str(tiny_policy)), batch.lengths.cumsum(0) - batch.lengths
    for place, (start, length) in enumerate(zip(starts.tolist(), batch.lengths.tolist(), strict=True)):
        tokens, mask = batch.tokens[start : start + length], batch.mask[start : start + length]
        states = model(tokens[None], output_hidden_states=True).hidden_states[-1][0]
        wanted = length - 1 if reads == "answer" else int(mask.nonzero()[0]) - 1
        torch.testing.assert_close(values[place], by_hand(learner.policy.critic, states[wanted]), atol=1e-5, rtol=1e-4)


def test_tool_text_after_the_last_trained_token_is_not_used() -> None:
    batch = random_batch(((2, 3), (1, 4)))
    mask = torch.tensor([0, 0, 1, 0, 0, 0, 0, 1, 1, 0]).bool()
    read = {reads: ValueHeads(8, CriticConfig(reads=reads)).positions(replace(batch, mask=mask)) for reads in READS}
    assert {reads: places.tolist() for reads, places in read.items()} == {"answer": [2, 8], "prompt": [1, 6]}
    assert ValueHeads(8, CriticConfig()).positions(untrained(batch)).tolist() == [4, 9]


READS: tuple[Any, ...] = ("answer", "prompt")


def test_the_value_loss_updates_the_heads_only(tiny_policy: Path) -> None:
    silent = replace(CRITIC, terms={})
    learner, batch = joined(str(tiny_policy), objective=silent), critic_batch()
    batch = replace(batch, advantage=torch.zeros(len(batch.tokens)))
    before = heads_of(learner)
    stats = means(step(learner, batch))
    assert max(float(g.abs().max()) for g in gradients_of(learner).values()) == 0
    assert stats["grad_norm"] == 0 < stats["grad_norm/critic"] and stats["value_loss"] > 0.01
    assert all(not torch.equal(before[name], p) for name, p in heads_of(learner).items())


def test_a_critic_does_not_change_the_policys_update_and_has_a_gradient_bound_of_its_own(
    tiny_policy: Path,
) -> None:
    objective = replace(CRITIC, critic=CriticConfig(max_grad_norm=1e-3, learning_rate=7e-3))
    batch = critic_batch()
    learner, plain = (
        joined(str(tiny_policy), objective=o) for o in (objective, replace(objective, advantage="mean_only"))
    )
    for one in (learner, plain):
        step(one, batch)
    assert_equal(weights_of(learner), weights_of(plain))
    assert learner.policy.critic is not None
    gradient = torch.cat([p.grad.flatten() for p in learner.policy.critic.parameters() if p.grad is not None])
    assert float(gradient.norm()) == pytest.approx(1e-3, rel=1e-3)
    assert [group["lr"] for group in learner.optimizer.param_groups] == [learner.config.learning_rate, 7e-3]


def test_values_before_the_update_are_the_soft_min_in_the_order_of_the_batch(tiny_policy: Path) -> None:
    learner, batch = joined(str(tiny_policy), objective=CRITIC), random_batch(rehearsed=2)
    with torch.no_grad():
        values = learner.policy(batch).values
    assert values is not None
    found = scored(learner, batch)
    assert found.value_old is not None
    torch.testing.assert_close(found.value_old, soft_min(values, 0.3), atol=1e-5, rtol=1e-4)
    part = found.select([3, 1])
    assert part.value_old is not None and torch.equal(part.value_old, found.value_old[[3, 1]])


def test_the_critics_update_does_not_depend_on_the_microbatches(tiny_policy: Path) -> None:
    found = []
    for budget in (45, 10_000):
        learner = joined(str(tiny_policy), objective=CRITIC, config=config_of(token_budget=budget))
        found.append((means(step(learner, critic_batch())), heads_of(learner)))
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-5, abs=1e-6)
    assert_near(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.parametrize("kept", [range(7), [0, 2, 3, 4, 5, 6], []])
def test_an_answer_that_is_not_in_the_loss_has_no_value_and_changes_no_other(
    tiny_policy: Path, kept: Sequence[int]
) -> None:
    batch = credited(replace(random_batch(), value_old=torch.linspace(-1, 1, 7)), CRITIC)
    failed = torch.ones(7, dtype=torch.bool).index_fill(0, torch.tensor(list(kept), dtype=torch.long), False)
    batch = replace(batch, mask=batch.mask & ~failed[batch.seq], in_loss=~failed)
    found = []
    for one in (batch, replace(batch, in_loss=torch.ones(7, dtype=torch.bool))):
        learner = joined(str(tiny_policy), objective=CRITIC)
        found.append((means(step(learner, one)), heads_of(learner)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-6)
    assert_near(found[0][1], found[1][1], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_critic_continues_bit_for_bit_and_the_saved_policy_contains_no_heads(
    tiny_policy: Path, tmp_path: Path, dtype: str
) -> None:
    config = config_of(weight_decay=0.1, schedule="cosine")
    learner, loaded = (joined(str(tiny_policy), dtype=dtype, config=config, objective=CRITIC) for _ in range(2))
    step(learner, critic_batch())
    learner.save(str(tmp_path))
    step(loaded, critic_batch(5))  # `load` must undo this update
    learner.saved()
    loaded.load(str(tmp_path))
    assert_equal(whole_heads(loaded), whole_heads(learner))
    stats = [step(one, critic_batch(1)) for one in (learner, loaded)]
    assert stats[0] == stats[1]
    assert_equal(whole_heads(loaded), whole_heads(learner))
    assert_equal(parameters_of_learner(loaded), parameters_of_learner(learner))
    assert {p.dtype for p in heads_of(learner).values()} == {torch.float32}
    assert parameters_of(load_model(str(tmp_path / "policy"))).keys() == weights_of(learner).keys()
    learner.close()


@pytest.mark.parametrize("budget", [45, 10_000])
def test_the_head_of_flow_balance_has_the_gradient_of_its_residuals_and_the_policy_that_of_its_log_probs(
    tiny_policy: Path, budget: int
) -> None:
    objective = load(["method=flow_rl"]).objective
    learner = joined(str(tiny_policy), objective=objective, config=config_of(token_budget=budget))
    drawn = random_batch()
    batch = credited(replace(drawn, logp_reference=drawn.logp_sampler - 0.1), objective)
    before = joined(str(tiny_policy), objective=objective).policy
    stats = means(step(learner, batch))
    scored = before(batch)
    assert scored.values is not None and batch.value_target is not None and scored.values.shape == (7, 1)
    by_answer = [torch.where(batch.seq == i, batch.mask, False) for i in range(7)]
    mean = torch.stack([scored.logp[tokens].mean() for tokens in by_answer])
    log_ratio = torch.stack([(scored.logp - batch.logp_sampler)[tokens].sum() for tokens in by_answer]).detach()
    weight = log_ratio.clamp(-20, 20).exp().clamp(0.8, 1.2)
    residual = scored.values[:, 0] + mean - batch.value_target
    loss = (weight * residual.square()).mean()
    assert stats["flow_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert before.critic is not None and learner.policy.critic is not None
    for model, found, bound in ((before.critic, learner.policy.critic, 0.5), (before.model, learner.policy.model, 1.0)):
        wanted = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        norm = torch.cat([g.flatten() for g in wanted]).norm()
        for expected, parameter in zip(wanted, found.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected * min(1.0, bound / float(norm)), rtol=1e-3, atol=1e-5)


def whole_heads(learner: FsdpLearner) -> dict[str, Tensor]:
    return {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in heads_of(learner).items()}


# Frozen updates: the warm-up of WSRL, arXiv:2412.07762.


def test_frozen_updates_change_the_critic_and_adams_moments_and_no_bit_of_the_policy(tiny_policy: Path) -> None:
    config = config_of(frozen_updates=2, weight_decay=0.1, warmup_steps=2)
    learner = joined(str(tiny_policy), objective=CRITIC, config=config)
    before, heads = weights_of(learner), heads_of(learner)
    rates: list[float] = []
    for update in range(2):
        rates.append(means(step(learner, critic_batch(update)))["learning_rate"])
        after = weights_of(learner)
        assert all(before[name].numpy().tobytes() == p.numpy().tobytes() for name, p in after.items())
    assert all(not torch.equal(heads[name], p) for name, p in heads_of(learner).items())
    moments = [learner.optimizer.state[p]["exp_avg_sq"] for p in learner.policy.model.parameters()]
    assert all(float(m.max()) > 0 for m in moments)
    rates.append(means(step(learner, critic_batch(2)))["learning_rate"])
    assert rates == [0, 0, config.learning_rate / 2]
    assert all(not torch.equal(before[name], p) for name, p in weights_of(learner).items())


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_and_schedule_start_after_the_frozen_updates(schedule: Any) -> None:
    plain = LearnerConfig(warmup_steps=2, schedule=schedule)
    frozen = replace(plain, frozen_updates=3)
    rates = [learning_rate(frozen, update, 13) for update in range(13)]
    assert rates == [0.0] * 3 + [learning_rate(plain, update, 10) for update in range(10)]


def test_a_negative_number_of_frozen_updates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^frozen_updates: must not be negative, got -1"):
        LearnerConfig(frozen_updates=-1)
    choices: Sequence[dict[str, Any]] = ({"heads": 0}, {"softness": 0.0}, {"huber": -1.0}, {"learning_rate": -1.0})
    for choice in choices:
        with pytest.raises(ValueError, match=rf"^{next(iter(choice))}: must"):
            CriticConfig(**choice)


def test_a_learner_without_a_critic_has_no_heads(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy))
    assert learner.policy.critic is None and len(learner.optimizer.param_groups) == 1
    assert learner.policy(batch_of(0)).values is None
