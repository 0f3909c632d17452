"""The sets of prompts that are inspected: the train stream, the held-out prompts, and other task sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice

from configs.config import Config
from configs.inspect_task import OtherTaskConfig
from configs.sets import set_names
from configs.task import TaskConfig
from orchestrator.preflight.prompts import check_prompt
from orchestrator.rollout.encoding import PromptEncoder
from tasks.options import settings_named
from tasks.registry import build
from tasks.source import ListedSource, Source, distinct
from trajectories.trajectory import Prompt

TRAIN, HELDOUT = "train", "heldout"


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Prompts of one set that fit `sampling.max_prompt_tokens`, in the order of the set."""

    name: str
    prompts: list[Prompt]
    tokens: list[list[int]]
    """Token ids of each prompt as the policy reads it."""
    too_long: int
    """Prompts that are left out, as in training."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Number of tokens that all prompts begin and end with, as those of a chat template. They say nothing about a
    prompt, so nothing is computed from them."""

    begin: int
    end: int

    def inner(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens of a prompt between the two ends; at least one."""
        return list(tokens[self.begin : len(tokens) - self.end])


def read_sets(cfg: Config, encode: PromptEncoder, vocabulary: int) -> list[PromptSet]:
    """Return the sets: train, held-out, then those of `inspect_task.others`.

    Args:
        vocabulary: tokens that the policy has, V.

    Raises:
        ValueError: a task or an option is not allowed, a prompt cannot be read, or all prompts of a set are too long;
            names the setting.
    """
    source = build(cfg.task, cfg.seed)
    found = {
        TRAIN: _train(source, cfg.inspect_task.prompts),
        HELDOUT: source.heldout(cfg.task.heldout_prompts),
    }
    for name, other in cfg.inspect_task.others.items():
        where = f"inspect_task.others.{name}"
        with settings_named(f"{where}.task", f"{where}.options"):
            found[name] = _other(other, cfg)
    return [_read(name, prompts, cfg, encode, vocabulary) for name, prompts in found.items()]


def _train(source: Source, most: int) -> list[Prompt]:
    """Return the first prompts of the train stream. That of a finite dataset repeats its rows, which count once."""
    return distinct(map(source.prompt, count()), lambda prompt: prompt.id, most)


def _other(other: OtherTaskConfig, cfg: Config) -> list[Prompt]:
    """Return prompts of another task set: of a dataset its rows, held-out ones too; else the train stream."""
    source = build(TaskConfig(name=other.task, options=other.options), cfg.seed)
    if other.task == "dataset" or other.task in set_names():
        assert isinstance(source, ListedSource)
        return [row.prompt for row in islice(source.listed(), cfg.inspect_task.prompts)]
    return _train(source, cfg.inspect_task.prompts)


def _read(name: str, prompts: Sequence[Prompt], cfg: Config, encode: PromptEncoder, vocabulary: int) -> PromptSet:
    limit = cfg.sampling.max_prompt_tokens
    rows = encode.all(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        check_prompt(encode, prompt, row, vocabulary, prompt.id)
    fitting = [index for index, row in enumerate(rows) if len(row) <= limit]
    if not fitting:
        raise ValueError(
            f"sampling.max_prompt_tokens: must be at least the number of tokens of some prompts of {name}, got {limit} "
            f"and prompts of {min(map(len, rows))} tokens or more"
        )
    return PromptSet(
        name=name,
        prompts=[prompts[index] for index in fitting],
        tokens=[rows[index] for index in fitting],
        too_long=len(rows) - len(fitting),
    )


def shared_frame(rows: Sequence[Sequence[int]]) -> Frame:
    """Return the tokens that all prompts begin and end with. Every prompt keeps at least one token between them."""
    if len(set(map(tuple, rows))) < 2:
        return Frame(begin=0, end=0)
    room = min(map(len, rows)) - 1
    begin = _shared(rows, room)
    return Frame(begin=begin, end=_shared([row[::-1] for row in rows], room - begin))


def _shared(rows: Sequence[Sequence[int]], room: int) -> int:
    """Return the number of first tokens that all rows share, at most `room`."""
    first = rows[0]
    return next((n for n in range(room) if any(row[n] != first[n] for row in rows)), room)
