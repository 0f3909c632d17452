"""Steps in pairs: games in which they reach an equilibrium, AdamW's numbers, a learner's pair, and its checkpoint."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from actors.learning.optimizer import Extragradient, adamw
from actors.learning.schedule import learning_rate
from configs.learner import LearnerConfig
from objectives.diagnostics import means
from tests.actors.learning.learner_ranks import (
    CRITIC,
    RATE,
    assert_equal,
    assert_near,
    batch_of,
    config_of,
    critic_batch,
    gradients_of,
    joined,
    parameters_of_learner,
    step,
    weights_of,
    with_nan_advantage,
)

PAIRS = config_of(extragradient=True, weight_decay=0.1, schedule="cosine")
NextGradient = Callable[[Tensor], Tensor]


def one_parameter(values: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_parameter("z", nn.Parameter(values.clone()))
    return module


def play(gradient: NextGradient, start: Tensor, rate: float, updates: int, *, in_pairs: bool) -> Tensor:
    """Return where SGD ends after `updates` updates of the game whose gradients at z are `gradient(z)`."""
    module = one_parameter(start)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    pair = Extragradient(module, optimizer)
    for update in range(updates):
        module.z.grad = gradient(module.z.detach())
        if in_pairs:
            pair.step(ahead=update % 2 == 0, finite=True)
        else:
            optimizer.step()
    return module.z.detach()


def bilinear(z: Tensor) -> Tensor:
    """The gradients of min_x max_y x y, whose equilibrium is 0, for z = (x, y)."""
    return torch.stack([z[1], -z[0]])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_plain_steps_depart_from_the_equilibrium_of_a_rotation_and_pairs_approach_it(rate: float) -> None:
    # With J = [[0, 1], [-1, 0]]: z - a J z has the squared norm (1 + a^2) |z|^2, and
    # z - a J (z - a J z) = (1 - a^2) z - a J z has ((1 - a^2)^2 + a^2) |z|^2 = (1 - a^2 + a^4) |z|^2.
    start = torch.tensor([0.6, 0.8], dtype=torch.float64)
    plain = play(bilinear, start, rate, 40, in_pairs=False)
    pairs = play(bilinear, start, rate, 40, in_pairs=True)
    assert float(plain.norm() ** 2) == pytest.approx((1 + rate**2) ** 40, rel=1e-12)
    assert float(pairs.norm() ** 2) == pytest.approx((1 - rate**2 + rate**4) ** 20, rel=1e-12)


def test_in_a_cyclic_game_of_preferences_pairs_reach_the_equilibrium_and_plain_steps_do_not() -> None:
    # Each of three answers beats one and loses to one: P(y > y') = 1, 0 or 1/2, and the equilibrium is uniform. The
    # gradient of P(pi > opponent) by the logits is pi (payoff - mean payoff); the opponent is the policy itself.
    beats = torch.tensor([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]], dtype=torch.float64)

    def self_play(logits: Tensor) -> Tensor:
        policy = logits.softmax(0)
        payoff = beats @ policy
        return -policy * (payoff - policy @ payoff)

    def kl_from_uniform(logits: Tensor) -> float:
        return float((1 / (3 * logits.softmax(0))).log().mean())

    start = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)
    ends = {pairs: play(self_play, start, 1.0, 2000, in_pairs=pairs) for pairs in (False, True)}
    assert kl_from_uniform(start) == pytest.approx(math.log((math.e + 1 + math.exp(-0.5)) / 3) - 1 / 6)  # .1991
    assert kl_from_uniform(ends[False]) > 1.0
    assert kl_from_uniform(ends[True]) < 1e-4


def test_only_the_second_step_of_a_pair_advances_adams_moments() -> None:
    # The game x y at rate .1, with betas .9 and .999. Adam's first step is the sign of the gradient.
    # Pair 1 at (1, .5): g = (.5, -1), look-ahead (.9, .6), g = (.6, -.9), step (.9, .6).
    # Pair 2: m = (.06, -.09), v = (.00036, .00081). Look-ahead: g = (.6, -.9) again, a step of its sign: (.8, .7).
    # There g = (.7, -.8): m = .9 m + .1 g = (.124, -.161), over 1 - .81 = .19: (.652632, -.847368);
    # v = .999 v + .001 g^2 = (.00084964, .00144919), over 1 - .998001 = .001999: (.425033, .724957);
    # step .1 m / sqrt v = (.1001051, -.0995213): (.7998949, .6995213).
    module = one_parameter(torch.tensor([1.0, 0.5]))
    optimizer = adamw(module, [list(module.parameters())], LearnerConfig(learning_rate=0.1))
    pair = Extragradient(module, optimizer)
    places = []
    for update in range(4):
        module.z.grad = bilinear(module.z.detach())
        pair.step(ahead=update % 2 == 0, finite=True)
        places.append(module.z.tolist())
        assert float(optimizer.state[module.z]["step"]) == (update + 1) // 2
    expected = [[0.9, 0.6], [0.9, 0.6], [0.8, 0.7], [0.7998949, 0.6995213]]
    torch.testing.assert_close(torch.tensor(places), torch.tensor(expected), rtol=0, atol=2e-6)


def test_a_pair_of_the_learner_is_adams_step_by_the_gradient_at_the_look_ahead(tiny_policy: Path) -> None:
    config = config_of()
    pairs, plain = (joined(str(tiny_policy), config=c) for c in (replace(config, extragradient=True), config))
    start = weights_of(plain)
    for learner in (pairs, plain):
        step(learner, batch_of(0))
    assert_equal(weights_of(pairs), weights_of(plain))
    for learner in (pairs, plain):
        step(learner, batch_of(1))
    gradients = gradients_of(plain)
    assert_equal(gradients_of(pairs), gradients)
    # Adam's first step: -rate g / (|g| + 1e-8)
    stepped = {name: value - RATE * gradients[name] / (gradients[name].abs() + 1e-8) for name, value in start.items()}
    assert_near(weights_of(pairs), stepped, atol=1e-3 * RATE)
    assert any(not torch.allclose(weights_of(plain)[name], value, atol=0.1 * RATE) for name, value in stepped.items())


@pytest.mark.parametrize("at", [0, 1])
def test_a_step_of_a_pair_without_a_finite_gradient_leaves_the_weights_of_the_last_pair(
    tiny_policy: Path, at: int
) -> None:
    learner = joined(str(tiny_policy), config=PAIRS)
    batches = [batch_of(0), batch_of(1)]
    batches[at] = with_nan_advantage(batches[at])
    before = weights_of(learner)
    step(learner, batches[0])
    assert all(torch.equal(before[name], value) for name, value in weights_of(learner).items()) == (at == 0)
    assert means(step(learner, batches[1]))["skipped_updates"] == at
    assert all(torch.equal(before[name], value) for name, value in weights_of(learner).items()) == (at == 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("updates", [1, 2, 3])
def test_a_learner_loaded_between_the_steps_of_a_pair_continues_bit_for_bit(
    tiny_policy: Path, tmp_path: Path, dtype: str, updates: int
) -> None:
    choices = {"dtype": dtype, "config": PAIRS, "objective": CRITIC, "checkpoint_dtype": dtype}
    learner, loaded = (joined(str(tiny_policy), **choices) for _ in range(2))
    for update in range(updates):
        step(learner, critic_batch(update))
    learner.save(str(tmp_path))
    for update in range(2 - updates % 2):  # `load` must undo these
        step(loaded, critic_batch(9 - update))
    learner.saved()
    loaded.load(str(tmp_path))
    for update in range(updates, 5):
        assert_equal(parameters_of_learner(loaded), parameters_of_learner(learner))
        stats = [step(one, critic_batch(update)) for one in (learner, loaded)]
        assert stats[0] == stats[1]
    assert_equal(parameters_of_learner(loaded), parameters_of_learner(learner))
    learner.close()


def test_both_steps_of_a_pair_have_the_learning_rate_of_the_first() -> None:
    plain = LearnerConfig(learning_rate=1.0, warmup_steps=2, schedule="cosine")
    rates = [learning_rate(replace(plain, extragradient=True), update, 10) for update in range(10)]
    assert rates == [learning_rate(plain, update - update % 2, 10) for update in range(10)]
    assert rates[2] == rates[3] == 1 and rates[8] == pytest.approx((1 + math.cos(math.pi * 6 / 8)) / 2)
