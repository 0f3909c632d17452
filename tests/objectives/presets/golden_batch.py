"""The ragged batch on which every preset's golden numbers are computed by hand from its paper's equation.

One group of three answers of 2, 1 and 3 tokens has rewards 1, 0, 0 and importance ratios (1, 1.5), (0.5), (1, 0.9, 4).
Mean reward 1/3, so r - mean = (2/3, -1/3, -1/3); sample deviation sqrt((4 + 1 + 1) / 9 / 2) = sqrt(1/3); z-scores
(1.154701, -0.577350, -0.577350). Two rehearsed answers of 2 and 1 tokens have u = policy / reference = (2, 0.5), (1).

log policy / reference of the explored tokens is (.5, -.5), (1), (0, -1, .2), so that
    k2 is (.125, .125), (.5), (0, .5, .02), with the mean 1.27 / 6 = .211667, and means of answers .125, .5, .173333;
    k3 is (.106531, .148721), (.367879), (0, .718282, .018731), with means of answers .127626, .367879, .245671.
PPO's clip of .2 over tokens: 2.2 * 1.154701 - (.8 + 5.9) * .577350 = -1.327903, over 6 tokens: loss .221317.
"""

import math

import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState, initial_state
from objectives.credit import credit
from objectives.objective import loss
from tests.objectives.ragged_batch import Answer, make_batch, scores, weighted
from trajectories.batch import Batch

RATIOS = torch.tensor([1.0, 1.5, 0.5, 1.0, 0.9, 4.0])
SAMPLER = torch.tensor([-0.5, -2.0, -1.0, -0.25, -3.0, -4.0])
LOGP = SAMPLER + RATIOS.log()
LOG_U = torch.tensor([0.5, -0.5, 1.0, 0.0, -1.0, 0.2])
"""log policy / reference of the explored tokens."""
OLD_LOG_U = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, 0.0])
"""log old policy / reference, for a method whose penalty depends on the sampling policy; sums 1, -1, 2."""
U = torch.tensor([2.0, 0.5, 1.0])
"""policy / reference of the rehearsed tokens."""
ENTROPY = torch.tensor([0.2, 0.4, 0.5, 0.6, 0.5, 0.7])


def explored_batch(reference: Tensor, tokens: tuple[list[int], ...] = ([1, 2], [3], [4, 5, 6])) -> Batch:
    answers = [("explore", 0, reward, row) for reward, row in zip((1.0, 0.0, 0.0), tokens, strict=True)]
    return make_batch(answers, logp_sampler=SAMPLER, logp_reference=reference)


def golden_batch(rehearsed: bool = False) -> Batch:
    """Return the explored answers, whose reference log-probs are missing, with the rehearsed ones if `rehearsed`."""
    answers: list[Answer] = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])]
    if rehearsed:
        answers += [("rehearse", -1, None, [7, 8]), ("rehearse", -1, None, [9])]
    size = 3 if rehearsed else 0
    return make_batch(
        answers,
        logp_sampler=torch.cat([SAMPLER, torch.zeros(size)]),
        logp_reference=torch.cat([torch.full((6,), math.nan), torch.full((3,), -5.0)]) if rehearsed else None,
    )


def preset_loss(preset: str, *overrides: str, rehearsed: bool = False) -> float:
    """Return the loss of the golden batch under a preset, with the preset's own coefficients."""
    cfg = load([f"method={preset}", *overrides]).objective
    logp = torch.cat([LOGP, U.log() - 5] if rehearsed else [LOGP])
    state = initial_state(cfg, 100)
    value, _ = loss(scores(logp), credit(golden_batch(rehearsed), cfg, state), cfg, state.coefficients)
    return value.item()


def golden_loss(cfg: ObjectiveConfig, coefficient: float = 0.0, whole: Batch | None = None) -> float:
    """Return the loss of the explored answers, every term with the same coefficient."""
    coefficients = dict.fromkeys(weighted(cfg), coefficient)
    credited = credit(whole or explored_batch(LOGP - LOG_U), cfg, ObjectiveState(coefficients=coefficients))
    return loss(scores(LOGP, ENTROPY), credited, cfg, coefficients)[0].item()


def golden_advantage(cfg: ObjectiveConfig, coefficient: float = 0.0) -> list[float]:
    """Return the advantage of every explored token, every term with the same coefficient."""
    state = ObjectiveState(coefficients=dict.fromkeys(weighted(cfg), coefficient))
    advantage = credit(explored_batch(SAMPLER - OLD_LOG_U), cfg, state).advantage
    assert advantage is not None
    return advantage.tolist()


def with_anchors(**log_u: Tensor) -> Batch:
    """Return the explored answers with log-probs of further references, each given by log policy / reference."""
    whole = explored_batch(LOGP - LOG_U)
    whole.anchors.update({name: LOGP - d for name, d in log_u.items()})
    return whole
