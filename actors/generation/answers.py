"""Shared by both engines: stop tokens and stop strings, and the block of finished answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoConfig, GenerationConfig

from actors.contracts import GenerationJob
from actors.finished import Finished
from actors.policy_files.folder import policy_folder
from actors.policy_files.reading import load_tokenizer

Answer = tuple[GenerationJob, int]
"""A job, and the sample index of one of its answers."""


class AnswerBuilder:
    """Decodes generated tokens and decides where answers end. `stop_ids` are the tokens that end an answer.

    Args:
        max_length: most tokens of a prompt and its answer together.

    Raises:
        ValueError: `policy.path` is missing, its tokenizer has no EOS token that the model can generate, or the model
            has fewer than `max_length` positions.
    """

    def __init__(self, policy_path: str, *, max_length: int) -> None:
        self.tokenizer: Any = load_tokenizer(policy_path)
        folder = policy_folder(policy_path)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and positions < max_length:
            raise ValueError(
                f"policy.path: its model must hold max_prompt_tokens + max_new_tokens = {max_length} tokens, "
                f"got max_position_embeddings {positions}"
            )
        if (folder / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
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

    def ends(self, generated: Sequence[int] | np.ndarray, stop: Sequence[str]) -> bool:
        """Return whether the last token of an answer is a stop token, or the last tokens have a stop string."""
        if generated[-1] in self.stop_ids or not stop:
            return generated[-1] in self.stop_ids
        # A token may be one byte, or part of the text before the stop string.
        longest = max(len(text.encode()) for text in stop) + 8
        text = self.tokenizer.decode(list(generated[-longest:]), skip_special_tokens=False)
        return any(string in text for string in stop)

    def finished(
        self,
        answers: Sequence[Answer],
        tokens: Sequence[np.ndarray],
        logps: Sequence[np.ndarray],
        first_versions: Sequence[int] | np.ndarray,
        last_version: int,
    ) -> Finished:
        """Return a block of answers. Texts have all special tokens but the stop token that ends them: a policy may
        write tags such as `<think>` as special tokens, and the verifier must see them.

        Args:
            answers: the job and the sample index of each answer.
            tokens: sampled tokens of each answer, including the stop token if one was sampled.
            logps: log-prob of each sampled token at the sampling temperature. Not used at temperature 0, where every
                log-prob is 0: greedy decoding gives its token probability 1.
            first_versions: weight version that sampled the first token of each answer.
            last_version: weight version that sampled the last token of all.
        """
        lengths = np.fromiter(map(len, tokens), np.int64, len(answers))
        ends, flat = lengths.cumsum(), np.concatenate(tokens).astype(np.int32, copy=False)
        greedy = np.array([job.temperature == 0 for job, _ in answers])
        stopped = np.isin(flat[ends - 1], self.stop_ids)
        shown = [row[:-1] if cut else row for row, cut in zip(tokens, stopped.tolist(), strict=True)]
        texts = self.tokenizer.batch_decode(shown, skip_special_tokens=False)
        for i, (job, _) in enumerate(answers):
            if job.stop:
                stopped[i] = self.ends(tokens[i], job.stop)
                texts[i] = _up_to_stop(texts[i], job.stop)
        return Finished(
            keys=[job.key for job, _ in answers],
            sample_index=np.array([index for _, index in answers], np.int32),
            tokens=flat,
            logps=np.where(greedy.repeat(lengths), 0, np.concatenate(logps)).astype(np.float32, copy=False),
            ends=ends,
            first_version=np.array(first_versions, np.int32),
            last_version=np.full(len(answers), last_version, np.int32),
            stopped=stopped,
            texts=texts,
        )


def _up_to_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the end of the first stop string in it."""
    ends = [text.find(string) + len(string) for string in stop if string in text]
    return text[: min(ends, default=len(text))]
