"""RECAP: the weights of several objectives, and what they and replayed answers do to loss and gradient."""

import json
import math
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
import torch

from configs.objective import ObjectiveConfig
from configs.recap import RecapConfig
from objectives.coefficient.controllers import ObjectiveState, initial_state, with_recap
from objectives.coefficient.recap import RecapState, observed, recap_weights, score, softmax
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.objective import loss
from tests.objectives.random_answers import of, random_batch, run, scores_of, weights
from trajectories.batch import Batch, with_own_totals
from trajectories.split import partition
from trajectories.trajectory import ROUTES

CFG = RecapConfig(window=2)
# Means of the two windows 1 and 1, 1 and 1.2, 1 and 1; deviations of the recent one 0, 0.3 (1 + 1.2) = 0.66, 0.1 * 2.
HISTORY = RecapState(values={"flat": (1.0, 1.0, 1.0, 1.0), "rises": (1.0, 1.0, 0.54, 1.86), "sways": (1, 1, 0.8, 1.2)})


@pytest.mark.parametrize(
    ("temperature", "expected"), [(5.0, (0.9599, 1.0608, 0.9793)), (0.5, (0.6073, 1.6509, 0.7418))]
)
def test_weights_are_the_softmax_of_convergence_and_instability(
    temperature: float, expected: tuple[float, ...]
) -> None:
    # c = (1, 1.2, 1), i = (0, 0.3, 0.1): 3 e^(s / T) / sum e^(s / T) for s = (1, 1.5, 1.1); at T = 5 the powers are
    # 1.22140, 1.34986 and 1.24608, their sum 3.81734.
    found = recap_weights(HISTORY, RecapConfig(window=2, temperature=temperature))
    assert list(found.values()) == pytest.approx(expected, abs=6e-5)
    assert list(softmax({"a": 1.0, "b": 1.5, "c": 1.1}, temperature).values()) == pytest.approx(expected, abs=6e-5)


def test_at_high_temperature_or_with_equal_statistics_all_weights_are_1() -> None:
    hot = recap_weights(HISTORY, RecapConfig(window=2, temperature=1e9))
    assert list(hot.values()) == pytest.approx([1.0] * 3, abs=1e-8)
    alike = RecapState(values=dict.fromkeys("abc", (0.1, 0.5, 0.3, 0.9)))
    assert list(recap_weights(alike, CFG).values()) == pytest.approx([1.0] * 3, abs=1e-15)


@pytest.mark.parametrize("orientation", ["improving", "literal"])
def test_weights_add_up_to_their_number_and_no_unit_of_an_objective_changes_them(orientation: str) -> None:
    cfg = RecapConfig(window=3, temperature=0.2, orientation=orientation)  # type: ignore[arg-type]
    for seed in range(20):
        drawn = np.random.default_rng(seed).uniform(0, 2, (4, 6)).tolist()
        values = {name: tuple(row) for name, row in zip(("a", "b", "c", "replay"), drawn, strict=True)}
        found = recap_weights(RecapState(values=values), cfg)
        assert sum(found.values()) == pytest.approx(4, abs=1e-12)
        assert max(found.values()) > 1.05, "weights that are all 1 would prove nothing"
        for name in values:
            scaled = values | {name: tuple(1000 * value for value in values[name])}
            assert recap_weights(RecapState(values=scaled), cfg) == pytest.approx(found, rel=1e-9)


def test_what_gets_better_converges_above_1_for_rewards_and_for_the_loss() -> None:
    rising, falling = (1.0, 1.0, 2.0, 2.0), (2.0, 2.0, 1.0, 1.0)
    literal = RecapConfig(window=2, orientation="literal")
    assert (score("words", rising, CFG), score("words", falling, CFG)) == (2.0, 0.5)
    assert (score("replay", rising, CFG), score("replay", falling, CFG)) == (0.5, 2.0)
    assert (score("replay", rising, literal), score("words", rising, literal)) == (2.0, 2.0)


def test_scores_are_bounded_where_means_vanish_or_are_negative() -> None:
    assert score("words", (0.0, 0.0, 0.0, 0.0), CFG) == 0.0
    assert score("words", (0.0, 0.0, 1.0, 1.0), CFG) == 10.0
    assert score("words", (1e-9, -1e-9, 5.0, -5.0), CFG) == 10.0  # means of 0, and a deviation of 5 over nothing
    assert score("words", (-1.0, -1.0, -2.0, -2.0), CFG) == 2.0


