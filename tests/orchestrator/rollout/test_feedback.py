"""References that read feedback: which answers have it, what their prompts say, and whose log-probs they get."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.local import LocalReference
from actors.policy_files.reading import load_model
from actors.reference import References
from configs.load import load
from configs.policy import PolicyConfig
from objectives.divergence.anchors import AS_POLICY
from orchestrator.references import Anchors
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.feedback import REASON_CHARACTERS, FeedbackPrompts
from tests.actors.learning.learner_ranks import config_of
from trajectories.batch import Batch, pack
from trajectories.trajectory import ROUTES, Grade, Group, Prompt, Trajectory

SDPO = load(["method=sdpo"]).objective
TEMPERATURE = 0.7


def answer(encode: PromptEncoder, prompt: Prompt, text: str, reward: float | None, reason: str = "") -> Trajectory:
    start, tokens = encode(prompt), [ord(letter) + 2 for letter in text]
    mask = np.arange(len(start) + len(tokens)) >= len(start)
    return Trajectory(
        prompt_id=prompt.id,
        sample_index=0,
        tokens=np.array([*start, *tokens], dtype=np.int32),
        mask=mask,
        logp_sampler=np.where(mask, np.float32(-2.5), np.float32(0)),
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=0,
        text=text,
        grade=Grade(reward=reward, status="", reason=reason),
    )


def group_of(encode: PromptEncoder, text: str, *answers: tuple[str, float | None, str]) -> Group:
    prompt = Prompt(id=f"p/{text}", position=0, text=text, verifier="", problem={})
    return Group(prompt=prompt, trajectories=tuple(answer(encode, prompt, *each) for each in answers))


@pytest.fixture(scope="module")
def encode(tiny_policy: Path) -> PromptEncoder:
    return PromptEncoder(PolicyConfig(path=str(tiny_policy)))


def groups_of(encode: PromptEncoder) -> list[Group]:
    """Three groups: one with two right answers, one with a single right one, one without."""
    return [
        group_of(encode, "1,2=3:", ("1+2", 1.0, "3"), ("2+1", 1.0, "3"), ("1*2", 0.0, "is 2, not 3"), ("?", None, "")),
        group_of(encode, "4=4:", ("4", 1.0, ""), ("5", 0.0, "")),
        group_of(encode, "9=8:", ("9", 0.0, "is 9, not 8"), ("8", 0.0, "")),
    ]


PROMPTS = [
    "A correct answer to this problem:\n\n2+1\n\n1,2=3:",
    "A correct answer to this problem:\n\n1+2\n\n1,2=3:",
    "A correct answer to this problem:\n\n1+2\n\nFeedback on an earlier, wrong answer to it:\n\nis 2, not 3\n\n1,2=3:",
    None,  # The grader failed.
    None,  # It is the only right answer.
    "A correct answer to this problem:\n\n4\n\n4=4:",
    "Feedback on an earlier, wrong answer to it:\n\nis 9, not 8\n\n9=8:",
    None,  # There is no right answer, and nothing was said.
]
"""What is read before each of these answers."""


def test_an_answer_stands_behind_another_right_answer_and_the_words_on_a_wrong_one(encode: PromptEncoder) -> None:
    groups = groups_of(encode)
    found = FeedbackPrompts(encode, 512).behind(groups)
    shown = [moved and encode.shown(moved.prompt_tokens.tolist()) for moved in found]
    assert shown == PROMPTS
    for moved, before in zip(found, [t for group in groups for t in group.trajectories], strict=True):
        if moved:
            assert moved.tokens[moved.mask].tolist() == before.tokens[before.mask].tolist()
            assert moved.logp_sampler[moved.mask].tolist() == before.logp_sampler[before.mask].tolist()


def test_every_answer_of_a_group_of_equal_rewards_can_have_feedback(encode: PromptEncoder) -> None:
    right = group_of(encode, "1,2=3:", ("1+2", 1.0, ""), ("2+1", 1.0, ""))
    wrong = group_of(encode, "9=8:", ("9", 0.0, "is 9, not 8"), ("7", 0.0, "is 7, not 8"))
    assert all(FeedbackPrompts(encode, 512).behind([right, wrong]))


def test_an_answer_that_does_not_fit_behind_its_feedback_has_none(encode: PromptEncoder) -> None:
    needed = [
        len(prompt) + size if prompt else 0 for prompt, size in zip(PROMPTS, (3, 3, 3, 1, 1, 1, 1, 1), strict=True)
    ]
    for positions in (max(needed), max(needed) - 1):
        found = FeedbackPrompts(encode, positions).behind(groups_of(encode))
        assert [moved is not None for moved in found] == [0 < length <= positions for length in needed]


def test_long_words_of_a_verifier_are_cut_and_special_tokens_of_an_answer_are_left_out(encode: PromptEncoder) -> None:
    end = encode.special_tokens[0]
    group = group_of(encode, "1:", ("1", 0.0, "x" * 5_000), (f"a{end}b", 1.0, ""))
    [first, _] = FeedbackPrompts(encode, 10_000).behind([group])
    assert first is not None
    text = encode.shown(first.prompt_tokens.tolist())
    assert text.count("x") == REASON_CHARACTERS and "\n\nab\n" in text and end not in text


def test_in_a_chat_the_feedback_follows_the_problem_in_its_last_turn(encode: PromptEncoder) -> None:
    class Templated(PromptEncoder):
        templated = True

        def __init__(self) -> None:
            self.special_tokens = encode.special_tokens

        def all(self, prompts: object) -> list[list[int]]:
            seen.extend(prompts)  # type: ignore[call-overload]
            return [[5]] * len(prompts)  # type: ignore[arg-type]

    seen: list[Prompt] = []
    turns = ({"role": "system", "content": "s"}, {"role": "user", "content": "6=6:"})
    chat = Prompt(id="c", position=0, text="6=6:", messages=turns, verifier="", problem={})
    plain = Prompt(id="d", position=0, text="6=6:", verifier="", problem={})
    for prompt in (chat, plain):
        rows = tuple(answer(encode, plain, text, reward) for text, reward in (("6", 1.0), ("7", 0.0)))
        FeedbackPrompts(Templated(), 512).behind([Group(prompt=prompt, trajectories=rows)])
    expected = "6=6:\n\nA correct answer to this problem:\n\n6\n\nAnswer the problem correctly."
    assert seen[0].messages == (turns[0], {"role": "user", "content": expected})
    assert (seen[1].messages, seen[1].text) == ((), expected)


def scored(policy: Path, batch: Batch, groups: list[Group], encode: PromptEncoder) -> Anchors:
    references = References(
        {"teacher": {str(policy): 1.0}}, config=config_of(), dtype="float32", temperature=TEMPERATURE, device="cpu"
    )
    return Anchors(LocalReference(references), SDPO, ["teacher"], FeedbackPrompts(encode, 512))


def test_the_teacher_has_the_log_probs_of_the_answer_behind_its_feedback_and_else_those_of_the_sampler(
    tiny_policy: Path, encode: PromptEncoder
) -> None:
    groups = groups_of(encode)
    stored = answer(encode, groups[0].prompt, "1+2", 1.0)
    with_experience = replace(groups[0], experience=(replace(stored, route="experience"),))
    batch = pack([with_experience, *groups[1:]], [replace(stored, route="rehearse")])
    anchors = scored(tiny_policy, batch, groups, encode)
    found = asyncio.run(anchors.score(batch, groups)).anchors["teacher"]
    assert anchors.metrics == {"feedback_share": 5 / 8}
    model, ends = load_model(str(tiny_policy)), batch.lengths.cumsum(0)
    answers = [t for group in groups for t in group.trajectories]
    explored = (batch.route == ROUTES.index("explore")).nonzero().flatten().tolist()
    for row, prompt, trajectory in zip(explored, PROMPTS, answers, strict=True):
        size, end = trajectory.answer_length, int(ends[row])
        own = trajectory.tokens[-size:].tolist()
        expected = torch.full((size,), AS_POLICY)
        if prompt:
            before = encode(Prompt(id="", position=0, text=prompt, verifier="", problem={}))
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*before, *own]])).logits[0] / TEMPERATURE
            rows = logits[len(before) - 1 : -1].log_softmax(-1)
            expected = rows.gather(-1, torch.tensor(own)[:, None])[:, 0]
        torch.testing.assert_close(found[end - size : end], expected, rtol=1e-4, atol=1e-4)
    others = [row for row in range(len(ends)) if row not in explored]
    assert len(others) == 2 and found[torch.isin(batch.seq, torch.tensor(others))].isnan().all()


def test_without_any_feedback_nothing_is_scored(tiny_policy: Path, encode: PromptEncoder) -> None:
    groups = [group_of(encode, "4=4:", ("4", 1.0, ""), ("5", None, ""))]
    batch = pack(groups)
    anchors = scored(tiny_policy, batch, groups, encode)
    found = asyncio.run(anchors.score(batch, groups))
    assert (found.anchors["teacher"] == AS_POLICY).all()
    assert anchors.metrics == {"feedback_share": 0.0}
