"""Presets in which the task's right answers win against the policy's own: SPIN."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.reduce import sum_by_trajectory
from objectives.wording import describe_policy_gradient
from tests.objectives.equal_objectives import on_policy
from tests.objectives.presets.golden_batch import OLD_LOG_U, SAMPLER
from tests.objectives.ragged_batch import Answer, make_batch
from tests.objectives.random_answers import batch_for, credited, of, run, scores_of, weights
from trajectories.batch import Batch
from trajectories.trajectory import ROUTES

PAPERS = {"spin": "2401.01335", "alpha_spin": "2404.04291"}
SIGMOID = torch.nn.functional.logsigmoid

# The golden batch and a right answer of the task of 2 tokens with log u = .2 + .3 = .5. The policy's answers have log u
# of 1, -1, 2 and rewards 1, 0, 0, which do not count: margins -.5, 1.5, -1.5, of one group with 3 pairs and 3 answers.
SOLUTION = torch.tensor([-1.0, -2.0])
SOLUTION_LOG_U = torch.tensor([0.2, 0.3])


def golden(rewards: tuple[float, ...] = (1.0, 0.0, 0.0), scale: float = 1.0) -> Batch:
    """Return the batch with the opponent as anchor; log u is multiplied by `scale`."""
    answers: list[Answer] = [
        ("explore", 0, reward, row) for reward, row in zip(rewards, ([1, 2], [3], [4, 5, 6]), strict=True)
    ]
    logp = torch.cat([SAMPLER, SOLUTION])
    batch = make_batch([*answers, ("imitate", 0, None, [7, 8])], logp_sampler=logp)
    return replace(batch, anchors={"opponent": logp - scale * torch.cat([OLD_LOG_U, SOLUTION_LOG_U])})


def by_answer(batch: Batch, cfg: ObjectiveConfig) -> list[float]:
    """Return the advantage of each answer, which all its tokens have."""
    advantage = credit(batch, cfg, ObjectiveState(coefficients={})).advantage
    assert advantage is not None
    found = advantage[[0, 2, 3, 6]]
    assert torch.equal(advantage, found.repeat_interleave(torch.tensor([2, 1, 3, 2])))
    return found.tolist()


@pytest.mark.parametrize("rewards", [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_spin_raises_the_solution_above_every_answer_of_the_policy_whatever_their_rewards(
    rewards: tuple[float, ...],
) -> None:
    # .1 sigmoid(-.1 m) = .0512497, .0462570, .0537430, a third each, times 3 answers
    expected = [-0.0512497, -0.0462570, -0.0537430, 0.1512497]
    assert by_answer(golden(rewards), of("spin")) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("preset", ["spin", "alpha_spin"])
def test_at_the_opponent_every_pair_has_a_slope_of_half_of_beta(preset: str) -> None:
    batch = golden(scale=0.0)
    batch = replace(batch, logp_reference=batch.logp_sampler)
    assert by_answer(batch, of(preset)) == pytest.approx([-0.05] * 3 + [0.15])


def test_alpha_spin_has_the_geometric_mixture_of_opponent_and_base_as_anchor() -> None:
    # The base has log u = 0: with alpha = .5 log u is half, margins -.25, .75, -.75;
    # .1 sigmoid(-.1 m) = .0506250, .0481259, .0518741
    batch = golden()
    batch = replace(batch, logp_reference=batch.logp_sampler)
    expected = [-0.0506250, -0.0481259, -0.0518741, 0.1506250]
    assert by_answer(batch, of("alpha_spin")) == pytest.approx(expected, abs=1e-6)
    # Near 0 and 1 it is that of one of both alone.
    near = by_answer(batch, of("alpha_spin", "objective.pairs.mixture=1e-6"))
    assert near == pytest.approx(by_answer(batch, of("spin")), abs=1e-6)
    base = by_answer(batch, of("alpha_spin", "objective.pairs.mixture=0.999999"))
    assert base == pytest.approx([-0.05] * 3 + [0.15], abs=1e-6)


@pytest.mark.parametrize("preset", PAPERS)
def test_the_gradient_is_that_of_the_papers_loss(preset: str) -> None:
    cfg = of(preset)
    batch, policy = on_policy(batch_for(cfg)), weights()
    alpha = cfg.pairs.mixture if cfg.pairs.mixed_with else 0.0
    assert batch.logp_reference is not None
    anchor = alpha * batch.logp_reference + (1 - alpha) * batch.anchors["opponent"]
    per_token = torch.where(batch.mask, scores_of(policy, batch, cfg).logp - anchor, 0.0)
    log_u = sum_by_trajectory(per_token, batch.seq, len(batch.route))
    solved = {int(batch.group[i]): i for i, r in enumerate(batch.route.tolist()) if ROUTES[r] == "imitate"}
    assert sorted(solved) == [1, 2, 3], "a group without a solution has no pair"

    def loss_of(group: int, winner: int) -> Tensor:
        losers = (batch.group == group) & ~batch.reward.isnan()
        return -SIGMOID(cfg.pairs.beta * (log_u[winner] - log_u[losers])).mean()

    expected = torch.autograd.grad(torch.stack([loss_of(*item) for item in solved.items()]).mean(), policy)[0]
    _, got, stats = run(policy, [credited(batch, cfg)], cfg)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3
    imitated = batch.on_route("imitate")
    assert means(stats)["solution_nll"] == pytest.approx(-scores_of(policy, batch, cfg).logp[imitated].mean().item())


def test_metrics_of_the_policys_answers_do_not_count_the_solutions() -> None:
    cfg = of("spin")
    batch = credited(batch_for(cfg), cfg)
    kept = [i for i, route in enumerate(batch.route.tolist()) if ROUTES[route] != "imitate"]
    assert len(batch.route) - len(kept) == 3
    whole, without = (means(run(weights(), [one], cfg)[2]) for one in (batch, batch.select(kept)))
    differ = {"policy_loss", "solution_nll"}
    assert {k: v for k, v in whole.items() if k not in differ} == pytest.approx(
        {k: v for k, v in without.items() if k not in differ}
    )


def test_the_winners_of_spin_are_described() -> None:
    words = describe_policy_gradient(of("alpha_spin"))
    assert "m = f'(u) of a right answer of the task - f'(u) of one that the policy sampled, whatever its" in words
    assert "reverse KL to opponent^0.5 x reference^0.5" in words


def test_a_group_may_have_one_answer_of_the_policy() -> None:
    assert load(["method=spin", "sampling.group_size=1"]).sampling.group_size == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("objective.ratio=token",), "objective.ratio: must be 'none' for pairs.winners=solution"),
        (("objective.pairs.term=kl",), "objective.pairs.term: must be '' for winners=solution"),
        (("objective.pairs.loss=kto",), "objective.pairs.winners: must be 'each' for loss=kto"),
    ],
)
def test_what_solutions_do_not_have_is_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of("spin", *settings)
