"""The policy of `make smollm`, a real language model: tied embeddings, grouped heads, 49,152 tokens, a chat template.

`make runs/smollm/policy` makes it. Where it is not, these tests are skipped.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from actors.contracts import GenerationJob
from actors.generation.answers import AnswerBuilder
from actors.learning.learner import FsdpLearner
from actors.local import LocalLearner
from actors.policy_files.reading import load_tokenizer
from actors.policy_files.writing import check_saving
from configs.learner import LearnerConfig
from configs.load import load
from configs.objective import ObjectiveConfig
from configs.policy import PolicyConfig
from objectives.diagnostics import means
from orchestrator.rollout.encoding import PromptEncoder, answer_encoder
from tasks.registry import build
from tasks.word_problems import WordProblems, WordProblemsOptions
from tests.actors.generation.collected import Keyed, collect
from tests.actors.generation.generator_process import GeneratorServer
from tests.actors.learning.learner_ranks import assert_equal, parameters_of, save, weights_of
from tests.actors.random_batch import credited
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "runs" / "smollm" / "policy"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (POLICY / "config.json").is_file(), reason="make runs/smollm/policy makes the policy"),
]
CHAT = PolicyConfig(path=str(POLICY), chat_template=True)
TEMPERATURE = 0.7
END = 2
"""`<|im_end|>`, which ends a turn."""


def demonstrations(count: int) -> list[tuple[list[int], list[int]]]:
    """Tokens of word problems in the chat template, and of right answers to them."""
    source, encode, encode_answer = WordProblems(WordProblemsOptions(), 0), PromptEncoder(CHAT), answer_encoder(CHAT)
    found = (source.demonstration(position) for position in range(count))
    return [(encode(prompt), encode_answer(answer)) for prompt, answer in found]


def batch_of_demonstrations(count: int = 4) -> Batch:
    """Right answers, of which every other one is rewarded: pairs are groups."""
    rows = []
    for index, (prompt, answer) in enumerate(demonstrations(count)):
        mask = np.arange(len(prompt) + len(answer)) >= len(prompt)
        rows.append(
            Trajectory(
                prompt_id="p", sample_index=index, tokens=np.array(prompt + answer, dtype=np.int32), mask=mask,
                logp_sampler=-1 * mask.astype(np.float32), first_version=0, last_version=0, finish_reason="stop",
                seed=index, text="", route="explore", grade=Grade(reward=float(index % 2), status="correct"),
            )
        )  # fmt: skip
    prompt = WordProblems(WordProblemsOptions(), 0).prompt(0)
    groups = [Group(prompt=prompt, trajectories=tuple(rows[i : i + 2])) for i in range(0, count, 2)]
    return credited(pack(groups), ObjectiveConfig())


def joined(dtype: str = "float32") -> LocalLearner:
    config = LearnerConfig(learning_rate=1e-4, token_budget=512)
    learner = FsdpLearner(
        str(POLICY), config=config, objective=ObjectiveConfig(), dtype=dtype, temperature=TEMPERATURE, total_steps=1
    )
    learner.join()
    return LocalLearner(learner, checksum=True)


@pytest.fixture(scope="module")
def updated() -> LocalLearner:
    """A learner in float32 after one update."""
    learner = joined()
    stats = means(asyncio.run(learner.update(batch_of_demonstrations(), {})))
    assert stats["skipped_updates"] == 0 and stats["grad_norm"] > 0
    return learner


def logp_of_transformers(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probs of the tokens after the first at TEMPERATURE, float32 [n - 1]."""
    with torch.no_grad():
        logits = model(input_ids=tokens[None].long()).logits[0, :-1].float() / TEMPERATURE
    return logits.log_softmax(-1).gather(1, tokens[1:, None].long()).squeeze(1)