def test_weights_stay_1_until_every_objective_has_both_windows() -> None:
    state = RecapState()
    assert recap_weights(state, CFG) == {}
    for step in range(4):
        assert set(recap_weights(state, CFG).values()) <= {1.0}
        state = observed(state, {"words": float(step), "replay": 1.0}, CFG.window)
    assert recap_weights(state, CFG)["words"] > 1.1
    late = observed(state, {"sums": 1.0}, CFG.window)
    assert set(recap_weights(late, CFG).values()) == {1.0}, "one that is new has nothing to be compared by"


def test_only_the_last_two_windows_are_kept_and_what_was_not_measured_is_left_out() -> None:
    state = RecapState()
    for step in range(9):
        state = observed(state, {"words": float(step), "replay": math.nan if step % 2 else step}, CFG.window)
    assert state.values == {"words": (5.0, 6.0, 7.0, 8.0), "replay": (2, 4, 6, 8)}


@cache
def three_routes() -> Batch:
    """The random batch, half of whose stored answers are replayed, from two domains."""
    batch = random_batch()
    replayed = torch.arange(len(batch.route)) >= len(batch.route) - 3
    route = torch.where(replayed, ROUTES.index("replay"), batch.route)
    assert batch.logp_reference is not None
    reference = torch.where(replayed[batch.seq], torch.nan, batch.logp_reference)  # nobody knows it, nobody may ask
    domain = torch.where(batch.group < 0, -1, batch.group % 2)
    known = replace(batch, route=route, logp_reference=reference, domain=domain, domains=("sums", "words"))
    return with_own_totals(known)


STATE = ObjectiveState(
    coefficients={"divergence": 0.7, "replay": 0.7},
    recap=RecapState(values={"sums": (1.0, 1.0, 0.5, 0.5), "words": (1.0, 1.0, 2.0, 2.0), "replay": (1.0,) * 4}),
)
MIXED = of("dph_f", "objective.replay_weight=0.7", "objective.recap.window=2")
WITHOUT = of("dph_f")


def test_replayed_answers_get_their_mean_negative_log_likelihood_and_nothing_else() -> None:
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


def test_explored_and_rehearsed_answers_do_not_feel_replayed_ones_bit_for_bit() -> None:
    batch, policy = three_routes(), weights()
    others = [i for i, route in enumerate(batch.route.tolist()) if ROUTES[route] != "replay"]
    plain, uniform = with_own_totals(batch.select(others)), replace(STATE, recap=RecapState())
    expected = run(policy, [credit(plain, WITHOUT, uniform)], WITHOUT)
    whole = credit(batch, MIXED, uniform)
    silent = run(policy, [whole], MIXED, 0.0)  # no replay, but no divergence either
    without_both = run(policy, [credit(plain, WITHOUT, uniform)], WITHOUT, 0.0)
    assert silent[0] == without_both[0]
    assert torch.equal(silent[1], without_both[1])
    got = run(policy, [whole], MIXED)
    measured, alone = means(got[2]), means(expected[2])
    replay = measured.pop("replay_loss")
    assert measured == alone
    assert got[0] == pytest.approx(expected[0] + 0.7 * replay, abs=1e-6)


def test_no_split_and_no_order_of_three_routes_changes_loss_gradient_or_metrics() -> None:
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


def test_an_answers_advantage_is_multiplied_by_the_weight_of_its_domain() -> None:
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


def test_the_state_is_moved_by_rewards_of_domains_and_the_replay_loss_and_survives_json() -> None:
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
    # Rewards stand still, c = 1; the loss fell to its half, c = 2: 3 e^2 / (e + e + e^2)
    expected = 0.5 * 3 * math.exp(2) / (2 * math.e + math.exp(2))
    assert state.coefficients["replay"] == pytest.approx(expected, rel=1e-6)
    assert ObjectiveState.restored(json.loads(json.dumps(asdict(state)))) == state
    assert with_recap(state, ObjectiveConfig(replay_weight=0.5), batch, {"replay_loss": 1.0}) == state
