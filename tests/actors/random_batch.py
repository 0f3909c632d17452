"""Random ragged batches over the tiny policies' vocabulary, the same in every process."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from tasks.characters import VOCABULARY_SIZE
from trajectories.batch import Batch, pack
from trajectories.trajectory import ROUTES, Grade, Group, Prompt, Route, Trajectory

SHAPES = ((5, 9), (3, 1), (7, 14), (1, 6), (4, 11), (2, 3), (6, 10))
"""Tokens of each trajectory's prompt and answer: an odd number of trajectories, no two of one length."""


def random_trajectory(shape: tuple[int, int], seed: int, route: Route = "explore") -> Trajectory:
    draw = np.random.default_rng(seed)
    length = sum(shape)
    mask = np.arange(length) >= shape[0]
    return Trajectory(
        prompt_id="p",
        sample_index=seed,
        tokens=draw.integers(2, 258, size=length).astype(np.int32),
        mask=mask,
        logp_sampler=-draw.uniform(3, 8, size=length).astype(np.float32) * mask,
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=seed,
        text=str(seed),
        route=route,
        grade=Grade(reward=float(draw.uniform()), status="correct"),
        logp_reference=-draw.uniform(3, 8, size=length).astype(np.float32) if route == "rehearse" else None,
    )


def random_batch(shapes: Sequence[tuple[int, int]] = SHAPES, *, seed: int = 0, rehearsed: int = 0) -> Batch:
    """Pairs of explored trajectories answer one prompt; the last `rehearsed` are stored reference answers."""
    explored = len(shapes) - rehearsed
    routes: list[Route] = ["explore"] * explored + ["rehearse"] * rehearsed
    rows = [
        random_trajectory(shape, 100 * seed + i, route)
        for i, (shape, route) in enumerate(zip(shapes, routes, strict=True))
    ]
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    groups = [Group(prompt=prompt, trajectories=tuple(rows[i : min(i + 2, explored)])) for i in range(0, explored, 2)]
    return pack(groups, rows[explored:], count_meanings=True)


def with_routes(batch: Batch, objective: ObjectiveConfig) -> Batch:
    """The batch with an answer on each route that the objective trains besides those that `random_batch` has."""
    if objective.replays:
        batch.route[-1] = ROUTES.index("replay")
    if objective.imitates:
        batch.route[-1], batch.group[-1] = ROUTES.index("imitate"), 0
    if objective.has_experience:
        batch.route[2] = ROUTES.index("experience")
    return batch


def with_common_prompts(batch: Batch) -> Batch:
    """The batch whose prompts begin with the same tokens, as few-shot prompts do, and whose answers 0 and 1 do too."""
    lengths = batch.lengths
    position = torch.arange(len(batch.tokens)) - (lengths.cumsum(0) - lengths)[batch.seq]
    tokens = torch.where(batch.mask, batch.tokens, 2 + position)
    first, second = ((batch.seq == i) & batch.mask for i in (0, 1))
    common = min(int(first.sum()), int(second.sum()))
    tokens[second.nonzero().flatten()[:common]] = tokens[first.nonzero().flatten()[:common]]
    return replace(batch, tokens=tokens)


def credited(batch: Batch, objective: ObjectiveConfig, coefficient: float = 0.0) -> Batch:
    coefficients = dict.fromkeys(objective.terms, coefficient)
    return credit(batch, objective, ObjectiveState(coefficients=coefficients, pass_k=objective.pass_k.k))


def logits_megabytes(tokens: int) -> float:
    """The setting at which a chunk of a tiny policy's logits has this many tokens."""
    return (tokens + 0.5) * 4 * VOCABULARY_SIZE / 1e6


def untrained(batch: Batch) -> Batch:
    return replace(batch, mask=torch.zeros_like(batch.mask))
