"""Preference losses over pairs of answers: margins, weights of pairs, and what has none."""

import math

import pytest
import torch
from torch import Tensor

from configs.divergences import DIVERGENCES
from configs.pairs import PairsConfig
from objectives.advantage.pairs import LIMIT, pair_advantages, pair_loss
from objectives.divergence.f_divergences import F_DIVERGENCES

LOG_U = torch.tensor([1.0, -1.0, 2.0])
LENGTHS = torch.tensor([2, 1, 3])
FALLING = [name for name, row in DIVERGENCES.items() if row.keeps_support(0.5)]


def advantages(
    reward: list[float],
    log_u: Tensor = LOG_U,
    tokens: Tensor = LENGTHS,
    group: list[int] | None = None,
    **choices: object,
) -> list[float]:
    numbers = torch.tensor(group or [0] * len(reward))
    cfg = PairsConfig(**choices)  # type: ignore[arg-type]
    return pair_advantages(log_u, torch.tensor(reward), tokens, numbers, cfg)[0].tolist()


def test_two_right_answers_are_each_paired_with_the_wrong_one() -> None:
    # margins 1 - 2 = -1 and -1 - 2 = -3: sigmoid(.1) = .524979, sigmoid(.3) = .574443;
    # A_w = 3 / 2 x .1 x sigmoid(-.1 m), A_l = -(sum of both)
    assert advantages([1.0, 1.0, 0.0]) == pytest.approx([0.0787469, 0.0861664, -0.1649133], abs=1e-6)


def test_together_two_right_answers_have_one_margin_and_share_its_slope() -> None:
    # m = (1 - 1) / 2 - 2 = -2: sigmoid(.2) = .549834; A_l = -3 x .1 x .549834, half of it on each right answer
    got = advantages([1.0, 1.0, 0.0], winners="together")
    assert got == pytest.approx([0.0824751, 0.0824751, -0.1649502], abs=1e-6)


def test_together_the_loss_is_at_most_that_of_single_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        log_u, reward = 5 * torch.randn(6, generator=generator), torch.randint(0, 3, (6,), generator=generator)
        weights = (reward[:, None] - reward[None]).clamp(min=0).float()
        if weights.any():
            each, together = (
                pair_loss(log_u, weights, torch.ones(6), PairsConfig(winners=winners))
                for winners in ("each", "together")
            )
            assert together <= each + 1e-6


def test_pairs_weigh_by_the_difference_of_their_rewards() -> None:
    # weights: (0, 1) .5, (0, 2) 1, (1, 2) .5, of 2; margins 2, -1, -3; slopes of -log sigmoid(.1 m):
    # .1 sigmoid(-.1 m) = .0450166, .0524979, .0574443
    a, b, c = 0.5 / 2 * 0.0450166, 1.0 / 2 * 0.0524979, 0.5 / 2 * 0.0574443
    expected = [3 * (a + b), 3 * (c - a), -3 * (b + c)]
    assert advantages([1.0, 0.5, 0.0]) == pytest.approx(expected, abs=1e-6)
    assert advantages([4.0, 2.0, 0.0]) == pytest.approx(expected, abs=1e-6)


def test_rewards_that_differ_by_rounding_make_no_pair() -> None:
    assert advantages([0.1 + 0.2, 0.3, 0.3 + 1e-7]) == [0.0, 0.0, 0.0]


def test_groups_without_a_pair_failed_grades_and_stored_answers_change_nothing() -> None:
    alone = advantages([1.0, 0.0, 0.0])
    more = advantages(
        [1.0, math.nan, 0.0, 0.0, 1.0],
        torch.tensor([1.0, 9.0, -1.0, 2.0, 7.0]),
        torch.tensor([2, 4, 1, 3, 3]),
        [0, 0, 0, 0, -1],
    )
    assert more == pytest.approx([alone[0], 0.0, alone[1], alone[2], 0.0])
    # Another group without a pair: the mean over answers is divided by 5, the loss is still that of one group.
    idle = advantages([1.0, 0.0, 0.0, 1.0, 1.0], torch.cat([LOG_U, LOG_U[:2]]), torch.ones(5), [0, 0, 0, 1, 1])
    assert idle == pytest.approx([5 / 3 * value for value in alone] + [0.0, 0.0])


def test_every_group_with_a_pair_counts_equally() -> None:
    # One pair of margin 0 has slope .1 / 2 on each side; groups of 2 and 3 answers.
    got = advantages([1.0, 0.0, 1.0, 1.0, 0.0], torch.zeros(5), torch.ones(5), [0, 0, 1, 1, 1])
    assert got == pytest.approx([5 / 2 * slope for slope in (0.05, -0.05, 0.025, 0.025, -0.05)])


def test_a_margin_of_the_shorter_length_has_equally_many_tokens_of_both_answers() -> None:
    # means .5, -1, 2/3: pair (0, 1) T = 1, m = 1.5; pair (0, 2) T = 2, m = -1/3; sigmoid(-.15) = .462570,
    # sigmoid(.0333) = .508333; the slope of log u of an answer is T / length
    expected = [0.15 * (0.462570 / 2 + 0.508333), -0.15 * 0.462570, -0.15 * 0.508333 * 2 / 3]
    assert advantages([1.0, 0.0, 0.0], lengths="shorter") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_a_divergence_keeps_the_support_exactly_if_its_slope_falls_without_bound(name: str) -> None:
    for alpha in (0.3, 1.0, 1.5) if name == "tsallis" else (0.3,):
        near, nearer = (F_DIVERGENCES[name](torch.tensor(x, dtype=torch.float64), alpha).slope for x in (-9.0, -18.0))
        # Every one that falls does so at least as fast as log u / 4.
        assert DIVERGENCES[name].keeps_support(alpha) == bool(nearer < near - 2)


@pytest.mark.parametrize("divergence", FALLING)
def test_slopes_are_finite_and_pull_apart_at_extreme_ratios(divergence: str) -> None:
    got = advantages([1.0, 0.0], torch.tensor([-500.0, 500.0]), torch.ones(2), divergence=divergence)
    assert all(map(math.isfinite, got))
    assert got[0] > 0 >= got[1]
    assert abs(got[0]) <= 3 * math.exp(2 * LIMIT)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"divergence": "total_variation"}, "divergence: must be an f-divergence whose slope f' falls without bound"),
        ({"divergence": "chi_squared"}, "divergence: must be an f-divergence whose slope f' falls without bound"),
        ({"divergence": "skew_kl"}, "divergence: must be an f-divergence whose slope f' falls without bound"),
        ({"divergence": "plackett_luce"}, "divergence: must be an f-divergence whose slope f' falls without bound"),
        ({"divergence": "tsallis", "alpha": 1.5}, "alpha: must be at most 1 for tsallis"),
        ({"divergence": "kl"}, "divergence: must be one of"),
        ({"beta": 0.0}, "beta: must be positive"),
        ({"lengths": "shorter", "winners": "together"}, "lengths: must be 'own' for winners=together"),
        ({"mixed_with": "reference"}, "mixed_with: must be another reference than anchor"),
        ({"mixture": 1.0}, "mixture: must be between 0 and 1"),
    ],
)
def test_a_loss_without_a_meaning_is_refused(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairsConfig(**choices)  # type: ignore[arg-type]
