"""Whether a generator has room for another group, by its latest report and the groups that were sent since."""

from actors.contracts import GenerationJob
from actors.finished import EngineLoad


class Room:
    """Room of one generator.

    A group has room if no answer waits in the engine, all of its answers can be decoded at once, and the free key-value
    memory holds its prompt and its longest answers, besides those of the groups sent since the report.

    Args:
        load: the generator's report.
    """

    def __init__(self, load: EngineLoad) -> None:
        self._free_tokens = 0 if load.waiting else load.free_kv_tokens
        self._free_sequences = 0 if load.waiting else load.free_sequences

    def holds(self, job: GenerationJob) -> bool:
        """Return whether there is room for a job."""
        return _tokens(job) <= self._free_tokens and len(job.seeds) <= self._free_sequences

    def fill(self, job: GenerationJob) -> None:
        """Take the room of a job that is sent."""
        self._free_tokens -= _tokens(job)
        self._free_sequences -= len(job.seeds)


def _tokens(job: GenerationJob) -> int:
    return len(job.prompt_tokens) + len(job.seeds) * job.max_new_tokens
