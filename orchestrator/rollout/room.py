"""Whether a generator has room for another group, by its latest report and the groups that were sent since."""

from actors.contracts import GenerationJob
from actors.finished import EngineLoad, Finished


class Lengths:
    """Mean length of the answers that finished."""

    def __init__(self) -> None:
        self._tokens = self._answers = 0

    def observe(self, finished: Finished) -> None:
        """Count answers that finished."""
        self._tokens += len(finished.tokens)
        self._answers += len(finished)

    def expected(self, job: GenerationJob) -> float:
        """Return the tokens of a job's prompt, which its answers share, and of its answers: of the mean length so far,
        or of the longest one before any finished."""
        longest = job.max_new_tokens
        mean = min(self._tokens / self._answers, longest) if self._answers else longest
        return len(job.prompt_tokens) + len(job.seeds) * mean


class Room:
    """Room of one generator.

    A group has room if no answer waits in the engine, all of its answers can be decoded at once, and the free key-value
    memory holds its expected tokens, besides those of the groups sent since the report. Answers that became longer than
    expected are no danger: those that the engine interrupts for memory wait in it, and while they do there is no room.

    Args:
        load: the generator's report.
    """

    def __init__(self, load: EngineLoad) -> None:
        self._free_tokens: float = 0 if load.waiting else load.free_kv_tokens
        self._free_sequences = 0 if load.waiting else load.free_sequences

    def holds(self, job: GenerationJob, expected: float) -> bool:
        """Return whether there is room for a job of so many expected tokens."""
        return expected <= self._free_tokens and len(job.seeds) <= self._free_sequences

    def fill(self, job: GenerationJob, expected: float) -> None:
        """Take the room of a job that is sent."""
        self._free_tokens -= expected
        self._free_sequences -= len(job.seeds)
