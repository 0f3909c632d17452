"""Generator on a model of transformers: used in tests, for small policies, and where vLLM cannot be installed.

Axes here: R rows of the decoding batch, P prompts, T tokens, V vocabulary.
"""

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from actors.contracts import GenerationJob, HostWeights, WeightsInfo
from actors.finished import EngineLoad, Finished
from actors.generation.answers import Answer, AnswerBuilder
from actors.generation.engine_limits import MOST_ROWS, PROMPT_TOKENS
from actors.generation.engine_thread import EngineThread
from actors.generation.grouped_attention import use_grouped_attention
from actors.generation.key_values import Caches
from actors.generation.sampling import draw, uniform
from actors.policy_files.reading import from_files, load_model
from actors.weights.file_names import meta_in_files
from actors.weights.host import info_of, named_views, span
from configs.generator import GeneratorConfig

REFILL = 4
"""New answers start when one row in REFILL is free, so that few steps compute prompts."""

PER_ROW = ("seeds", "starts", "versions", "lengths", "tokens", "logps")
"""Arrays of `Rows` whose first axis is the row."""


class Rows:
    """The answers that are being decoded, one per row, all with the same sampling settings.

    Args:
        answers: a job and a sample index for each row.
        starts: int64 [R], column of the key-value cache with the first token of each row's prompt.
        version: weight version that samples the first tokens.
    """

    def __init__(self, answers: Sequence[Answer], starts: np.ndarray, version: int) -> None:
        count, width = len(answers), answers[0][0].max_new_tokens
        self.answers, self.starts = list(answers), starts
        self.seeds = np.array([job.seeds[index] for job, index in answers], np.int64)
        self.versions = np.full(count, version, np.int32)
        self.lengths = np.zeros(count, np.int64)
        """int64 [R]: tokens sampled so far."""
        self.tokens = np.zeros((count, width), np.int32)
        self.logps = np.zeros((count, width), np.float32)

    def __len__(self) -> int:
        return len(self.answers)

    def add(self, other: "Rows") -> None:
        """Append the rows of `other`."""
        self.answers += other.answers
        for name in PER_ROW:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))

    def keep(self, order: np.ndarray) -> None:
        """Make row `order[i]` the i-th row, and drop the others."""
        self.answers = [self.answers[i] for i in order.tolist()]
        for name in PER_ROW:
            setattr(self, name, getattr(self, name)[order])


