"""Build small ragged batches from lists, and short forms of the functions and settings of an objective."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.diagnostics import TensorStats
from objectives.objective import Scores, loss
from trajectories.batch import Batch, with_own_totals
from trajectories.trajectory import ROUTES, Route

Answer = tuple[Route, int, float | None, list[int]]
"""(route, group or -1 on a route other than explore, reward or None, generated tokens)."""


def make_batch(
    answers: Sequence[Answer],
    *,
    logp_sampler: Tensor | None = None,
    logp_reference: Tensor | None = None,
    logp_old: Tensor | None = None,
    prompt_length: int = 0,
    meaning: Sequence[int] | None = None,
) -> Batch:
    """Return a batch of the answers in order, each after a prompt of `prompt_length` untrained tokens.

    Args: logp_sampler, logp_reference, logp_old: float32 [N], prompt tokens included; meaning: that of each answer.
    """
    lengths = [prompt_length + len(tokens) for _, _, _, tokens in answers]
    mask = [
        position >= prompt_length and (route != "explore" or reward is not None)
        for (route, _, reward, _), length in zip(answers, lengths, strict=True)
        for position in range(length)
    ]
    batch = Batch(
        tokens=torch.tensor([token for *_, tokens in answers for token in [0] * prompt_length + tokens]),
        seq=torch.repeat_interleave(torch.arange(len(answers)), torch.tensor(lengths)),
        lengths=torch.tensor(lengths),
        mask=torch.tensor(mask),
        logp_sampler=torch.zeros(sum(lengths)) if logp_sampler is None else logp_sampler,
        logp_reference=logp_reference,
        logp_old=logp_old,
        route=torch.tensor([ROUTES.index(route) for route, *_ in answers]),
        group=torch.tensor([group for _, group, *_ in answers]),
        domain=torch.tensor([min(group, 0) for _, group, *_ in answers]),
        domains=("",),
        reward=torch.tensor([float("nan") if reward is None else reward for _, _, reward, _ in answers]),
        version=torch.tensor([-1 if group < 0 else 0 for _, group, *_ in answers]),
        meaning=None if meaning is None else torch.tensor(meaning),
        generated=torch.tensor([len(tokens) for *_, tokens in answers]),
        totals={},
    )
    return with_own_totals(batch)


def three_turns() -> Batch:
    """Return two answers after prompts of 1 token: one of turns of 2, 2 and 1 tokens with a tool token between them,
    and one of a single turn of 4 tokens."""
    batch = make_batch([("explore", 0, 1.0, [0] * 7), ("explore", 0, 0.0, [0] * 4)], prompt_length=1)
    mask = batch.mask.clone()
    mask[[3, 6]] = False
    return with_own_totals(replace(batch, mask=mask))


def scores(logp: Tensor, entropy: Tensor | None = None, log_vocabulary: float = 1.0) -> Scores:
    """Return the scores of a policy with these log-probs [N] and entropies [N], 0 by default."""
    return Scores(
        logp=logp, entropy=logp.new_zeros(logp.shape) if entropy is None else entropy, log_vocabulary=log_vocabulary
    )


def weighted(cfg: ObjectiveConfig) -> list[str]:
    """Return the names of everything with a coefficient: the divergence terms and the replay loss."""
    return [*cfg.terms, *(["replay"] if cfg.replays else [])]


def state_of(coefficient: float = 0.0) -> ObjectiveState:
    """Return the state of an objective whose term `divergence` has this coefficient."""
    return ObjectiveState(coefficients={"divergence": coefficient})


def loss_of(logp: Tensor, batch: Batch, cfg: ObjectiveConfig, coefficient: float = 0.0) -> tuple[Tensor, TensorStats]:
    """Return the loss and its metrics with entropies of 0 and one coefficient, that of the term `divergence`."""
    return loss(scores(logp), batch, cfg, {"divergence": coefficient})


def divergence(name: str, **choices: object) -> TermConfig:
    return TermConfig(name=name, **choices)  # type: ignore[arg-type]


def objective(**choices: object) -> ObjectiveConfig:
    return ObjectiveConfig(**choices)  # type: ignore[arg-type]
