"""Generator on transformers' `generate`: used in fast tests, and where vLLM cannot be installed.

Axes here: B answers of a decoding batch, T tokens, V vocabulary.
"""

import math
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from actors.contracts import Finished, GenerationJob, HostWeights, WeightsInfo
from actors.generation.answers import TrajectoryBuilder
from actors.generation.engine_thread import EngineThread
from actors.learning.policy import LOADING, load_model
from actors.weights.file_names import meta_in_files
from actors.weights.host import named_views
from configs.generator import GeneratorConfig

Answer = tuple[GenerationJob, int]
"""A job, and the sample index of one of its answers."""


class SeededSampling(LogitsProcessor):
    """Makes greedy decoding sample: draws each row's token by inverting its cumulative distribution at a random number
    of the row's own generator, and sets all other logits to -inf. Temperature 0 takes the most likely token.

    Args:
        job: its temperature, truncations and length limit.

    `generate`'s own sampling has one random generator per batch, so an answer would depend on the rows beside it.
    """

    def __init__(self, seeds: Sequence[int], job: GenerationJob) -> None:
        rows = [
            torch.rand(job.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        self.uniform = torch.stack(rows)  # [B, max_new_tokens]
        self.job = job
        self.logps: list[Tensor] = []
        """float32 [B] for each step so far: log-probs of the sampled tokens."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        logits = scores.float() / (self.job.temperature or 1.0)  # [B, V]
        logps = torch.log_softmax(truncated(logits, self.job), dim=-1)
        if self.job.temperature == 0:
            drawn = scores.argmax(-1, keepdim=True)  # [B, 1]
        else:
            cumulative = logps.double().exp().cumsum(-1)
            point = self.uniform[:, len(self.logps)].to(scores.device) * cumulative[:, -1]
            drawn = torch.searchsorted(cumulative, point[:, None], right=True).clamp(max=scores.shape[-1] - 1)
        self.logps.append(logps.gather(-1, drawn).squeeze(-1).cpu())
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


def truncated(logits: Tensor, job: GenerationJob) -> Tensor:
    """Return the logits [B, V] with -inf for the tokens that min_p, top_k and top_p leave out, in vLLM's order.

    The most likely token is always kept. Of equally likely tokens at the limit of top_k all are kept.
    """
    if job.min_p > 0:
        logps = torch.log_softmax(logits, dim=-1)
        logits = logits.masked_fill(logps < logps.amax(-1, keepdim=True) + math.log(job.min_p), -torch.inf)
    if 0 < job.top_k < logits.shape[-1]:
        least = logits.topk(job.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if job.top_p < 1:
        rising, order = logits.sort(dim=-1)
        # A token is left out if it and all less likely ones together have at most 1 - top_p.
        outside = torch.softmax(rising, dim=-1).cumsum(-1) <= 1 - job.top_p
        outside[:, -1] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits


class StopStrings(StoppingCriteria):
    """Ends the rows of a batch whose answer has a stop string.

    Args:
        width: tokens of the padded prompts, before the answers.
    """

    def __init__(self, builder: TrajectoryBuilder, stop: Sequence[str], width: int) -> None:
        self.builder, self.stop, self.width = builder, stop, width

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        answers = input_ids[:, self.width :].tolist()
        return torch.tensor([self.builder.ends(answer, self.stop) for answer in answers], device=input_ids.device)


class TransformersEngine:
    """Decodes fixed batches, one per step.

    A batch holds answers of one `submit` only, in order, at most `max_sequences`, with the same sampling settings.
    Batches therefore do not depend on timing, which makes runs repeatable bit for bit.
    """

    def __init__(self, policy_path: str, *, config: GeneratorConfig, dtype: str, max_length: int, device: str) -> None:
        self.builder = TrajectoryBuilder(policy_path, max_length=max_length)
        self.model = load_model(policy_path, getattr(torch, dtype)).to(device).eval()
        # Replace the directory's sampling settings: `generate` would apply them, such as a repetition penalty, and the
        # log-probs would not be the policy's.
        self.model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=self.builder.stop_ids, pad_token_id=self.builder.pad_id
        )
        self.device, self.max_sequences = device, config.max_sequences
        self.version = -1
        self._batches: deque[list[Answer]] = deque()
        self._info: WeightsInfo | None = None

    @property
    def busy(self) -> bool:
        return bool(self._batches)

    def submit(self, jobs: Sequence[GenerationJob]) -> None:
        for _, similar in groupby(jobs, key=_sampling_of):
            answers = [(job, index) for job in similar for index in range(len(job.seeds))]
            for start in range(0, len(answers), self.max_sequences):
                self._batches.append(answers[start : start + self.max_sequences])

    def step(self) -> list[Finished]:
        batch = self._batches.popleft()
        job = batch[0][0]
        width = max(len(job.prompt_tokens) for job, _ in batch)
        prompts = torch.full((len(batch), width), self.builder.pad_id)
        attention = torch.zeros_like(prompts)
        for row, (answer, _) in enumerate(batch):
            start = width - len(answer.prompt_tokens)
            prompts[row, start:] = torch.as_tensor(answer.prompt_tokens)
            attention[row, start:] = 1
        sampling = SeededSampling([job.seeds[i] for job, i in batch], job)
        tokens = self.model.generate(
            prompts.to(self.device),
            attention_mask=attention.to(self.device),
            max_new_tokens=job.max_new_tokens,
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([StopStrings(self.builder, job.stop, width)] if job.stop else []),
        )
        generated, logps = tokens[:, width:].tolist(), torch.stack(sampling.logps, dim=1).numpy()  # [B, T]
        return [self._finish(job, index, *row) for (job, index), *row in zip(batch, generated, logps, strict=True)]

    def _finish(self, job: GenerationJob, index: int, generated: list[int], logps: np.ndarray) -> Finished:
        """Build the answer's trajectory without the padding that follows its end."""
        possible = (n for n, token in enumerate(generated, start=1) if job.stop or token in self.builder.stop_ids)
        length = next((n for n in possible if self.builder.ends(generated[:n], job.stop)), len(generated))
        return self.builder.build(job, index, generated[:length], logps[:length], self.version, self.version)

    def declare(self, info: WeightsInfo) -> None:
        """Set what later `load`s contain. Raise ValueError if they are not the weights of this model's files."""
        own = {name: tuple(t.shape) for name, t in meta_in_files(self.model, self.model.dtype)}
        got = dict(zip(info.names, info.shapes, strict=True))
        if own != got:
            names = sorted(name for name in own.keys() | got.keys() if own.get(name) != got.get(name))
            raise ValueError(f"weights: must be the weights of {type(self.model).__name__}, got other {names}")
        self._info = info

    @torch.no_grad()
    def load(self, weights: HostWeights) -> None:
        assert self._info is not None
        parameters = dict(self.model.named_parameters())
        named = dict(named_views(self._info, weights.data))
        if named.keys() != parameters.keys():  # transformers converts the files' tensors when it loads a model
            model = type(self.model)
            with LOADING:
                loaded = model.from_pretrained(None, config=self.model.config, state_dict=named, dtype=self.model.dtype)
            named = dict(loaded.named_parameters())
        for name, parameter in parameters.items():
            parameter.copy_(named[name])
        self.version = weights.version

    def close(self) -> None:
        self._batches.clear()
        del self.model


def _sampling_of(job: GenerationJob) -> tuple[Any, ...]:
    return job.temperature, job.max_new_tokens, job.top_p, job.top_k, job.min_p, job.stop


class TransformersGenerator(EngineThread[TransformersEngine]):
    """Generator on `TransformersEngine`.

    Args:
        max_length: most tokens of a prompt and its answer together.

    Raises:
        ValueError: the policy cannot be used (see `TrajectoryBuilder`), or `tensor_parallel` is not 1.
    """

    def __init__(
        self,
        policy_path: str,
        *,
        config: GeneratorConfig,
        dtype: str,
        max_length: int,
        device: str = "cpu",
        tensor_parallel: int = 1,
    ) -> None:
        if tensor_parallel != 1:
            raise ValueError(f"placement.tensor_parallel: must be 1 for the transformers engine, got {tensor_parallel}")
        super().__init__(
            lambda: TransformersEngine(policy_path, config=config, dtype=dtype, max_length=max_length, device=device),
            max_length=max_length,
            timeout_s=config.timeout_s,
        )
