"""Replay: right answers of a task, learned by supervision beside what the policy explores."""

from dataclasses import dataclass

import numpy as np

from configs.config import Config
from configs.task import TaskConfig
from orchestrator.rollout.encoding import Encoder, answer_encoder, encoder
from tasks.registry import build
from tasks.source import Source, digest
from trajectories.trajectory import Prompt, Trajectory


@dataclass(frozen=True)
class Replay:
    """Right answers of the train stream of `source`, which goes on from step to step."""

    source: Source
    encode: Encoder
    encode_answer: Encoder
    batch: int
    """Answers per step."""
    longest: int
    """Tokens of prompt and answer together; longer ones are left out."""

    def at(self, step: int) -> list[Trajectory]:
        """The answers of one step, a function of the step; fewer than `batch` where some are too long."""
        places = range(step * self.batch, (step + 1) * self.batch)
        answers = [self._answer(*self.source.demonstration(place)) for place in places]
        return [answer for answer in answers if len(answer.tokens) <= self.longest]

    def _answer(self, prompt: Prompt, text: str) -> Trajectory:
        return right_answer(prompt.id, self.encode(prompt.text), self.encode_answer(text), text)


def right_answer(prompt_id: str, prompt: list[int], answer: list[int], text: str) -> Trajectory:
    """A trajectory of given tokens, all of whose answer is trained on."""
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
        route="replay",
    )


def load_replay(cfg: Config) -> Replay:
    """The answers to replay: of `replay.task`, or of the run's own task in an order (synthetic tasks: with problems)
    other than the explored one. Raises ValueError where the task knows no right answers."""
    task = TaskConfig(name=cfg.replay.task, options=cfg.replay.options) if cfg.replay.task else cfg.task
    try:
        replay = Replay(
            source=build(task, digest(f"{cfg.seed}/replay")),
            encode=encoder(cfg.policy),
            encode_answer=answer_encoder(cfg.policy),
            batch=cfg.replay.batch,
            longest=cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens,
        )
        first = replay.at(0)
    except ValueError as error:
        words = str(error).replace("task.name:", "replay.task:", 1).replace("task.options", "replay.options", 1)
        raise ValueError(words if cfg.replay.task else f"objective.replay_weight: {error}") from None
    if not first:
        rule = "must leave room for the right answers (replay), got none of the first"
        raise ValueError(f"sampling.max_new_tokens: {rule} {replay.batch} within {replay.longest} tokens")
    return replay
