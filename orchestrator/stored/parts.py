"""Parts of an unfinished presampling, so that it goes on where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.policy_files.folder import policy_folder
from configs.config import Config
from orchestrator.manifest import folder_digest
from rewards.registry import version_of
from trajectories.rehearsal import read_answers, write
from trajectories.trajectory import Prompt, Trajectory

TALLY = b"tally"


class Parts:
    """Answers kept so far, one parquet file per block of prompts, in `<path>.parts`.

    A file is named by a digest of all that decides its answers: the prompts, the files of the reference, the settings
    of sampling and rehearsal, the engine, and the verifiers' code.

    Args:
        path: the rehearsal file that presampling writes.
    """

    def __init__(self, cfg: Config, path: Path) -> None:
        self.folder = path.with_name(f"{path.name}.parts")
        rehearsal = asdict(cfg.rehearsal)
        self._settings = {
            "reference": folder_digest(policy_folder(cfg.reference_path or cfg.policy.path)),
            "policy": asdict(cfg.policy),
            "sampling": asdict(cfg.sampling),
            "rehearsal": [rehearsal[name] for name in ("answers", "threshold", "keep")],
            "engine": [cfg.generator.engine, cfg.placement.device],
            "grader": cfg.grader.timeout_s,
            "seed": cfg.seed,
        }

    def read(self, prompts: Sequence[Prompt]) -> tuple[list[Trajectory], dict[str, int]] | None:
        """Return the kept answers and the tally of a block of prompts; None if it has yet to be presampled."""
        path = self._file(prompts)
        if not path.is_file():
            return None
        tally: dict[str, int] = json.loads((pq.read_schema(path).metadata or {})[TALLY])
        return list(read_answers(path)), tally

    def write(self, prompts: Sequence[Prompt], kept: Sequence[Trajectory], tally: dict[str, int]) -> None:
        """Store the kept answers and the tally of a block of prompts."""
        write(self._file(prompts), kept, {TALLY: json.dumps(tally).encode()})

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, prompts: Sequence[Prompt]) -> Path:
        key: dict[str, Any] = {
            **self._settings,
            "prompts": [[p.id, p.position, p.text, p.messages, p.verifier, repr(p.problem)] for p in prompts],
            "verifiers": sorted({version_of(p.verifier) for p in prompts}),
        }
        text = json.dumps(key, sort_keys=True, default=repr)
        return self.folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.parquet"