class TransformersEngine:
    """Continuous batching: finished answers leave the batch at every step, and waiting ones take their places.

    The prompt of a group is computed once. A batch holds answers of one `submit` only, in order, at most
    `max_sequences`, with the same sampling settings. Batches therefore do not depend on timing, which makes runs
    repeatable bit for bit.

    Args:
        mixed_with: directory of a second policy, which jobs with a `mixture` sample from too; it keeps its weights.

    Raises:
        ValueError: the second policy has another vocabulary.
    """

    def __init__(
        self,
        policy_path: str,
        *,
        config: GeneratorConfig,
        dtype: str,
        max_length: int,
        device: str,
        mixed_with: str = "",
    ) -> None:
        self.builder = AnswerBuilder(policy_path, max_length=max_length)
        paths = [policy_path, mixed_with] if mixed_with else [policy_path]
        self.models = [load_model(path, getattr(torch, dtype)).to(device).eval() for path in paths]
        """The policy, and the second one."""
        self.model = self.models[0]
        for model in self.models:
            use_grouped_attention(model)
        sizes = [model.config.get_text_config().vocab_size for model in self.models]
        if len(set(sizes)) > 1:
            raise ValueError(f"sampling.mixed_with: must be a policy with the same vocabulary, got sizes {sizes}")
        self.device, self.max_sequences, self.max_length = device, config.max_sequences or MOST_ROWS, max_length
        self.version, self.finished_tokens = -1, 0
        self._queue: deque[deque[Answer]] = deque()
        """Answers that have not started. Those of the first element may join the rows."""
        self._rows: Rows | None = None
        self._caches: Caches | None = None
        """Those of the models which the rows are sampled from."""
        self._info: WeightsInfo | None = None
        self.updating, self._pieces = False, dict[str, Tensor]()

    @property
    def busy(self) -> bool:
        return not self.updating and (self._rows is not None or bool(self._queue))

    def submit(self, jobs: Sequence[GenerationJob]) -> None:
        for _, similar in groupby(jobs, key=_sampling_of):
            self._queue.append(deque((job, index) for job in similar for index in range(len(job.seeds))))

    def workload(self) -> EngineLoad:
        running = 0 if self._rows is None else len(self._rows)
        unfinished = 0 if self._rows is None else int(self._rows.lengths.sum())
        return EngineLoad(
            waiting=sum(map(len, self._queue)),
            running=running,
            free_sequences=self.max_sequences - running,
            free_kv_tokens=(self.max_sequences - running) * self.max_length,
            tokens=self.finished_tokens + unfinished,
        )

    @torch.inference_mode()
    def step(self) -> Finished | None:
        rows = self._rows
        if rows is None:
            return self._start(self.max_sequences)
        assert self._caches is not None
        free, waiting = self.max_sequences - len(rows), len(self._queue[0])
        if waiting and self._caches.joins and free >= min(waiting, self.max_sequences / REFILL):
            return self._start(free)
        rows.starts -= self._caches.make_room(rows.starts)
        last = torch.from_numpy(rows.tokens[np.arange(len(rows)), rows.lengths - 1]).long()
        positions = self._caches.length - torch.from_numpy(rows.starts)[:, None]
        return self._sample(0, self._forward(last[:, None], positions, self._caches.pasts))

    def _start(self, free: int) -> Finished | None:
        """Compute the prompts of at most `free` waiting answers, and sample the first token of each."""
        waiting, answers, jobs, width = self._queue[0], list[Answer](), dict[str, GenerationJob](), 0
        while waiting and len(answers) < free:
            job = waiting[0][0]
            width = max(width, len(job.prompt_tokens))
            if answers and len(jobs.keys() | {job.key}) * width > PROMPT_TOKENS:
                break
            jobs[job.key] = job
            answers.append(waiting.popleft())
        lengths = np.array([len(job.prompt_tokens) for job in jobs.values()])
        tokens = torch.full((len(jobs), lengths.max()), self.builder.pad_id)
        for row, job in zip(tokens, jobs.values(), strict=True):
            row[len(row) - len(job.prompt_tokens) :] = torch.as_tensor(job.prompt_tokens)
        models = self.models if answers[0][0].mixture else self.models[:1]
        pasts = [DynamicCache(config=model.config) for model in models]
        positions = torch.arange(lengths.max()) - torch.from_numpy(lengths.max() - lengths)[:, None]
        logits = self._forward(tokens, positions, pasts)

        place = {key: i for i, key in enumerate(jobs)}
        source = np.array([place[job.key] for job, _ in answers])  # index of each answer's prompt
        at = torch.from_numpy(source).to(self.device)
        if self._caches is None or len(self._caches.pasts) != len(pasts):
            self._caches = Caches(pasts)
        before = np.zeros(0, np.int64) if self._rows is None else self._rows.starts
        most = min(len(before) + len(answers) + len(waiting), self.max_sequences)
        moved = self._caches.join(pasts, at, most, before)
        new = Rows(answers, self._caches.length - lengths[source], self.version)
        if self._rows is None:
            self._rows = new
        else:
            self._rows.starts -= moved
            self._rows.add(new)
        return self._sample(len(self._rows) - len(new), [each[at] for each in logits])

    def _forward(self, tokens: Tensor, positions: Tensor, pasts: Sequence[Any]) -> list[Tensor]:
        """Return the logits float32 [R, V] that follow the last of these tokens, by the first models of the engine.

        Args:
            tokens: int64 [R, T].
            positions: int64 [R, T], position of each token in its row; negative for padding.
            pasts: the key-value cache of each of these models, to which the tokens are added.
        """
        end = pasts[0].get_seq_length() + tokens.shape[1]
        seen = torch.arange(end) >= end - 1 - positions[:, -1:]  # bool [R, columns]: False in the padding
        outputs = (
            model(
                input_ids=tokens.to(self.device),
                attention_mask=seen.to(self.device),
                position_ids=positions.clamp(min=0).to(self.device),
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            for model, past in zip(self.models, pasts, strict=False)
        )
        return [output.logits[:, -1].float() for output in outputs]

    def _sample(self, first: int, logits: Sequence[Tensor]) -> Finished | None:
        """Sample a token for each row from `first` on, and remove the rows that end with it.

        Args:
            logits: float32 [rows from `first` on, V], by each model that the rows are sampled from.
        """
        rows = self._rows
        assert rows is not None and self._caches is not None
        at = rows.lengths[first:]
        job = rows.answers[0][0]
        drawn, logps = (t.cpu().numpy() for t in draw(logits[0], uniform(rows.seeds[first:], at), job, *logits[1:]))
        places = np.arange(first, len(rows)), at
        rows.tokens[places], rows.logps[places] = drawn, logps
        rows.lengths[first:] += 1
        ended = np.zeros(len(rows), np.bool_)
        ended[first:] = np.isin(drawn, self.builder.stop_ids) | (rows.lengths[first:] == job.max_new_tokens)
        if job.stop:
            for i in range(first, len(rows)):
                ended[i] |= self.builder.ends(rows.tokens[i, : rows.lengths[i]], job.stop)
        if not ended.any():
            return None
        done = [(i, rows.lengths[i]) for i in ended.nonzero()[0].tolist()]
        self.finished_tokens += sum(length for _, length in done)
        finished = self.builder.finished(
            [rows.answers[i] for i, _ in done],
            [rows.tokens[i, :length] for i, length in done],
            [rows.logps[i, :length] for i, length in done],
            rows.versions[ended],
            self.version,
        )
        rows.keep(self._caches.drop(~ended))
        if not len(rows):
            self._rows = None
            if not self._queue[0]:
                self._queue.popleft()
        return finished

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
        tensors = span(self._info, weights)
        self.updating = tensors[1] < len(self._info.names)
        parameters = dict(self.model.named_parameters())
        named = dict(named_views(info_of(self._info, tensors), weights.data))
        if set(self._info.names) != parameters.keys():  # transformers converts all of the files' tensors together
            self._pieces |= {name: view.clone() if self.updating else view for name, view in named.items()}
            named = {} if self.updating else from_files(self.model, self._pieces)
        for name, tensor in named.items():
            parameters[name].copy_(tensor)
        if not self.updating:
            self.version, self._pieces = weights.version, {}

    def close(self) -> None:
        self._queue.clear()
        self._rows = self._caches = None
        del self.model, self.models


def _sampling_of(job: GenerationJob) -> tuple[Any, ...]:
    return job.temperature, job.max_new_tokens, job.top_p, job.top_k, job.min_p, job.stop, job.mixture


class TransformersGenerator(EngineThread[TransformersEngine]):
    """Generator on `TransformersEngine`.

    Args:
        max_length: most tokens of a prompt and its answer together.
        mixed_with: directory of a second policy, for jobs with a `mixture`.

    Raises:
        ValueError: a policy cannot be used (see `AnswerBuilder`, `TransformersEngine`), or `tensor_parallel` is not 1.
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
        mixed_with: str = "",
    ) -> None:
        if tensor_parallel != 1:
            raise ValueError(f"placement.tensor_parallel: must be 1 for the transformers engine, got {tensor_parallel}")
        super().__init__(
            lambda: TransformersEngine(
                policy_path, config=config, dtype=dtype, max_length=max_length, device=device, mixed_with=mixed_with
            ),
            max_length=max_length,
            timeout_s=config.timeout_s,
        )
