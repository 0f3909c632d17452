"""Batches with the shape of real ones: prompts of a task, and random answers with the lengths of its right answers."""

from collections.abc import Iterable, Sequence

import numpy as np

from configs.config import Config
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from orchestrator.rollout.encoding import PromptEncoder, answer_encoder
from tasks.registry import build
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

LOGP = -2.0
"""Log-prob of every answer token under the policy that sampled it, nats."""


def task_batch(cfg: Config) -> Batch:
    """Return a batch of `groups_per_step` prompts of the task, with `group_size` answers each."""
    source = build(cfg.task, cfg.seed)
    encode, encode_answer = PromptEncoder(cfg.policy), answer_encoder(cfg.policy)
    pairs = [source.demonstration(position) for position in range(4 * cfg.groups_per_step)]
    lengths = [len(encode_answer(answer)) for _, answer in pairs]
    prompts = [encode(prompt) for prompt, _ in pairs[: cfg.groups_per_step]]
    draw = np.random.default_rng(0)
    size = cfg.sampling.group_size
    return make_batch(cfg, prompts, [draw.choice(lengths, size=size).tolist() for _ in prompts])


def long_batch(cfg: Config, prompt_tokens: int, longest: int) -> Batch:
    """Return a batch whose answers have log-normal lengths, a median of a fifth of the longest."""
    draw = np.random.default_rng(0)
    shape = (cfg.groups_per_step, cfg.sampling.group_size)
    lengths = np.clip(draw.lognormal(np.log(longest / 5), 0.8, size=shape).astype(int), 1, longest)
    return make_batch(cfg, [[2] * prompt_tokens] * len(lengths), lengths.tolist())


def make_batch(cfg: Config, prompts: Sequence[Sequence[int]], lengths: Sequence[Iterable[int]]) -> Batch:
    """Return the batch of these prompts [P] and answers of these lengths [P][G], with random rewards."""
    return pack(make_groups(prompts, lengths))


def make_groups(prompts: Sequence[Sequence[int]], lengths: Sequence[Iterable[int]]) -> list[Group]:
    """Return the groups of these prompts [P], with answers of these lengths [P][G] and random rewards."""
    draw = np.random.default_rng(0)
    source = Prompt(id="p", position=0, text="", verifier="", problem={})
    groups = []
    for number, (prompt, of_group) in enumerate(zip(prompts, lengths, strict=True)):
        rows = [_trajectory(prompt, length, index, draw) for index, length in enumerate(of_group)]
        groups.append(Group(prompt=source, trajectories=tuple(rows)))
        assert rows, f"group {number} has no answers"
    return groups


def credited(cfg: Config, batch: Batch) -> Batch:
    """Return the batch with its advantages and weights, as before the first step."""
    return credit(batch, cfg.objective, initial_state(cfg.objective, cfg.steps))


def _trajectory(prompt: Sequence[int], length: int, index: int, draw: np.random.Generator) -> Trajectory:
    answer = draw.integers(2, 258, size=length)  # the bytes of the small policies' tokenizer
    mask = np.arange(len(prompt) + length) >= len(prompt)
    return Trajectory(
        prompt_id="p",
        sample_index=index,
        tokens=np.concatenate([prompt, answer]).astype(np.int32),
        mask=mask,
        logp_sampler=LOGP * mask.astype(np.float32),
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=index,
        text="",
        grade=Grade(reward=float(draw.integers(2)), status="correct"),
    )