def test_the_policy_is_an_ordinary_folder_in_bfloat16_with_its_licence() -> None:
    config, model = AutoConfig.from_pretrained(POLICY), AutoModelForCausalLM.from_pretrained(POLICY)
    assert not hasattr(config, "quantization_config") and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert config.tie_word_embeddings and (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert config.vocab_size == 49_152 and "Apache License" in (POLICY / "LICENSE").read_text()


def test_text_survives_the_tokenizer_and_the_saved_tokenizer_is_the_same() -> None:
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    for text in (
        "14 + 23 = 37. The answer is 37.",
        "  Two  spaces,\n\na tab\tand 1,000.5",
        "Café 日本 🙂 <b>&amp;",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    check_saving(str(POLICY), load_tokenizer(str(POLICY)))


def test_a_prompt_is_one_user_turn_and_an_answer_ends_in_the_token_that_stops_generation() -> None:
    tokenizer, (prompt, answer) = AutoTokenizer.from_pretrained(POLICY), demonstrations(1)[0]
    text = tokenizer.decode(prompt)
    assert text.startswith("<|im_start|>system\n") and text.count("<|im_start|>user\nSolve the last problem") == 1
    assert text.endswith("A:<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(answer) == "6 + 44 = 50. The answer is 50.<|im_end|>"
    assert answer[-1] == END and AnswerBuilder(str(POLICY), max_length=256).stop_ids == [END]


def test_the_settings_of_make_smollm_hold_every_prompt_and_right_answer() -> None:
    cfg = load(file=str(ROOT / "benchmarks" / "smollm" / "config.yaml"))
    source, encode, encode_answer = build(cfg.task, cfg.seed), PromptEncoder(CHAT), answer_encoder(CHAT)
    for position in range(cfg.steps * cfg.groups_per_step):
        prompt, answer = source.demonstration(position)
        assert len(encode(prompt)) <= cfg.sampling.max_prompt_tokens
        assert len(encode_answer(answer)) <= cfg.sampling.max_new_tokens


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-4), ("bfloat16", 0.5)])
def test_log_probs_of_the_learner_are_those_of_transformers(dtype: str, atol: float) -> None:
    learner, batch = joined(dtype), batch_of_demonstrations()
    scored = asyncio.run(learner.score(batch))
    assert scored.logp_old is not None
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    for index in range(len(batch.route)):
        rows = batch.seq == index
        expected = logp_of_transformers(model, batch.tokens[rows])[batch.mask[rows][1:]]
        torch.testing.assert_close(scored.logp_old[rows & batch.mask], expected, rtol=0, atol=atol)


def test_a_checkpoint_loads_in_transformers_with_the_learners_weights(updated: LocalLearner, tmp_path: Path) -> None:
    save(updated.learner, tmp_path)
    folder = tmp_path / "policy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_equal(parameters_of(model), weights_of(updated.learner))
    before = AutoTokenizer.from_pretrained(POLICY)
    assert (tokenizer.chat_template, tokenizer.eos_token_id) == (before.chat_template, END)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def asked(text: str) -> Prompt:
    return Prompt(id=text, position=0, text=text, verifier="math", problem={})


@pytest.mark.ray
def test_log_probs_of_vllm_are_those_of_the_updated_learner_and_answers_end_in_the_stop_token(
    updated: LocalLearner, vllm: GeneratorServer
) -> None:
    generator = vllm.fork().build(POLICY, max_sequences=16)
    encode = PromptEncoder(CHAT)
    texts = ("What is the capital of France?", "Say hello.")
    jobs = [
        GenerationJob(
            key=text, prompt_id=text, prompt_tokens=np.array(encode(asked(text)), dtype=np.int32), seeds=(1, 2, 3, 4),
            temperature=TEMPERATURE, max_new_tokens=48,
        )
        for text in texts
    ]  # fmt: skip

    async def answers() -> Keyed:
        await updated.connect([generator])
        await updated.publish(1)
        await generator.submit(jobs)
        return await collect(generator, jobs, 8)

    try:
        trajectories = [one for _, one in asyncio.run(answers())]
    finally:
        asyncio.run(generator.close())
    stopped = [one for one in trajectories if one.finish_reason == "stop"]
    assert stopped and all(one.tokens[-1] == END and "<|im_end|>" not in one.text for one in stopped)
    assert all(END not in one.tokens[one.mask][:-1] for one in trajectories)
    model = updated.learner.policy.model
    for one in trajectories:
        expected = logp_of_transformers(model, torch.from_numpy(one.tokens))[one.mask[1:]]
        torch.testing.assert_close(torch.from_numpy(one.logp_sampler[one.mask]), expected, rtol=0, atol=2e-3)
