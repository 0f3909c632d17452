"""Random policies and batches of the stages. They are made where they are used: nothing is read from a hub."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from actors.learning.learner import FsdpLearner
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from tasks.characters import VOCABULARY_SIZE, save_tokenizer
from trajectories.batch import Batch, pack
from trajectories.trajectory import ROUTES, Grade, Group, Prompt, Route, Trajectory

QWEN_1_5B: dict[str, Any] = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
}  # fmt: skip
"""Qwen2.5 1.5B: 1.54e9 parameters."""
TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": VOCABULARY_SIZE, "tie_word_embeddings": True,
    "max_position_embeddings": 1024, "initializer_range": 0.2,
}  # fmt: skip


def random_model(shape: dict[str, Any], *, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """Return a Qwen2 model with random weights, which are drawn on the device."""
    torch.manual_seed(seed)
    config = Qwen2Config(**shape, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def random_policy(folder: Path, shape: dict[str, Any], *, device: str, dtype: torch.dtype, seed: int = 0) -> str:
    """Write a random model and the byte tokenizer as a policy's directory, and return it."""
    random_model(shape, device=device, dtype=dtype, seed=seed).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


def random_batch(
    shapes: Sequence[tuple[int, int]], *, group: int = 2, rehearsed: int = 0, vocabulary: int = VOCABULARY_SIZE
) -> Batch:
    """Return answers in groups of `group` to prompts that the group shares.

    Args:
        shapes: tokens of prompt and answer of each trajectory; those of a group have prompts of the same length.
        rehearsed: the last so many are stored answers of the reference.
    """
    explored = len(shapes) - rehearsed
    rows = [
        _trajectory(shape, number, number // group, vocabulary, "explore" if number < explored else "rehearse")
        for number, shape in enumerate(shapes)
    ]
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    parts = [tuple(rows[first : min(first + group, explored)]) for first in range(0, explored, group)]
    groups = [Group(prompt=prompt, trajectories=part) for part in parts]
    return pack(groups, rows[explored:], count_meanings=True)


def _trajectory(shape: tuple[int, int], seed: int, group: int, vocabulary: int, route: Route) -> Trajectory:
    draw, of_group = np.random.default_rng(seed), np.random.default_rng(10_000 + group)
    length = sum(shape)
    mask = np.arange(length) >= shape[0]
    tokens = np.concatenate([of_group.integers(2, vocabulary, shape[0]), draw.integers(2, vocabulary, shape[1])])
    logp = -draw.uniform(3, 8, size=length).astype(np.float32) * mask
    return Trajectory(
        prompt_id="p",
        sample_index=seed,
        tokens=tokens.astype(np.int32),
        mask=mask,
        logp_sampler=logp,
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=seed,
        text=str(seed),
        route=route,
        grade=Grade(reward=float(draw.uniform()) if seed else 1.0, status="correct"),
        logp_reference=logp if route == "rehearse" else None,
    )


def with_routes(batch: Batch, objective: ObjectiveConfig) -> Batch:
    """Return the batch with an answer on each route that the objective trains besides those of `random_batch`."""
    route, group = batch.route.clone(), batch.group.clone()
    if objective.replays:
        route[-1] = ROUTES.index("replay")
    if objective.imitates:
        route[-1], group[-1] = ROUTES.index("imitate"), 0
    if objective.has_experience:
        route[2] = ROUTES.index("experience")
    return replace(batch, route=route, group=group)


def credited(batch: Batch, objective: ObjectiveConfig, coefficient: float) -> Batch:
    """Return the batch with advantages and weights, every divergence term with the same coefficient."""
    coefficients = dict.fromkeys(objective.terms, coefficient)
    return credit(batch, objective, ObjectiveState(coefficients=coefficients, pass_k=objective.pass_k.k))


class KeepingLearner(FsdpLearner):
    """A learner of one update, which keeps its gradients to be compared."""

    def free_gradients(self) -> None:
        pass


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return |found - expected| / |expected|, of Euclidean norms in float64 on the CPU."""
    a, b = (each.detach().to("cpu", torch.float64) for each in (found, expected))
    return float((a - b).norm() / b.norm().clamp(min=1e-30))
