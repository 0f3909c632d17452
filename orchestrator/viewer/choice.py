"""Which answers of a run are shown."""

from dataclasses import dataclass

from orchestrator.viewer.answer_file import AnswerFile, Summary


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Properties of the answers that are shown; None and an empty text leave a property open."""

    step: int | None = None
    status: str = ""
    route: str = ""
    problem: str = ""
    """Part of the prompt's id or of the first 300 characters of its text, in any case."""
    min_reward: float | None = None
    max_reward: float | None = None

    def has(self, answer: Summary) -> bool:
        """Return whether the answer is shown. One without a reward is not, if a reward is asked for."""
        by_reward = self.min_reward is not None or self.max_reward is not None
        reward = answer.reward
        if by_reward and reward is None:
            return False
        return (
            self.step in (None, answer.step)
            and self.status in ("", answer.status)
            and self.route in ("", answer.route)
            and self.problem.lower() in f"{answer.prompt_id}\n{answer.prompt}".lower()
            and (self.min_reward is None or (reward is not None and reward >= self.min_reward))
            and (self.max_reward is None or (reward is not None and reward <= self.max_reward))
        )

    def numbers(self, answers: AnswerFile) -> list[int]:
        """Return the numbers of the answers that are shown, the oldest first."""
        return [number for number, each in enumerate(answers.summaries, answers.first) if self.has(each)]
