"""Presets whose advantage is the slope of a preference loss over pairs of answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.pairs import PairsConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.reduce import sum_by_trajectory
from tests.objectives.equal_objectives import assert_equal_objectives, on_policy
from tests.objectives.presets.golden_batch import OLD_LOG_U, SAMPLER, explored_batch, golden_advantage
from tests.objectives.presets.tdpo_gradient import assert_gradient_is_that_of_the_loss
from tests.objectives.ragged_batch import make_batch
from tests.objectives.random_answers import batch_for, credited, of, run, scores_of, weights
from trajectories.batch import Batch

PAPERS = {
    "dpo": "2305.18290",
    "ipo": "2310.12036",
    "f_dpo": "2309.16240",
    "sampo": "2406.10957",
    "d2o": "2403.03419",
    "tr_dpo": "2404.09656",
    "tdpo": "2404.11999",
}

# The golden batch has rewards 1, 0, 0, lengths 2, 1, 3, and log u of whole answers 1, -1, 2 under the sampling policy:
# pairs (0, 1) and (0, 2) with margins 2 and -1. The loss is a mean over 3 answers of A log pi, so A = -3 dL / dlog u.


def by_answer(cfg: ObjectiveConfig) -> list[float]:
    """Return the advantage of each answer of the golden batch, which all its tokens have."""
    first, second, third = tokens = [golden_advantage(cfg)[i] for i in (0, 2, 3)]
    assert golden_advantage(cfg) == [first] * 2 + [second] + [third] * 3
    return tokens


def test_dpo_pushes_the_more_the_less_a_pair_is_decided() -> None:
    # .1 sigmoid(-.1 m) = .0450166 and .0524979, each of two pairs
    expected = [1.5 * (0.0450166 + 0.0524979), -1.5 * 0.0450166, -1.5 * 0.0524979]
    assert by_answer(of("dpo")) == pytest.approx(expected, abs=1e-6)


def test_ipo_aims_at_a_margin_of_5_nats() -> None:
    # 2 (m - 5) = -6 and -12, each of two pairs
    assert by_answer(of("ipo")) == pytest.approx([1.5 * 18, -1.5 * 6, -1.5 * 12], abs=1e-5)


def test_f_dpo_compares_slopes_of_jensen_shannon() -> None:
    # f'(u) = log(2 u / (1 + u)) / 2: .189942, -.310058, .283110; margins .5, -.093168; .2 sigmoid(-.2 m) = .0950042,
    # .1009317; df' / dlog u = sigmoid(-log u) / 2 = .134471, .365529, .059601
    expected = [1.5 * 0.134471 * 0.1959359, -1.5 * 0.365529 * 0.0950042, -1.5 * 0.059601 * 0.1009317]
    assert by_answer(of("f_dpo")) == pytest.approx(expected, abs=1e-6)


def test_sampo_counts_as_many_tokens_of_both_answers() -> None:
    # means .5, -1, 2/3; T = 1, 2; margins 1.5, -1/3; .1 sigmoid(-.1 m) = .0462570, .0508333; times T / length
    expected = [1.5 * (0.0462570 / 2 + 0.0508333), -1.5 * 0.0462570, -1.5 * 0.0508333 * 2 / 3]
    assert by_answer(of("sampo")) == pytest.approx(expected, abs=1e-6)


def test_d2o_compares_each_wrong_answer_with_the_mean_of_the_right_ones() -> None:
    # Rewards 1, 1, 0: m = (1 - 1) / 2 - 2 = -2, .1 sigmoid(.2) = .0549834
    batch = explored_batch(SAMPLER - OLD_LOG_U)
    batch = replace(batch, reward=torch.tensor([1.0, 1.0, 0.0]))
    advantage = credit(batch, of("d2o"), ObjectiveState(coefficients={})).advantage
    assert advantage is not None
    assert advantage[[0, 2, 3]].tolist() == pytest.approx([1.5 * 0.0549834] * 2 + [-3 * 0.0549834], abs=1e-6)


def test_tr_dpo_compares_with_the_moving_reference_and_not_with_the_fixed_one() -> None:
    cfg = of("tr_dpo")
    batch = explored_batch(torch.full((6,), torch.nan))
    batch.anchors["moving"] = SAMPLER - OLD_LOG_U
    advantage = credit(batch, cfg, ObjectiveState(coefficients={})).advantage
    assert advantage is not None and cfg.anchors == ["moving"]
    # .05 sigmoid(-.05 m) = .0237510, .0256249
    expected = [1.5 * (0.0237510 + 0.0256249), -1.5 * 0.0237510, -1.5 * 0.0256249]
    assert advantage[[0, 2, 3]].tolist() == pytest.approx(expected, abs=1e-6)


def test_tdpo_adds_the_forward_kl_to_the_scores_and_trains_it_on_losers() -> None:
    # K of whole answers: .3, .2, .6; alpha = .5: scores 1.15, -.9, 2.3; margins 2.05, -1.15;
    # .1 sigmoid(-.1 m) = .0448928, .0528718, each of two pairs; the term weighs 3 times these on losers, else 0
    cfg = of("tdpo")
    batch = replace(
        explored_batch(SAMPLER - OLD_LOG_U), distance={"divergence": torch.tensor([0.1, 0.2, 0.2, 0.3, 0.0, 0.3])}
    )
    got = credit(batch, cfg, ObjectiveState(coefficients={"divergence": 0.5}))
    assert got.advantage is not None
    first, second = 1.5 * 0.0448928, 1.5 * 0.0528718
    assert got.advantage[[0, 2, 3]].tolist() == pytest.approx([first + second, -first, -second], abs=1e-6)
    assert got.term_weights["divergence"][[0, 2, 3]].tolist() == pytest.approx([0.0, first, second], abs=1e-6)


# The losses once more, pair by pair, from the papers' equations.
SIGMOID = torch.nn.functional.logsigmoid


def slope(cfg: PairsConfig, log_u: Tensor) -> Tensor:
    """Return f'(u) by autograd of f, up to a constant."""
    u = log_u.exp()
    if cfg.divergence == "jensen_shannon":
        return 0.5 * (2 * u / (1 + u)).log()
    return log_u


