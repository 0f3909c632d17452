"""A Source whose prompts are those of another Source, each changed by a function: another verifier, another mode."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from configs.checks import require
from configs.extraction import EXTRACTING, FIELD, STRICT
from tasks.source import ListedPrompt, ListedSource, Source, first_prompts
from trajectories.trajectory import Prompt

SEARCHED = 64
"""First prompts of the train stream among which one with a verifier that reads extraction modes is searched."""


@dataclass(frozen=True)
class Changed:
    """A Source with `change` applied to each of its prompts."""

    source: Source
    change: Callable[[Prompt], Prompt]

    def prompt(self, position: int) -> Prompt:
        return self.change(self.source.prompt(position))

    def heldout(self, count: int) -> list[Prompt]:
        return [self.change(prompt) for prompt in self.source.heldout(count)]

    def listed(self) -> Iterator[ListedPrompt]:
        for one in self.source.listed() if isinstance(self.source, ListedSource) else ():
            yield replace(one, prompt=self.change(one.prompt))

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        prompt, answer = self.source.demonstration(position)
        return self.change(prompt), answer


def with_extraction(source: Source, mode: str, setting: str) -> Source:
    """Return the Source with this extraction mode in the problem of every prompt whose verifier reads it.

    Args:
        mode: an extraction mode; "": the problems stay as they are.
        setting: the setting that holds the mode, for errors.

    Raises:
        ValueError: no verifier of the first prompts reads extraction modes.
    """
    if not mode:
        return source
    verifiers = sorted({prompt.verifier for prompt in first_prompts(source, SEARCHED)})
    rule = f"must be left out unless prompts have the verifier {' or '.join(EXTRACTING)}; these have {verifiers}"
    require(not set(verifiers).isdisjoint(EXTRACTING), setting, rule, mode)

    def change(prompt: Prompt) -> Prompt:
        if prompt.verifier not in EXTRACTING:
            return prompt
        problem = {name: value for name, value in prompt.problem.items() if name != FIELD}
        return replace(prompt, problem=problem if mode == STRICT else problem | {FIELD: mode})

    return Changed(source, change)


def extraction_modes(prompts: Iterable[Prompt]) -> list[str]:
    """Return the extraction modes in which the answers to these prompts are read, sorted; none if no verifier reads
    modes."""
    return sorted({prompt.problem.get(FIELD, STRICT) for prompt in prompts if prompt.verifier in EXTRACTING})
