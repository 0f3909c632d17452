"""Prompt, Trajectory and Group: the values that pass between roles. They hold numpy arrays; this module loads no torch.

Axes: T tokens of one trajectory (prompt and everything after it), G answers to one prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Route = Literal["explore", "rehearse", "replay", "imitate", "experience"]
"""Decides the terms of the objective that apply to a trajectory. `explore`: the policy's own new answers, trained by
the policy gradient and divergence terms. `rehearse`: stored reference answers, trained by a divergence term. `replay`:
right answers of a task, trained by the negative log-likelihood. `imitate`: right answers of the task to the prompts of
the step, trained by the loss of the pairs in which they are the winners. `experience`: the policy's own right answers
of earlier steps, trained by the policy gradient with a weight."""
ROUTES: tuple[Route, ...] = ("explore", "rehearse", "replay", "imitate", "experience")
OWN_ROUTES: tuple[Route, ...] = ("explore", "experience")
"""Routes of the policy's own answers, whose rewards make advantages."""
COMPARED: tuple[Route, ...] = ("explore", "imitate")
"""Routes of the answers that are compared with references, which score them."""

FinishReason = Literal["stop", "length"]


Message = Mapping[str, str]
"""One turn of a chat: `role` (system, user or assistant) and `content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One problem: its text, and the data its verifier needs to judge an answer.

    Example: Prompt(id="countdown/train/7", position=7, text="3,7,12=22:", verifier="countdown",
    problem={"numbers": [3, 7, 12], "target": 22})
    """

    id: str
    position: int
    """Index in its stream. Seed and position determine the prompt."""
    text: str
    verifier: str
    """A name of `rewards/registry.py`, an import path `package.module:function` or a file `path/file.py:function`."""
    problem: Mapping[str, Any]
    """Data for the verifier. JSON values only, because it is sent between processes and written to disk."""
    messages: tuple[Message, ...] = ()
    """The turns of a prompt that is a chat, the last one of the user; `text` is then `chat_text` of them. Empty: `text`
    is the whole prompt."""


def chat_text(messages: Sequence[Message]) -> str:
    """Return the turns of a chat as one text for readers. A single user turn is its content."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def domain(prompt_id: str) -> str:
    """Return the domain of a prompt, which is the first segment of its id.

    Without a mixture it is the name of the task. Example: domain("words/train/line-7") == "words".
    """
    return prompt_id.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Reward of one answer, and status and reason of the verdict of its problem's verifier.

    Example: Grade(reward=0.0, status="wrong", reason="evaluates to 21, not 22", seconds=0.0001)
    """

    reward: float | None
    """None if the grader itself failed: the trajectory is then masked, and not counted as reward 0."""
    status: str
    """A status of `rewards/verdict.py`."""
    reason: str = ""
    seconds: float = 0.0
    """Wall time of the verifiers."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Each of several rewards by name, before weights and gates, or the parts of the verdict; empty if there is one."""
    semantic_key: str = ""
    """That of the verdict: answers to one prompt with the same key are the same solution. Empty: not known."""
    vote: str = ""
    """That of the verdict: the final answer in a majority vote. Empty: the answer has none, or is not voted on."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call: setting the fields of a frozen dataclass with slots one by one takes ten times as long."""
        return _grade, (self.reward, self.status, self.reason, self.seconds, self.parts, self.semantic_key, self.vote)


def _grade(
    reward: float | None,
    status: str,
    reason: str,
    seconds: float,
    parts: Mapping[str, float | None],
    semantic_key: str,
    vote: str,
) -> Grade:
    key = semantic_key
    return Grade(reward=reward, status=status, reason=reason, seconds=seconds, parts=parts, semantic_key=key, vote=vote)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One flat token sequence: the prompt and all tokens after it. Arrays are aligned with `tokens`.

    Example: Trajectory(prompt_id="countdown/train/7", sample_index=3, tokens=[5, 9, 1, 2], mask=[0, 0, 1, 1],
    logp_sampler=[0, 0, -0.4, -1.1], first_version=12, last_version=12, finish_reason="stop", seed=91,
    text="3+7+12")
    """

    prompt_id: str
    sample_index: int
    tokens: np.ndarray
    """int32 [T]"""
    mask: np.ndarray
    """bool [T]: True where the policy generated the token."""
    logp_sampler: np.ndarray
    """float32 [T], nats, at the sampling temperature, computed by the engine; 0 where `mask` is False."""
    first_version: int
    last_version: int
    """Weight versions that generated the first and the last token."""
    finish_reason: FinishReason
    seed: int
    text: str
    """The answer, decoded with its special tokens, but without the stop token that ends it."""
    route: Route = "explore"
    grade: Grade | None = None
    logp_reference: np.ndarray | None = None
    """float32 [T], nats: log-probs stored with a rehearsed answer, or computed when its group was complete; None where
    the reference has yet to compute them."""
    logp_anchors: Mapping[str, np.ndarray] = field(default_factory=dict)
    """float32 [T], nats, by name of each further reference that has scored the group when it was complete."""

    @property
    def key(self) -> str:
        """Name of the trajectory in messages: `<prompt id>#<index in the group>`."""
        return f"{self.prompt_id}#{self.sample_index}"

    @property
    def prompt_tokens(self) -> np.ndarray:
        """int32: the tokens before the first generated one."""
        return self.tokens[: int(self.mask.argmax())]

    @property
    def answer_length(self) -> int:
        """Number of generated tokens."""
        return int(self.mask.sum())

    @property
    def meaning(self) -> tuple[str, str]:
        """What the answer is compared by with others to its prompt: the grade's semantic key; without one, its whole
        text, up to white space."""
        key = self.grade.semantic_key if self.grade else ""
        return (key, "") if key else ("", " ".join(self.text.split()))

    @property
    def reward(self) -> float | None:
        """Reward of the grade; None for an ungraded answer and where the grader failed."""
        return None if self.grade is None else self.grade.reward


EQUAL_REWARDS = 1e-6
"""Rewards of a group that differ by at most this are equal: they may be sums, and sums are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The G answers to one prompt, in the order of their sample index."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...] = field(default=())
    solution: Trajectory | None = None
    """A right answer of the task, on the route `imitate`; None where the objective imitates none."""
    experience: tuple[Trajectory, ...] = field(default=())
    """Right answers of earlier steps to the prompt, of which one is trained with the group. They are no samples of the
    policy, so no metric of its answers counts them."""

    @property
    def rewards(self) -> list[float]:
        """Rewards of the graded answers."""
        return [t.reward for t in self.trajectories if t.reward is not None]

    @property
    def has_signal(self) -> bool:
        """Whether the rewards, those of the experience included, differ by more than rounding."""
        rewards = self.rewards + [t.reward for t in self.experience if t.reward is not None]
        return bool(rewards) and max(rewards) - min(rewards) > EQUAL_REWARDS