def pairs(cfg: PairsConfig, log_u: Sequence[Tensor], reward: Sequence[float], length: Sequence[int]) -> list[Tensor]:
    """Return the loss of each pair of one group."""
    found = []
    for winner, loser in permutations(range(len(reward)), 2):
        if reward[winner] > reward[loser]:
            tokens = [length[winner], length[loser]]
            scale = [min(tokens) / own if cfg.lengths == "shorter" else 1.0 for own in tokens]
            margin = slope(cfg, log_u[winner] * scale[0]) - slope(cfg, log_u[loser] * scale[1])
            found.append((margin - 1 / (2 * cfg.beta)) ** 2 if cfg.loss == "squared" else -SIGMOID(cfg.beta * margin))
    return found


def against_all(
    cfg: PairsConfig, log_u: Sequence[Tensor], reward: Sequence[float], length: Sequence[int]
) -> list[Tensor]:
    """Return D2O's loss of each wrong answer of one group."""
    right = [x for x, r in zip(log_u, reward, strict=True) if r == 1]
    wrong = [x for x, r in zip(log_u, reward, strict=True) if r == 0]
    return [-SIGMOID(cfg.beta * (torch.stack(right).mean() - x)) for x in wrong] if right else []


@pytest.mark.parametrize("preset", [preset for preset in PAPERS if preset != "tdpo"])
def test_the_gradient_is_that_of_the_papers_loss(preset: str) -> None:
    cfg = of(preset)
    batch = on_policy(batch_for(cfg))
    policy = weights()
    got = run(policy, [credited(batch, cfg)], cfg)[1]
    expected = torch.autograd.grad(whole_loss(policy, batch, cfg, against_all if preset == "d2o" else pairs), policy)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


def whole_loss(policy: Tensor, batch: Batch, cfg: ObjectiveConfig, losses: Callable[..., list[Tensor]]) -> Tensor:
    """Return the mean over the groups that have a pair of the mean loss of their pairs."""
    anchor = batch.logp_reference if cfg.pairs.anchor == "reference" else batch.anchors[cfg.pairs.anchor]
    assert anchor is not None
    explored = batch.on_route("explore")
    per_token = (scores_of(policy, batch, cfg).logp - anchor)[explored]
    log_u = sum_by_trajectory(per_token, batch.seq[explored], len(batch.route))
    lengths, groups = batch.trained_lengths("explore").tolist(), []
    for members in batch.graded_groups():
        rows = members.tolist()
        found = losses(cfg.pairs, [log_u[i] for i in rows], batch.reward[rows].tolist(), [lengths[i] for i in rows])
        if found:
            groups.append(torch.stack(found).mean())
    return torch.stack(groups).mean()


@pytest.mark.parametrize("trained_on", ["losers", "both"])
def test_the_gradient_of_tdpo_is_that_of_its_loss_whose_kl_is_detached_on_winners_or_not(trained_on: str) -> None:
    assert_gradient_is_that_of_the_loss(of("tdpo", f"objective.pairs.term_on={trained_on}"), lambda batch: 1.0)


