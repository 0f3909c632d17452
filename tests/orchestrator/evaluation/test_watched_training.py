"""A job that watches a run which trains in another process at the same time."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.evaluation import following
from orchestrator.evaluation.following import follow
from orchestrator.evaluation.record import settings_of
from orchestrator.report.evaluation import read_evaluation
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import SMALL

VERIFIER = f"{Path(__file__).parents[1] / 'toy_verifiers.py'}:even"
STEPS = 6
SETTINGS = (
    *(*SMALL, "name=run", f"steps={STEPS}", "groups_per_step=2", "sampling.group_size=4", f"task.verifier={VERIFIER}"),
    *("learner.learning_rate=0.01", "checkpoint.every=1", f"checkpoint.keep_last={STEPS}", "evaluate.frontier=[]"),
    *("monitor.every=1", "monitor.answers=4", "monitor.ks=[1,4]", "monitor.frontier=[]", "monitor.kl_to_base=false"),
)


@pytest.mark.slow
def test_every_checkpoint_of_a_run_that_trains_meanwhile_has_the_values_that_the_run_measures_itself(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.1)
    words = ["train", *SETTINGS, f"policy.path={tiny_policy}", f"runs={tmp_path}"]
    script = f"import sys; from orchestrator.commands.cli import main; sys.exit(main({words!r}))"
    lines: list[str] = []
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as training:
        try:
            end = time.monotonic() + 60
            while not (tmp_path / "run" / "config.yaml").is_file() and time.monotonic() < end:
                time.sleep(0.05)
            begun = training.poll() is None
            watching = ["evaluate.watch=run", "evaluate.name=watched", "evaluate.watch_patience_s=60"]
            cfg = settings_of(tmp_path / "run", watching)
            asyncio.run(asyncio.wait_for(follow(cfg, tmp_path / "run", lines.append), 120))
            assert training.wait(60) == 0 and begun
        finally:
            training.kill()
    assert lines[-1] == "watch: run has ended, and all of its checkpoints are measured"
    results = read_evaluation(tmp_path / "run" / "evaluations" / "watched").at_first_temperature
    measured = {record["step"]: record for record in read_records(tmp_path / "run" / "metrics.jsonl")}
    assert list(results) == ["base", *(f"step-{step:06d}" for step in range(1, STEPS + 1))]
    for step, values in enumerate(results.values()):
        for key in ("pass@1", "pass@4", "distinct_correct", "entropy"):
            assert values[key].value == pytest.approx(measured[step][f"heldout/{key}"], abs=1e-3), (step, key)
    assert len({values["entropy"].value for values in results.values()}) == STEPS + 1, "every step changes the policy"
