"""Mean hidden states and log-probs of prompts against a plain forward pass; and a policy that has seen some prompts."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy_files.reading import load_model
from orchestrator.inspection.contamination import frequencies, score_all, separation
from orchestrator.inspection.prompt_sets import Frame, shared_frame
from orchestrator.inspection.reading import Reading, load_reader, read
from tasks.characters import VOCABULARY_SIZE
from tests.orchestrator.in_process import config

PROMPTS = [[5, 6, 40, 41, 42, 9], [5, 6, 43, 9], [5, 6, 44, 45, 46, 47, 48, 9], [5, 6, 44, 45, 9]]


def reading(policy: Path, prompts: list[list[int]], frame: Frame, *, budget: int = 100, layout: str = "pad") -> Reading:
    return read(load_reader(config(policy, Path("runs"), f"learner.layout={layout}")), prompts, frame, budget)


@pytest.mark.parametrize("frame", [Frame(begin=2, end=1), Frame(begin=0, end=0), Frame(begin=1, end=0)])
def test_hidden_states_and_logps_are_those_of_a_plain_forward_pass(frame: Frame, tiny_policy: Path) -> None:
    found, model = reading(tiny_policy, PROMPTS, frame), load_model(str(tiny_policy))
    for index, prompt in enumerate(PROMPTS):
        tokens, end = torch.tensor([prompt]), len(prompt) - frame.end
        with torch.no_grad():
            states = model.base_model(input_ids=tokens).last_hidden_state[0]
            logp = model(input_ids=tokens).logits[0].log_softmax(-1)
        np.testing.assert_allclose(found.embeddings[index], states[frame.begin : end].mean(0), rtol=1e-4, atol=1e-4)
        scored = range(max(frame.begin, 1), end)
        np.testing.assert_allclose(found.logps[index], [logp[t - 1, prompt[t]] for t in scored], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("budget", "layout"), [(1, "pad"), (12, "pad"), (12, "varlen"), (12, "pack")])
def test_microbatches_change_nothing(budget: int, layout: str, tiny_policy: Path) -> None:
    frame, done = Frame(begin=2, end=1), []
    one = reading(tiny_policy, PROMPTS, frame)
    policy = load_reader(config(tiny_policy, Path("runs"), f"learner.layout={layout}", "learner.token_budget=4096"))
    other = read(policy, PROMPTS, frame, budget, done.append)
    np.testing.assert_allclose(one.embeddings, other.embeddings, rtol=1e-4, atol=1e-4)
    for left, right in zip(one.logps, other.logps, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
    assert sum(done) == len(PROMPTS) and len(done) > 1


def test_a_prompt_of_one_token_has_a_hidden_state_and_no_logp(tiny_policy: Path) -> None:
    found = reading(tiny_policy, [[7], [8, 9]], Frame(begin=0, end=0))
    assert [len(logp) for logp in found.logps] == [0, 1]
    assert np.isfinite(found.embeddings).all() and np.abs(found.embeddings[0]).max() > 0


@pytest.mark.parametrize(
    ("rows", "begin", "end"),
    [
        (PROMPTS, 2, 1),
        ([[1, 2], [1, 2]], 0, 0),  # equal prompts: nothing distinguishes them from a frame
        ([[1, 2, 3]], 0, 0),
        ([[1, 2], [1, 2, 2]], 1, 0),  # every prompt keeps a token
        ([[1, 2, 2], [1, 2]], 1, 0),
        ([[4, 1, 9], [4, 2, 9]], 1, 1),
        ([[1], [2, 1]], 0, 0),
    ],
)
def test_the_frame_is_what_all_prompts_begin_and_end_with(rows: list[list[int]], begin: int, end: int) -> None:
    frame = shared_frame(rows)
    assert (frame.begin, frame.end) == (begin, end)
    assert all(frame.inner(row) for row in rows)


def test_a_policy_that_was_trained_on_prompts_gives_them_a_higher_score_than_fresh_ones(tiny_policy: Path) -> None:
    random_ = random.Random(0)
    seen, fresh = ([[random_.randint(100, 125) for _ in range(12)] for _ in range(24)] for _ in range(2))
    policy, frame = load_reader(config(tiny_policy, Path("runs"))), Frame(begin=0, end=0)

    def higher() -> float:
        frequency = frequencies([*seen, *fresh], VOCABULARY_SIZE)
        of_seen, of_fresh = (
            score_all(rows, read(policy, rows, frame, 1000).logps, frequency, clip=0.01)[0] for rows in (seen, fresh)
        )
        found = separation(of_seen, of_fresh)
        assert found is not None
        return found.value

    before = higher()
    model, tokens = policy.model.requires_grad_(True), torch.tensor(seen)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert before < 0.6
    assert higher() > 0.95
