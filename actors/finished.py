"""Finished: the message in which answers leave a generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How much a generator has to do, and how far it is, after one of its latest decoding steps.

    Example: EngineLoad(waiting=120, running=192, free_sequences=64, free_kv_tokens=81920,
    tokens=1350000)
    """

    waiting: int = 0
    """Answers that have been submitted and have not started."""
    running: int = 0
    """Answers that are being decoded."""
    free_sequences: int = 0
    """Answers that the engine could decode besides (`generator.max_sequences`)."""
    free_kv_tokens: int = 0
    """Tokens that the free key-value memory holds. Cached prompts that no answer uses count as free."""
    tokens: int = 0
    """Tokens generated since the engine's start, those of unfinished answers too: it grows while the engine works."""
    asleep: bool = False
    """Whether it sleeps, and so generates no token until it is woken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Finished answers as one block: arrays that hold the generated tokens of all answers end to end. What the receiver
    knows, such as the prompt's tokens, does not travel. Axes: B answers, M generated tokens of all of them.

    Example: Finished(keys=["train/7", "train/7"], sample_index=[3, 0], tokens=[8, 1, 5], logps=[-0.4, -1.1, -2.0],
    ends=[2, 3], first_version=[12, 12], last_version=[12, 12], stopped=[True, False], texts=["3", "7"])
    """

    keys: Sequence[str]
    """[B]: key of the `GenerationJob` of each answer."""
    sample_index: np.ndarray
    """int32 [B]: index of each answer in its group."""
    tokens: np.ndarray
    """int32 [M]: generated tokens, each answer's stop token included."""
    logps: np.ndarray
    """float32 [M], nats: log-prob of each token at the sampling temperature; 0 at temperature 0."""
    ends: np.ndarray
    """int64 [B]: end of each answer in `tokens`, which is the start of the next."""
    first_version: np.ndarray
    last_version: np.ndarray
    """int32 [B]: weight versions that sampled the first and the last token."""
    stopped: np.ndarray
    """bool [B]: True where a stop token or a stop string ended the answer, and not the length limit."""
    texts: Sequence[str]
    """[B]: the answers, decoded with their special tokens, but without the stop token that ends them."""
    load: EngineLoad = EngineLoad()
    """Set by `Generator.collect`."""

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def joined(blocks: Sequence["Finished"]) -> "Finished":
        """Return one block with the answers of all `blocks`, in order."""
        before = np.cumsum([0, *(len(block.tokens) for block in blocks)])
        ends = [block.ends + start for block, start in zip(blocks, before, strict=False)]
        return Finished(
            keys=[key for block in blocks for key in block.keys],
            sample_index=_end_to_end([block.sample_index for block in blocks], np.int32),
            tokens=_end_to_end([block.tokens for block in blocks], np.int32),
            logps=_end_to_end([block.logps for block in blocks], np.float32),
            ends=_end_to_end(ends, np.int64),
            first_version=_end_to_end([block.first_version for block in blocks], np.int32),
            last_version=_end_to_end([block.last_version for block in blocks], np.int32),
            stopped=_end_to_end([block.stopped for block in blocks], np.bool_),
            texts=[text for block in blocks for text in block.texts],
        )


def _end_to_end(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
