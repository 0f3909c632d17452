"""Replay: right answers of a task, trained on by supervision in addition to the answers that the policy explores."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs.config import Config
from configs.extraction import FIELD, STRICT
from configs.task import TaskConfig
from orchestrator.rollout.encoding import Encoder, PromptEncoder, answer_encoder
from rewards.mathematics.modes import extract
from tasks.options import settings_named
from tasks.registry import build
from tasks.source import Source, digest
from trajectories.trajectory import Prompt, Route, Trajectory


@dataclass(frozen=True)
class Replay:
    """Right answers of the train stream of `source`, in the order of the stream."""

    source: Source
    encode: Encoder
    encode_answer: Callable[[str], list[int]]
    batch: int
    """Answers per step."""
    max_tokens: int
    """Largest number of tokens of prompt and answer together; longer ones are left out."""

    def at(self, step: int) -> list[Trajectory]:
        """Return the answers of a step, a function of seed and step; fewer than `batch` where rows have no right answer
        or a too long one."""
        positions = range(step * self.batch, (step + 1) * self.batch)
        known = [demonstration_at(self.source, position) for position in positions]
        answers = [self._answer(*demonstration) for demonstration in known if demonstration]
        return [answer for answer in answers if len(answer.tokens) <= self.max_tokens]

    def _answer(self, prompt: Prompt, text: str) -> Trajectory:
        return right_answer(prompt.id, self.encode(prompt), self.encode_answer(text), text)


def demonstration(source: Source, position: int) -> tuple[Prompt, str]:
    """Return the train problem at a position and a right answer to it.

    Raises:
        ValueError: its row has none, or the answer is not written in the problem's extraction mode, in which it would
            be wrong.
    """
    prompt, answer = source.demonstration(position)
    mode = prompt.problem.get(FIELD, STRICT)
    if mode != STRICT and extract(answer, mode) is None:
        raise ValueError(
            f"task.extraction: must be a mode in which the task's right answers are written, got {mode!r} and "
            f"{answer[-100:]!r}"
        )
    return prompt, answer


def demonstration_at(source: Source, position: int) -> tuple[Prompt, str] | None:
    """Return what `demonstration` does, or None if there is none."""
    try:
        return demonstration(source, position)
    except ValueError:
        return None


def right_answer(
    prompt_id: str, prompt: list[int], answer: list[int], text: str, route: Route = "replay"
) -> Trajectory:
    """Return a trajectory that the policy did not sample, from token ids. All tokens of the answer are trained on."""
    tokens = np.asarray([*prompt, *answer], dtype=np.int32)
    return Trajectory(
        prompt_id=prompt_id,
        sample_index=0,
        tokens=tokens,
        mask=np.arange(len(tokens)) >= len(prompt),
        logp_sampler=np.zeros(len(tokens), dtype=np.float32),
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=0,
        text=text,
        route=route,
    )


def load_replay(cfg: Config) -> Replay:
    """Prepare the answers to replay, from the task `replay.task`.

    Without `replay.task` they are of the run's own task, under another seed: its problems in another order, or, of a
    synthetic task, other problems.

    Raises:
        ValueError: the task or an option is not allowed, or the problems of the first step have no right answers, or
            all are too long.
    """
    if cfg.replay.task:
        task, settings = TaskConfig(name=cfg.replay.task, options=cfg.replay.options), ("replay.task", "replay.options")
    else:
        task, settings = cfg.task, ("task.name", "task.options")
    try:
        with settings_named(*settings):
            source = build(task, digest(f"{cfg.seed}/replay"))
        replay = Replay(
            source=source,
            encode=PromptEncoder(cfg.policy),
            encode_answer=answer_encoder(cfg.policy),
            batch=cfg.replay.batch,
            max_tokens=cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens,
        )
        first = replay.at(0)
        if not first:
            with settings_named(*settings):
                demonstration(source, 0)
    except ValueError as error:
        if cfg.replay.task:
            raise
        raise ValueError(f"objective.replay_weight: {error}") from None
    if not first:
        rule = "must leave room for the right answers to replay, got none"
        raise ValueError(
            f"sampling.max_new_tokens: {rule} of the first {replay.batch} within {replay.max_tokens} tokens of prompt "
            "and answer"
        )
    return replay
