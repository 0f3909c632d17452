"""The block of finished answers: texts, stop tokens and arrays."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from actors.contracts import GenerationJob
from actors.generation.answers import AnswerBuilder
from rewards.mathematics.answer import verify
from tests.conftest import make_policy


@pytest.fixture
def thinking_policy(tmp_path: Path) -> Path:
    """A policy whose tokenizer has the tags of a thought as special tokens."""
    policy = make_policy(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(policy)
    return policy


@pytest.mark.parametrize(
    ("answer", "reward"),
    [(r"<think>\boxed{24}</think> I am not sure.", 0.0), (r"<think>so 24</think> \boxed{24}", 1.0)],
)
def test_the_verifier_sees_special_tokens_but_not_the_stop_token(
    thinking_policy: Path, answer: str, reward: float
) -> None:
    builder = AnswerBuilder(str(thinking_policy), max_length=128)
    tokens = builder.tokenizer(answer)["input_ids"]
    assert set(tokens) & set(builder.tokenizer.all_special_ids)
    job = GenerationJob(
        key="a",
        prompt_id="a",
        prompt_tokens=np.arange(3, 6, dtype=np.int32),
        seeds=(0,),
        temperature=1.0,
        max_new_tokens=64,
    )
    for generated, finish in ((tokens, "length"), ([*tokens, builder.stop_ids[0]], "stop")):
        row = np.array(generated)
        block = builder.finished([(job, 0)], [row], [np.zeros(len(row))], [0], 0)
        assert (block.texts, block.stopped.tolist()) == ([answer], [finish == "stop"])
        assert verify(block.texts[0], {"answer": "24"}).reward == reward
