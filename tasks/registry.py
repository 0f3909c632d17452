"""Names of tasks. A task is a frozen dataclass of options and a Source made from it."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import nearest
from configs.task import TaskConfig
from tasks.countdown import Countdown, CountdownOptions
from tasks.dataset.task import Dataset, DatasetOptions
from tasks.mixture import Mixture, MixtureOptions
from tasks.programs import Programs, ProgramsOptions
from tasks.scratchpad_addition import ScratchpadAddition, ScratchpadAdditionOptions
from tasks.source import Source
from tasks.sql_questions import SqlQuestions, SqlQuestionsOptions
from trajectories.trajectory import Prompt

TASKS: dict[str, tuple[type, Callable[[Any, int], Source]]] = {
    "countdown": (CountdownOptions, Countdown),
    "sql_questions": (SqlQuestionsOptions, SqlQuestions),
    "programs": (ProgramsOptions, Programs),
    "scratchpad_addition": (ScratchpadAdditionOptions, ScratchpadAddition),
    "dataset": (DatasetOptions, Dataset),
    "mixture": (MixtureOptions, lambda options, seed: Mixture(options, seed, build)),
}


def build(config: TaskConfig, seed: int) -> Source:
    """The configured Source. Raises ValueError naming the field on an unknown task or option, or a bad value."""
    if config.name not in TASKS:
        known = ", ".join(TASKS)
        raise ValueError(f"task.name: must be one of {known}{nearest(config.name, TASKS)}, got {config.name!r}")
    schema, make = TASKS[config.name]
    source = make(_options(schema, config.options), seed)
    return Overridden(source=source, verifier=config.verifier) if config.verifier else source


@dataclass(frozen=True)
class Overridden:
    """A Source whose problems are judged by another verifier."""

    source: Source
    verifier: str

    def prompt(self, position: int) -> Prompt:
        return replace(self.source.prompt(position), verifier=self.verifier)

    def heldout(self, count: int) -> list[Prompt]:
        return [replace(prompt, verifier=self.verifier) for prompt in self.source.heldout(count)]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        prompt, answer = self.source.demonstration(position)
        return replace(prompt, verifier=self.verifier), answer


def _options(schema: type, given: dict[str, Any]) -> Any:
    known = [field.name for field in fields(schema)]
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"task.options.{key}: unknown option{nearest(str(key), known)}, got {value!r}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))
    except OmegaConfBaseException as error:
        raise ValueError(f"task.options.{error.full_key or ''}: {str(error).splitlines()[0]}") from None
