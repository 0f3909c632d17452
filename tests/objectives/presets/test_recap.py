"""RECAP: GRPO and the negative log-likelihood of replayed answers, weighted by their recent progress."""

import json
import math
from dataclasses import asdict, replace
from functools import cache

import pytest
import torch

from configs.objective import ObjectiveConfig
from configs.recap import RecapConfig
from objectives.coefficient.controllers import ObjectiveState, initial_state, with_recap
from objectives.coefficient.recap import RecapState, recap_weights
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.objective import loss
from tests.objectives.random_answers import of, random_batch, run, scores_of, weights
from trajectories.batch import Batch, with_own_totals
from trajectories.split import partition
from trajectories.trajectory import ROUTES

PAPERS = {"recap": "2510.21978"}


@cache
def three_routes() -> Batch:
    """Return the random batch from two domains, with half of its rehearsed answers on the replay route."""
    batch = random_batch()
    replayed = torch.arange(len(batch.route)) >= len(batch.route) - 3
    route = torch.where(replayed, ROUTES.index("replay"), batch.route)
    assert batch.logp_reference is not None
    reference = torch.where(replayed[batch.seq], torch.nan, batch.logp_reference)  # replay needs no reference
    domain = torch.where(batch.group < 0, -1, batch.group % 2)
    return with_own_totals(
        replace(batch, route=route, logp_reference=reference, domain=domain, domains=("sums", "words"))
    )


STATE = ObjectiveState(
    coefficients={"divergence": 0.7, "replay": 0.7},
    recap=RecapState(values={"sums": (1.0, 1.0, 0.5, 0.5), "words": (1.0, 1.0, 2.0, 2.0), "replay": (1.0,) * 4}),
)
MIXED = of("dph_f", "objective.replay_weight=0.7", "objective.recap.window=2")
WITHOUT = of("dph_f")


def test_replayed_answers_contribute_their_mean_negative_log_likelihood_only() -> None:
    cfg, batch = of("recap"), three_routes()
    policy, tokens = weights(), batch.on_route("replay")
    assert 3 < int(tokens.sum()) < int(batch.mask.sum())
    batch = credit(batch, cfg, STATE)
    assert batch.advantage is not None
    only = with_own_totals(replace(batch, mask=tokens, advantage=torch.full_like(batch.advantage, 9.0)))
    value, stats = loss(scores_of(policy, only, cfg), only, cfg, {"replay": 0.7})
    expected = torch.nn.functional.cross_entropy(policy[batch.tokens.roll(1)][tokens], batch.tokens[tokens])
    assert value.item() == pytest.approx(0.7 * expected.item(), rel=1e-6)
    assert stats["replay_loss"].tolist() == pytest.approx([expected.item() * int(tokens.sum()), int(tokens.sum())])
    torch.testing.assert_close(
        torch.autograd.grad(value, policy)[0], torch.autograd.grad(0.7 * expected, policy)[0], rtol=1e-5, atol=1e-7
    )


def test_replayed_answers_do_not_change_the_loss_of_explored_and_rehearsed_ones() -> None:
    batch, policy = three_routes(), weights()
    others = [i for i, route in enumerate(batch.route.tolist()) if ROUTES[route] != "replay"]
    plain, uniform = with_own_totals(batch.select(others)), replace(STATE, recap=RecapState())
    expected = run(policy, [credit(plain, WITHOUT, uniform)], WITHOUT)
    whole = credit(batch, MIXED, uniform)
    with_coefficients_0 = run(policy, [whole], MIXED, 0.0)  # neither the replay loss nor the divergence
    without_both = run(policy, [credit(plain, WITHOUT, uniform)], WITHOUT, 0.0)
    assert with_coefficients_0[0] == without_both[0]
    assert torch.equal(with_coefficients_0[1], without_both[1])
    got = run(policy, [whole], MIXED)
    measured, alone = means(got[2]), means(expected[2])
    replay = measured.pop("replay_loss")
    assert measured == alone
    assert got[0] == pytest.approx(expected[0] + 0.7 * replay, abs=1e-6)


def test_no_split_or_order_of_a_batch_of_three_routes_changes_loss_gradient_or_metrics() -> None:
    batch = three_routes()
    order = torch.randperm(len(batch.route), generator=torch.Generator().manual_seed(3)).tolist()
    credited = credit(batch, MIXED, STATE)
    whole = run(weights(), [credited], MIXED)
    splits = [[part for rank in partition(credited, ranks, 20) for part in rank] for ranks in (1, 2, 5)]
    for parts in (*splits, [credit(batch.select(order), MIXED, STATE)]):
        split = run(weights(), parts, MIXED)
        assert split[0] == pytest.approx(whole[0], abs=1e-6)
        torch.testing.assert_close(split[1], whole[1], rtol=1e-5, atol=1e-6)
        assert means(split[2]) == pytest.approx(means(whole[2]), rel=1e-4, abs=1e-5)


def test_the_advantage_of_an_answer_is_multiplied_by_the_weight_of_its_domain() -> None:
    batch = three_routes()
    before, after = (credit(batch, cfg, STATE).advantage for cfg in (WITHOUT, MIXED))
    assert before is not None and after is not None
    found = recap_weights(STATE.recap, MIXED.recap)
    # Scores 0.5, 2 and 1 at T = 5: 3 (1.10517, 1.49182, 1.22140) / 3.81840
    assert found == pytest.approx({"sums": 0.8683, "words": 1.1721, "replay": 0.9596}, abs=6e-5)
    for number, name in enumerate(batch.domains):
        tokens = batch.on_route("explore") & (batch.domain == number)[batch.seq]
        assert before[tokens].abs().max() > 0.1
        torch.testing.assert_close(after[tokens], before[tokens] * found[name])


def test_the_state_follows_the_rewards_of_domains_and_the_replay_loss_and_survives_json() -> None:
    cfg = ObjectiveConfig(replay_weight=0.5, recap=RecapConfig(window=1, temperature=1.0))
    batch = three_routes()
    state = initial_state(cfg, 10)
    assert state.coefficients == {"replay": 0.5}
    state = with_recap(state, cfg, batch, {"replay_loss": 2.0})
    graded = {name: batch.reward[batch.domain == i] for i, name in enumerate(batch.domains)}
    rewards = {name: float(reward[~reward.isnan()].mean()) for name, reward in graded.items()}
    assert {name: values[0] for name, values in state.recap.values.items()} == pytest.approx(rewards | {"replay": 2.0})
    assert state.coefficients == {"replay": 0.5}
    state = with_recap(state, cfg, batch, {"replay_loss": 1.0})
    # The rewards are unchanged, c = 1; the loss halves, c = 2: 3 e^2 / (e + e + e^2)
    expected = 0.5 * 3 * math.exp(2) / (2 * math.e + math.exp(2))
    assert state.coefficients["replay"] == pytest.approx(expected, rel=1e-6)
    assert ObjectiveState.restored(json.loads(json.dumps(asdict(state)))) == state
    assert with_recap(state, ObjectiveConfig(replay_weight=0.5), batch, {"replay_loss": 1.0}) == state
