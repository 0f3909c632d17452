"""Shared by both engines: stop tokens, and conversion of a finished completion to a Trajectory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, GenerationConfig

from actors.contracts import Finished, GenerationJob
from actors.learning.policy import load_tokenizer
from trajectories.trajectory import Trajectory


class TrajectoryBuilder:
    """Builds trajectories from generated tokens. `stop_ids` are the tokens that end an answer.

    Args:
        max_length: most tokens of a prompt and its answer together.

    Raises:
        ValueError: `policy.path` is missing, its tokenizer has no EOS token that the model can generate, or the model
            has fewer than `max_length` positions.
    """

    def __init__(self, policy_path: str, *, max_length: int) -> None:
        self.tokenizer: Any = load_tokenizer(policy_path)
        config = AutoConfig.from_pretrained(policy_path, local_files_only=True)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and positions < max_length:
            raise ValueError(
                f"policy.path: its model must hold max_prompt_tokens + max_new_tokens = {max_length} tokens, "
                f"got max_position_embeddings {positions}"
            )
        if (Path(policy_path) / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(policy_path, local_files_only=True)
        else:
            generation = GenerationConfig.from_model_config(config)
        declared = generation.eos_token_id
        listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
        self.stop_ids: list[int] = sorted({self.tokenizer.eos_token_id, *listed})
        vocabulary = config.get_text_config().vocab_size
        if self.stop_ids[-1] >= vocabulary:
            raise ValueError(
                f"policy.path: its EOS tokens must be in its model's vocabulary of {vocabulary}, got {self.stop_ids}"
            )
        pad = self.tokenizer.pad_token_id
        usable = pad is not None and 0 <= pad < vocabulary  # the model may not have the padding token
        self.pad_id: int = pad if usable else self.tokenizer.eos_token_id

    def ends(self, generated: Sequence[int], stop: Sequence[str]) -> bool:
        """Return whether the last token of an answer is a stop token, or the last tokens have a stop string."""
        if generated[-1] in self.stop_ids or not stop:
            return generated[-1] in self.stop_ids
        # A token may be one byte, or part of the text before the stop string.
        longest = max(len(text.encode()) for text in stop) + 8
        text = self.tokenizer.decode(list(generated[-longest:]), skip_special_tokens=False)
        return any(string in text for string in stop)

    def build(
        self,
        job: GenerationJob,
        index: int,
        generated: Sequence[int],
        logps: Sequence[float] | np.ndarray,
        first_version: int,
        last_version: int,
    ) -> Finished:
        """Build the trajectory of one answer. Its text has all special tokens but the stop token that ends it: a policy
        may write tags such as `<think>` as special tokens, and the verifier must see them.

        Args:
            index: sample index of the answer in its group.
            generated: sampled tokens, including the stop token if one was sampled.
            logps: log-prob of each sampled token, at the sampling temperature. Not used at temperature 0, where every
                log-prob is 0: greedy decoding gives its token probability 1.
            first_version, last_version: weight versions that sampled the first and the last token.
        """
        start, stopped = len(job.prompt_tokens), generated[-1] in self.stop_ids
        finished = self.ends(generated, job.stop)
        tokens = np.concatenate([job.prompt_tokens, np.asarray(generated)]).astype(np.int32)
        logp_sampler = np.zeros(len(tokens), dtype=np.float32)
        if job.temperature > 0:
            logp_sampler[start:] = logps
        trajectory = Trajectory(
            prompt_id=job.prompt_id,
            sample_index=index,
            tokens=tokens,
            mask=np.arange(len(tokens)) >= start,
            logp_sampler=logp_sampler,
            first_version=first_version,
            last_version=last_version,
            finish_reason="stop" if finished else "length",
            seed=job.seeds[index],
            text=_up_to_stop(
                self.tokenizer.decode(list(generated[:-1] if stopped else generated), skip_special_tokens=False),
                job.stop,
            ),
        )
        return Finished(key=job.key, trajectory=trajectory)


def _up_to_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the end of the first stop string in it."""
    ends = [text.find(string) + len(string) for string in stop if string in text]
    return text[: min(ends, default=len(text))]
