"""Answers behind another prompt: one that also holds what is known of the problem after the group has been graded.

A reference with `reads=feedback` scores them so: a teacher that has seen a right answer and the verifier's words (SDPO,
arXiv:2601.20802).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from orchestrator.rollout.encoding import PromptEncoder
from trajectories.batch import Batch, pack
from trajectories.trajectory import ROUTES, Group, Prompt, Trajectory

RIGHT = 1.0
"""Reward from which on an answer is right."""
REASON_CHARACTERS = 1_000
"""Characters of the verifier's words that are used: their beginning."""
SOLUTION = "A correct answer to this problem:\n\n{}\n"
FEEDBACK = "Feedback on an earlier, wrong answer to it:\n\n{}\n"
REQUEST = "Answer the problem correctly."


class FeedbackPrompts:
    """Puts the answers of groups behind prompts with feedback.

    Args:
        positions: of the policy's model. An answer that does not fit behind its prompt with feedback has none.
    """

    def __init__(self, encode: PromptEncoder, positions: int) -> None:
        self.encode, self.positions = encode, positions

    def behind(self, groups: Sequence[Group]) -> list[Trajectory | None]:
        """Return each answer of the groups, in order, behind its prompt with feedback; None for an answer without a
        reward or without feedback: there is no other right answer in its group, and it is right or nothing was said."""
        prompts = [self._prompt(group, index) for group in groups for index in range(len(group.trajectories))]
        asked = [prompt for prompt in prompts if prompt]
        rows = iter(self.encode.all(asked) if asked else [])
        answers = [trajectory for group in groups for trajectory in group.trajectories]
        pairs = zip(answers, prompts, strict=True)
        moved = [behind(answer, next(rows)) if prompt else None for answer, prompt in pairs]
        return [answer if answer and len(answer.tokens) <= self.positions else None for answer in moved]

    def _prompt(self, group: Group, index: int) -> Prompt | None:
        """Return the prompt of a group with feedback for one of its answers; None: there is none."""
        answer = group.trajectories[index]
        if answer.grade is None or answer.reward is None:
            return None
        others = (t for place, t in enumerate(group.trajectories) if place != index)
        right = next((t.text for t in others if t.reward is not None and t.reward >= RIGHT), "")
        reason = answer.grade.reason[:REASON_CHARACTERS] if answer.reward < RIGHT else ""
        parts = [(SOLUTION, right), (FEEDBACK, reason)]
        texts = [form.format(self._plain(text)) for form, text in parts if text.strip()]
        return self._with(group.prompt, "\n".join(texts)) if texts else None

    def _plain(self, text: str) -> str:
        """Return text without the special tokens that an answer may contain."""
        for token in self.encode.special_tokens:
            text = text.replace(token, "")
        return text

    def _with(self, prompt: Prompt, context: str) -> Prompt:
        """Return a prompt with the context behind the problem in a chat, and else before it: an answer goes on from the
        end of a prompt that is no chat."""
        if not self.encode.templated:
            return replace(prompt, text=f"{context}\n{prompt.text}")
        if not prompt.messages:
            return replace(prompt, text=f"{prompt.text}\n\n{context}\n{REQUEST}")
        *before, last = prompt.messages
        content = f"{last['content']}\n\n{context}\n{REQUEST}"
        return replace(prompt, messages=(*before, {**last, "content": content}))


def behind(trajectory: Trajectory, prompt: Sequence[int]) -> Trajectory:
    """Return the answer of a trajectory behind another prompt, given by its tokens."""
    start, size = len(trajectory.prompt_tokens), len(prompt)
    return replace(
        trajectory,
        tokens=np.concatenate([np.asarray(prompt, dtype=trajectory.tokens.dtype), trajectory.tokens[start:]]),
        mask=np.concatenate([np.zeros(size, dtype=bool), trajectory.mask[start:]]),
        logp_sampler=np.concatenate(
            [np.zeros(size, dtype=trajectory.logp_sampler.dtype), trajectory.logp_sampler[start:]]
        ),
    )


def with_feedback(batch: Batch, moved: Sequence[Trajectory | None]) -> tuple[Batch, Tensor]:
    """Return the batch of the answers that have feedback, and the positions of their generated tokens in `batch`.

    Args:
        moved: as `FeedbackPrompts.behind` returns them, for the explored trajectories of the batch; at least one is
            one.
    """
    explored = (batch.route == ROUTES.index("explore")).nonzero().flatten().tolist()
    chosen = [(row, trajectory) for row, trajectory in zip(explored, moved, strict=True) if trajectory is not None]
    ends = batch.lengths.cumsum(0)
    rows = []
    for row, trajectory in chosen:
        generated = torch.from_numpy(trajectory.mask).nonzero().flatten()
        rows.append(int(ends[row]) - len(trajectory.tokens) + generated)  # both end with the answer
    prompt = Prompt(id="feedback", position=0, text="", verifier="", problem={})
    return pack([Group(prompt=prompt, trajectories=tuple(t for _, t in chosen))]), torch.cat(rows)
