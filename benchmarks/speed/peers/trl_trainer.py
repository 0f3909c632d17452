"""Train with TRL's GRPOTrainer on a task of Breadth: same policy files, prompts, group size, batch and reward.

    .venv-trl/bin/python -m benchmarks.speed.peers.trl_trainer PROGRESS SETTINGS

PROGRESS is the file that gets one line of JSON after each optimizer step. SETTINGS is JSON; `Settings` has the fields.
The working directory is the repository. Training goes on until the process is ended.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import datasets
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from configs.task import TaskConfig
from rewards.registry import VERIFIERS
from tasks.registry import build

PROMPTS = 8_192
"""Prompts of the dataset; more than any measurement uses."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one training run. The defaults are those of `breadth train scale=cpu`."""

    policy: str = "tasks/base_policies/countdown"
    task: str = "countdown"
    prompts: int = 32
    """Prompts per step."""
    answers: int = 16
    """Answers per prompt."""
    new_tokens: int = 16
    """Longest answer, in tokens."""
    learning_rate: float = 3e-4
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the task."""
    reward: str = ""
    """`path/to/file.py:function` of a TRL reward function; empty: the task's verifier."""


def rewards_of(task: Any, name: str) -> Callable[..., list[float]]:
    """Return the reward function `name`, or one that calls the verifier of the task in this process."""
    if name:
        file, function = name.rsplit(":", 1)
        sys.path.insert(0, str(Path(file).parent))
        return getattr(importlib.import_module(Path(file).stem), function)  # type: ignore[no-any-return]
    module, function = VERIFIERS[task.prompt(0).verifier].path.split(":")
    verify = getattr(importlib.import_module(module), function)

    def reward(completions: list[str], position: list[int], **columns: Any) -> list[float]:
        problems = [task.prompt(p).problem for p in position]
        return [verify(text, problem).reward for text, problem in zip(completions, problems, strict=True)]

    return reward


class Progress(TrainerCallback):
    """Writes one line per optimizer step."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "a", buffering=1)  # noqa: SIM115  (closed at the end of the process)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.file.write(json.dumps({"step": state.global_step, "time": time.time()}) + "\n")


def main(progress: str, values: Mapping[str, Any]) -> None:
    settings = Settings(**values)
    task = build(TaskConfig(name=settings.task, options=settings.options), seed=0)
    rows = [{"prompt": task.prompt(i).text, "position": i} for i in range(PROMPTS)]
    batch = settings.prompts * settings.answers
    config = GRPOConfig(
        output_dir=str(Path(progress).parent / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # on by default; off is faster, and the memory suffices
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_generations=settings.answers,
        max_completion_length=settings.new_tokens,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        max_steps=1_000_000,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        model_init_kwargs={"dtype": torch.float32, "local_files_only": True},
    )
    trainer = GRPOTrainer(
        model=settings.policy,
        reward_funcs=rewards_of(task, settings.reward),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        callbacks=[Progress(progress)],
    )
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
