"""Train a small policy from scratch on a task's own solutions, with the learner of a run.

The solutions are rehearsed answers of a reference that gives them probability 1. The objective is a divergence on
rehearsed answers alone; the forward KL to this reference is the cross entropy.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import plan_updates
from configs.coefficient import CoefficientConfig
from configs.config import Config
from configs.objective import ObjectiveConfig
from configs.policy import PolicyConfig
from configs.terms import TermConfig
from configs.warm_start import WarmStartConfig
from objectives.diagnostics import means
from orchestrator.preflight.named import check_new_policy
from orchestrator.rollout.encoding import PromptEncoder, answer_encoder
from orchestrator.stored.replay import right_answer
from tasks.characters import END, PADDING, SPECIAL, VOCABULARY_SIZE, save_tokenizer
from tasks.registry import build
from trajectories.batch import pack
from trajectories.trajectory import Trajectory


def supervised_objective(cfg: WarmStartConfig) -> ObjectiveConfig:
    """Return the objective: the divergence of the policy to the data, in nats per answer token."""
    term = TermConfig(
        name=cfg.divergence,
        alpha=cfg.alpha,
        route="rehearse",
        estimator="supervised",
        coefficient=CoefficientConfig(value=1.0),
    )
    return ObjectiveConfig(terms={"divergence": term}, reduction="token_mean")


def warm_start(cfg: Config, output: Path, progress: Callable[[int, float], None]) -> None:
    """Train a new policy and write it to `output` in bfloat16, with its tokenizer.

    Args:
        output: a new or empty directory, or a policy's, which is replaced.
        progress: called as progress(step, loss) after each step; loss is the divergence in nats per answer token.

    Raises:
        ValueError: the task has no solutions, or `output` holds other files than a policy.
    """
    check_new_policy(str(output))
    source = build(cfg.task, cfg.seed)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        make_policy(start, cfg.warm_start, cfg.seed, cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens)
        config = replace(cfg.learner, replicas=1, context_parallel=1)  # one rank
        learner = FsdpLearner(
            str(start),
            config=config,
            objective=supervised_objective(cfg.warm_start),
            dtype="float32",
            temperature=1.0,
            total_steps=cfg.warm_start.steps,
        )
        learner.join()
        policy = PolicyConfig(path=str(start))
        encode, encode_answer = PromptEncoder(policy), answer_encoder(policy)
        for step in range(cfg.warm_start.steps):
            positions = range(step * cfg.warm_start.batch, (step + 1) * cfg.warm_start.batch)
            demonstrations = [source.demonstration(position) for position in positions]
            rows = [_demonstration(encode(prompt), encode_answer(answer)) for prompt, answer in demonstrations]
            [updates] = plan_updates(pack([], rows), config, 1)
            progress(step + 1, means(learner.update(updates, {"divergence": 1.0}))["terms/divergence/value"])
        learner.save_policy(str(output), "bfloat16")
        save_tokenizer(output)


def make_policy(folder: Path, config: WarmStartConfig, seed: int, max_length: int) -> None:
    """Write a randomly initialised Qwen2 policy over bytes, with its tokenizer, to `folder`."""
    shape = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=max(1024, max_length),
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PADDING),
        eos_token_id=SPECIAL.index(END),
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(shape).save_pretrained(folder)
    save_tokenizer(folder)


def _demonstration(prompt: list[int], answer: list[int]) -> Trajectory:
    given = right_answer("", prompt, answer, "")
    return replace(given, route="rehearse", logp_reference=np.zeros(len(given.tokens), dtype=np.float32))
