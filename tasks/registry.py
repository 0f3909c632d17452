"""Tasks by name. A task is a frozen dataclass of options and a class that makes its Source from them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from configs.checks import nearest
from configs.extraction import STRICT
from configs.sets import set_names
from configs.task import TaskConfig
from tasks.changed import Changed, with_extraction
from tasks.countdown import Countdown, CountdownOptions
from tasks.dataset.task import Dataset, DatasetOptions
from tasks.few_shot_sums import FewShotSums, FewShotSumsOptions
from tasks.mixture import Mixture, MixtureDomain, MixtureOptions
from tasks.options import PATH, ROWS, VERIFIER, options_with, parse
from tasks.programs import Programs, ProgramsOptions
from tasks.scratchpad_addition import ScratchpadAddition, ScratchpadAdditionOptions
from tasks.source import Source
from tasks.sql_questions import SqlQuestions, SqlQuestionsOptions
from tasks.word_problems import WordProblems, WordProblemsOptions

TASKS: dict[str, tuple[type, Callable[[Any, int], Source]]] = {
    "countdown": (CountdownOptions, Countdown),
    "sql_questions": (SqlQuestionsOptions, SqlQuestions),
    "programs": (ProgramsOptions, Programs),
    "scratchpad_addition": (ScratchpadAdditionOptions, ScratchpadAddition),
    "few_shot_sums": (FewShotSumsOptions, FewShotSums),
    "word_problems": (WordProblemsOptions, WordProblems),
    "dataset": (DatasetOptions, Dataset),
    "mixture": (MixtureOptions, lambda options, seed: Mixture(options, seed, build)),
}


def build(config: TaskConfig, seed: int) -> Source:
    """Make the Source of a task.

    Raises:
        ValueError: the task or an option is unknown, or a value is not allowed; names the setting.
    """
    options = check_options(config)
    source = task_of(config.name)[1](options, seed)
    if config.verifier:
        source = Changed(source, partial(replace, verifier=config.verifier))
    return with_extraction(source, config.extraction, "task.extraction") if config.extraction != STRICT else source


def check_options(config: TaskConfig) -> Any:
    """Return the options of a task, as its dataclass, without reading its rows.

    Raises:
        ValueError: the task or an option is unknown, or a value is not allowed; names the setting.
    """
    return parse(task_of(config.name)[0], config.options)


def task_of(name: str) -> tuple[type, Callable[[Any, int], Source]]:
    """Return the options and the maker of a task, or of a known set, which is the task dataset under another name.

    Raises:
        ValueError: there is none of this name.
    """
    if name in set_names():
        return DatasetOptions, lambda options, seed: Dataset(options, seed, name)
    if name not in TASKS:
        known = [*TASKS, *set_names()]
        listed = f"{', '.join(TASKS)}, or of the sets {', '.join(set_names())}"
        raise ValueError(f"task.name: must be one of {listed}{nearest(name, known)}, got {name!r}")
    return TASKS[name]


Resolve = Callable[[str, str], str]
"""Returns what stands in place of a value; its arguments are the setting, for errors, and the value."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is applied to values of a task's options, by what they name."""

    path: Resolve = lambda setting, value: value
    """For each path of something on this machine."""
    rows: Resolve = lambda setting, value: value
    """For each path of rows, which may name a dataset of the Hugging Face Hub."""
    verifier: Resolve = lambda setting, value: value


def map_paths(name: str, options: dict[str, Any], changes: Changes, where: str = "task.options") -> dict[str, Any]:
    """Return the options of the task `name` with `changes` applied.

    In a mixture, the options of each domain are those of the domain's own task. Unknown tasks and values of wrong types
    stay as they are, because `build` refuses them.
    """
    if name not in TASKS and name not in set_names():
        return options
    mapped = _mapped(options, task_of(name)[0], changes, where)
    if name == "mixture" and isinstance(options.get("domains"), list):
        domains = enumerate(options["domains"])
        mapped["domains"] = [_map_domain(domain, changes, f"{where}.domains[{index}]") for index, domain in domains]
    return mapped


def _mapped(options: dict[str, Any], schema: type, changes: Changes, where: str) -> dict[str, Any]:
    of = dict.fromkeys(options_with(schema, PATH), changes.path)
    of |= dict.fromkeys(options_with(schema, ROWS), changes.rows)
    of |= dict.fromkeys(options_with(schema, VERIFIER), changes.verifier)
    return {
        key: of[key](f"{where}.{key}", value) if key in of and isinstance(value, str) and value else value
        for key, value in options.items()
    }


def _map_domain(domain: Any, changes: Changes, where: str) -> Any:
    if not isinstance(domain, dict):
        return domain
    mapped = _mapped(domain, MixtureDomain, changes, where)
    if isinstance(domain.get("options"), dict):
        mapped["options"] = map_paths(str(domain.get("name")), domain["options"], changes, f"{where}.options")
    return mapped
