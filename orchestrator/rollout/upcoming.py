"""The next prompts of the train stream, drawn and tokenised before they are due."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from actors.contracts import GenerationJob
from tasks.source import Source
from trajectories.trajectory import Prompt


class Upcoming:
    """Prompts of the train stream by position, with their jobs.

    Args:
        job: returns the job of a prompt; tokenises it.
    """

    def __init__(self, source: Source, job: Callable[[Prompt], GenerationJob]) -> None:
        self.source, self.job = source, job
        self._ready: dict[int, tuple[Prompt, GenerationJob]] = {}
        self._next = 0
        """Position after the last that was taken."""
        self._end = 0
        """Position after the last that was prepared."""

    def at(self, position: int) -> tuple[Prompt, GenerationJob]:
        """Return the prompt at `position` and its job, and forget them. Positions only grow."""
        self._next = position + 1
        return self._ready.pop(position, None) or self._drawn(position)

    async def prepare(self, position: int, count: int) -> None:
        """Prepare the `count` positions from `position` on that are not prepared. Between two of them, other tasks of
        the event loop run.

        An error ends the preparation; `at` raises it when the prompt is due.
        """
        with suppress(Exception):
            for place in range(max(position, self._end), position + count):
                await asyncio.sleep(0)
                if place >= self._next and place not in self._ready:
                    self._ready[place] = self._drawn(place)
                    self._end = place + 1

    def _drawn(self, position: int) -> tuple[Prompt, GenerationJob]:
        prompt = self.source.prompt(position)
        return prompt, self.job(prompt)