def test_tdpo_without_its_term_is_dpo() -> None:
    cfg = of("tdpo", "objective.pairs.term=''", "objective.terms.divergence=null")
    assert_equal_objectives(cfg, of("dpo"), batch=batch_for(of("dpo")))
    # With coefficient 0 the term has neither a part in the margin nor a gradient.
    assert_equal_objectives(of("tdpo"), of("dpo"), coefficient=0.0, batch=batch_for(of("tdpo")))


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("f_dpo", ("objective.pairs.divergence=reverse_kl", "objective.pairs.beta=0.1")),
        ("tr_dpo", ("objective.pairs.anchor=reference", "objective.pairs.beta=0.1")),
        ("sampo", ("objective.pairs.lengths=own",)),
        ("d2o", ("objective.pairs.winners=each",)),
        ("ipo", ("objective.pairs.loss=sigmoid",)),
    ],
)
def test_without_what_distinguishes_it_a_preset_is_dpo(preset: str, overrides: tuple[str, ...]) -> None:
    assert_equal_objectives(of(preset, *overrides), of("dpo"), batch=batch_for(of("dpo")))


def test_sampo_is_dpo_for_answers_of_one_length() -> None:
    batch = make_batch(
        [("explore", 0, float(i == 0), [i, 1, 2]) for i in range(4)],
        logp_sampler=-torch.rand(12, generator=torch.Generator().manual_seed(0)),
        logp_reference=-torch.rand(12, generator=torch.Generator().manual_seed(1)),
    )
    assert_equal_objectives(of("sampo"), of("dpo"), batch=batch)


def test_d2o_is_dpo_with_one_right_answer_in_a_group() -> None:
    batch = batch_for(of("dpo"))
    first = torch.zeros_like(batch.reward)
    first[[int(members[0]) for members in batch.graded_groups()]] = 1.0
    batch = replace(batch, reward=torch.where(batch.reward.isnan(), torch.nan, first))
    assert_equal_objectives(of("d2o"), of("dpo"), batch=batch)


def test_a_mixed_anchor_is_the_geometric_mixture_of_two_references() -> None:
    mixed = of("tr_dpo", "objective.pairs.mixed_with=reference", "objective.pairs.mixture=0.25")
    batch = batch_for(mixed)
    assert batch.logp_reference is not None and mixed.anchors == ["moving", "reference"]
    mixture = 0.75 * batch.anchors["moving"] + 0.25 * batch.logp_reference
    alone = replace(batch, anchors={"moving": mixture})
    torch.testing.assert_close(credited(batch, mixed).advantage, credited(alone, of("tr_dpo")).advantage)


def test_the_slopes_are_those_of_the_learners_policy_and_not_of_the_sampler() -> None:
    cfg = of("dpo")
    assert cfg.scores_first
    batch = explored_batch(SAMPLER - OLD_LOG_U)
    stale = replace(batch, logp_sampler=SAMPLER + 3, logp_old=SAMPLER)
    found = [credit(one, cfg, ObjectiveState(coefficients={})).advantage for one in (batch, stale)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("objective.reduction=token_mean",), "objective.reduction: must be 'sequence_mean_token_sum'"),
        (("objective.pairs.anchor=slow",), "objective.pairs.anchor: must be 'reference' or one of"),
        (("objective.pairs.mixed_with=slow",), "objective.pairs.mixed_with: must be empty, 'reference' or one of"),
        (("objective.pairs.term=kl",), "objective.pairs.term: must name a term on explored answers in the vocabulary"),
        (("method=tdpo", "objective.pairs.lengths=shorter"), "objective.pairs.lengths: must be 'own' with a term"),
        (
            ("method=tdpo", "objective.terms.divergence.reduction=sequence_mean_token_sum"),
            "objective.terms.divergence.reduction: must be 'same' for the term of the pairs",
        ),
        (
            ("method=tdpo", "objective.terms.divergence.weights.importance=soft_or"),
            "objective.terms.divergence.weights: must be left out for the term of the pairs",
        ),
        (("sampling.group_size=1",), "sampling.group_size: must be above 1 for objective.advantage=pairs"),
    ],
)
def test_settings_under_which_there_are_no_pairs_are_refused(settings: tuple[str, ...], message: str) -> None:
    method = "tdpo" if settings[0] == "method=tdpo" else "dpo"
    with pytest.raises(ValueError, match=message):
        of(method, *settings[method == "tdpo" :])
