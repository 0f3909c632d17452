"""An evaluation of a run that goes on measures the checkpoints that the run removes in the meantime."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from orchestrator.evaluation.job import evaluate
from orchestrator.evaluation.measuring import Measuring
from orchestrator.report.evaluation import read_evaluation
from tests.conftest import make_policy
from tests.orchestrator.in_process import config

VERIFIER = f"{Path(__file__).parents[1] / 'toy_verifiers.py'}:even"
SETTINGS = ("name=run", f"task.verifier={VERIFIER}", "task.heldout_prompts=2", "evaluate.frontier=[]")


def checkpoint(run_dir: Path, step: int) -> Path:
    """Write a checkpoint, and return the directory of its policy."""
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    make_policy(folder / "policy", seed=step)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    (folder / "manifest.json").write_text(json.dumps(dict.fromkeys(names, "")))
    return folder / "policy"


def test_a_checkpoint_that_is_removed_after_the_start_is_measured_and_one_before_is_named_and_left_out(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    policies = {"base": tiny_policy} | {f"step-{step:06d}": checkpoint(run_dir, step) for step in (2, 4, 6)}
    shutil.rmtree(policies["step-000002"].parent)
    measure_all = Measuring.all

    async def pruned(measuring: Measuring) -> object:
        shutil.rmtree(policies["step-000004"].parent)
        return await measure_all(measuring)

    monkeypatch.setattr(Measuring, "all", pruned)
    lines: list[str] = []
    stale = run_dir / "evaluations" / ".held-killed"
    stale.mkdir(parents=True)
    (stale / ".lock").touch()
    cfg = config(tiny_policy, tmp_path, *SETTINGS)
    asyncio.run(evaluate(cfg, {name: str(path) for name, path in policies.items()}, lines.append))
    [output] = (run_dir / "evaluations").iterdir()  # nothing is held any longer, also not by the job that was killed
    evaluation = read_evaluation(output)
    assert evaluation.names == ["base", "step-000004", "step-000006"]
    assert evaluation.about["paths"]["step-000004"] == str(policies["step-000004"]), "not the place of its links"
    assert [point["step"] for point in json.loads((output / "series.json").read_text())["points"]] == [0, 4, 6]
    [removed] = [line for line in lines if "removed" in line]
    assert removed.startswith("evaluate step-000002: left out, because its run has removed")


def test_an_evaluation_whose_only_checkpoint_is_gone_says_so(tiny_policy: Path, tmp_path: Path) -> None:
    gone = tmp_path / "run" / "checkpoints" / "step-000002" / "policy"
    cfg = config(tiny_policy, tmp_path, *SETTINGS)
    with pytest.raises(ValueError, match=r"evaluate\.checkpoints: must .* has not removed .*step-000002/policy"):
        asyncio.run(evaluate(cfg, {"base": str(tiny_policy), "last": str(gone)}, print))
    assert not (tmp_path / "run" / "evaluations").exists(), "as for every evaluation that is refused"
