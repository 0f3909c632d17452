"""Whole runs on the GPU, in one process: `breadth train` with the transformers generator and the committed policy.

A run has 6 steps of 8 x 8 answers of at most 16 tokens by a policy of 358k parameters, with a divergence to a
reference, and a checkpoint at its end. It records its second update, which `breadth replay-step` then runs again. A
step takes below 1 s, so that two runs take 15 s, and 12 s of imports.
"""

import asyncio
import contextlib
import importlib
import io
import json
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks.gpu.record import Record

POLICY = Path(__file__).resolve().parents[3] / "tasks" / "base_policies" / "countdown"
DIVERGENCE = ("objective.terms.divergence.name=reverse_kl", "objective.terms.divergence.coefficient.value=0.01")
WORDS = (
    *("method=grpo", "placement.kind=in_process", "generator.engine=transformers", f"policy.path={POLICY}"),
    *("groups_per_step=8", "sampling.group_size=8", "monitor.every=0", *DIVERGENCE),
)
LOGP_LIMITS = {"float32": 0.02, "bfloat16": 0.3}
"""Largest mean absolute difference between the log-probs of generator and learner, in nats, by dtype."""
RECORDED_STEP = 2
COPIED = ("seconds/step", "seconds/update", "seconds/publish", "tokens_per_second", "reward", "entropy", "grad_norm")


def run(record: Record) -> None:
    """Train in float32 and in bfloat16, and run a recorded update of each again."""
    without_ray()
    for dtype in LOGP_LIMITS:
        with record.part(dtype):
            with record.phase(f"run in {dtype}"):
                folder = _run(record, dtype)
            with record.phase(f"step again in {dtype}"):
                _again(record, folder / "steps" / f"step-{RECORDED_STEP:06d}", dtype)


def without_ray() -> None:
    """Where Ray or psutil is not installed, put empty modules in its place: a run in one process asks only whether Ray
    is initialised."""
    for name in ("ray", "psutil"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            sys.meta_path.insert(0, _Finder(name))
            sys.modules.pop(name, None)
            module = importlib.import_module(name)
            module.is_initialized = lambda: False  # type: ignore[attr-defined]


class _Finder(MetaPathFinder, Loader):
    """Finds a package, and any module in it, as an empty one."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == self.package else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


class _Empty(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (SimpleNamespace,), {})


def _again(record: Record, folder: Path, dtype: str) -> None:
    from orchestrator.commands.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(["replay-step", str(folder)])
    record.value(f"{dtype}: replay-step", printed.getvalue().splitlines()[-20:])
    record.check(f"{dtype}: exit status of replay-step", status, at_most=0)


def _run(record: Record, dtype: str) -> Path:
    """Train, check what the run has written, and return its directory."""
    from configs.load import load
    from orchestrator.commands.paths import absolute
    from orchestrator.start import run_training  # which imports Ray

    steps = 2 if record.small else 6
    device = "gpu" if record.gpu else "cpu"
    words = [f"policy.dtype={dtype}", f"placement.device={device}", f"steps={steps}", f"name={dtype}"]
    words.append(f"logbook.dump_steps=[{RECORDED_STEP}]")
    cfg = absolute(load([*WORDS, *words, f"runs={record.scratch}"]))
    lines: list[str] = []
    try:
        folder = asyncio.run(run_training(cfg, resume=False, log=lines.append))
    finally:
        record.value(f"{dtype}: lines", lines[-20:])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["step"] > 0]
    assert len(trained) == steps, f"{len(trained)} of {steps} steps have metrics"
    record.value(f"{dtype}: last step", {name: trained[-1].get(name) for name in COPIED})
    record.check(f"{dtype}: skipped updates", sum(row["skipped_updates"] for row in trained), at_most=0)
    differences = [row["mismatch_abs_log_ratio"] for row in trained]
    record.check(f"{dtype}: generator's log-probs", max(differences), at_most=LOGP_LIMITS[dtype])
    checkpoints = [path for path in folder.rglob("model.safetensors") if "checkpoint" in str(path)]
    record.check(f"{dtype}: checkpoints", len(checkpoints), at_most=10, at_least=1)
    return folder
