"""Solutions: right answers of the task to the prompts that the policy explores, the winners of pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configs.config import Config
from orchestrator.rollout.encoding import Encoder, answer_encoder
from orchestrator.stored.replay import demonstration, demonstration_at, right_answer
from tasks.source import Source
from trajectories.trajectory import Group, Prompt, Trajectory


@dataclass(frozen=True)
class Solutions:
    """Right answers to the prompts of the train stream of `source`, a function of seed and prompt."""

    source: Source
    encode: Encoder
    encode_answer: Callable[[str], list[int]]
    longest: int
    """Largest number of tokens of a right answer; a prompt whose answer is longer has no solution."""

    def added(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with their solutions."""
        return [replace(group, solution=self.of(group.prompt)) for group in groups]

    def of(self, prompt: Prompt) -> Trajectory | None:
        """Return the solution of a prompt of the train stream; None if its row has no right answer, or a long one."""
        known = demonstration_at(self.source, prompt.position)
        if known is None:
            return None
        shown, text = known
        assert shown.id == prompt.id, f"the demonstration at {prompt.position} is of {shown.id} and not of {prompt.id}"
        answer = self.encode_answer(text)
        if len(answer) > self.longest:
            return None
        return right_answer(prompt.id, self.encode(prompt), answer, text, route="imitate")


def solutions_of(cfg: Config, source: Source, encode: Encoder) -> Solutions:
    """Return the solutions of a run.

    Raises:
        ValueError: the prompts of the first step have no right answers, or all are too long.
    """
    solutions = Solutions(source, encode, answer_encoder(cfg.policy), cfg.sampling.max_new_tokens)
    if not any(solutions.of(source.prompt(position)) for position in range(cfg.groups_per_step)):
        try:
            demonstration(source, 0)
        except ValueError as error:
            raise ValueError(f"objective.pairs.winners: must not be 'solution': {error}") from None
        raise ValueError(
            f"sampling.max_new_tokens: must leave room for the task's right answers, got {solutions.longest}, and none "
            f"of the first {cfg.groups_per_step} is as short"
        )
    return solutions
