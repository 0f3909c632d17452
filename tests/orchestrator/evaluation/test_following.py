"""A job that watches a run measures each checkpoint as it comes, though others are removed, and ends with the run."""

import asyncio
import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.load import to_yaml
from orchestrator import manifest
from orchestrator.evaluation import comparisons, following
from orchestrator.evaluation.following import follow
from orchestrator.evaluation.record import settings_of
from orchestrator.report import evaluation as evaluations
from orchestrator.report.compared import read_compared
from orchestrator.report.evaluation import read_evaluation
from orchestrator.watch.measurement import Measurement
from tests.conftest import make_policy
from tests.orchestrator.in_process import config
from tests.orchestrator.sinks.interpreter import run_in_new_interpreter
from tests.orchestrator.sinks.test_wandb_run import history, inspect

VERIFIER = f"{Path(__file__).parents[1] / 'toy_verifiers.py'}:even"
SETTINGS = (
    "name=run",
    "steps=6",
    f"task.verifier={VERIFIER}",
    "task.heldout_prompts=2",
    "evaluate.frontier=[]",
    f"evaluate.tasks.more={{name: countdown, verifier: '{VERIFIER}', heldout_prompts: 3}}",
)


class FakeRun:
    """The folder of a run, to which a test adds steps and checkpoints."""

    def __init__(self, base: Path, runs: Path) -> None:
        self.folder = runs / "run"
        self.folder.mkdir()
        (self.folder / "config.yaml").write_text(to_yaml(config(base, runs, *SETTINGS)))
        self.record(0)

    def record(self, step: int) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": time.time()}) + "\n")

    def alert(self, title: str) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "level": "alert", "title": title, "text": ""}) + "\n")

    def checkpoint(self, step: int) -> Path:
        """Write a checkpoint, whole at once, of a policy of its own."""
        partial, path = self.folder / "partial", self.folder / "checkpoints" / f"step-{step:06d}"
        make_policy(partial / "policy", seed=step)
        manifest.write_manifest(partial)
        path.parent.mkdir(exist_ok=True)
        partial.rename(path)
        self.record(step)
        return path

    def watched(self, *words: str) -> list[str]:
        """Watch the run, and return the lines for the user."""
        lines: list[str] = []
        cfg = settings_of(self.folder, ["evaluate.watch=run", "evaluate.name=watched", *words])
        asyncio.run(asyncio.wait_for(follow(cfg, self.folder, lines.append), 100))
        return lines

    @property
    def output(self) -> Path:
        return self.folder / "evaluations" / "watched"


@pytest.fixture
def run(tiny_policy: Path, tmp_path: Path) -> FakeRun:
    return FakeRun(tiny_policy, tmp_path)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.02)


def steps_of(folder: Path) -> list[int]:
    points: list[dict[str, Any]] = json.loads((folder / "series.json").read_text())["points"]
    return [point["step"] for point in points]


def test_each_checkpoint_is_measured_as_it_comes_until_that_of_the_last_step(run: FakeRun) -> None:
    run.checkpoint(2)

    def goes_on() -> None:
        until = time.monotonic() + 60
        while not (run.output / "series.json").exists() and time.monotonic() < until:  # the first one is measured
            time.sleep(0.01)
        run.checkpoint(4)
        run.checkpoint(6)

    trainer = threading.Thread(target=goes_on)
    trainer.start()
    lines = run.watched()
    trainer.join()
    assert lines[-1] == "watch: run has ended, and all of its checkpoints are measured"
    told = [line.split(",")[0] for line in lines if "Pass@" in line]
    assert told == [f"watch: step-00000{step}" for step in (2, 4, 6)]
    own, more = read_compared([run.output])[0]
    assert own.names == more.names == ["base", "step-000002", "step-000004", "step-000006"]
    assert steps_of(run.output) == steps_of(run.output / "tasks" / "more") == [0, 2, 4, 6]
    assert own.about["paths"]["step-000004"] == str(run.folder / "checkpoints" / "step-000004" / "policy")
    first = json.loads((run.output / "series.json").read_text())["points"][1]
    value, low, high = first["values"]["pass@4"]
    assert low <= value <= high and first["policy"] == "step-000002"
    assert (run.output / "answers.parquet").exists() and not (run.output / following.COPIES).exists()


def test_a_checkpoint_that_is_removed_while_it_is_measured_is_measured_and_one_before_is_skipped(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.checkpoint(2)
    run.checkpoint(4)
    run.checkpoint(6)
    link = manifest.os.link

    def removing(source: Path, target: Path) -> None:
        if "step-000002" in str(source):
            shutil.rmtree(source.parents[1])  # at its first file
        link(source, target)

    monkeypatch.setattr(manifest.os, "link", removing)
    measure = following.Serving.measure

    async def pruned(serving: following.Serving, name: str) -> None:
        if name == "step-000004":
            shutil.rmtree(run.folder / "checkpoints" / name)
        await measure(serving, name)

    monkeypatch.setattr(following.Serving, "measure", pruned)
    lines = run.watched()
    assert "watch: step-000002 is skipped, because it was removed while it was copied" in lines
    assert read_evaluation(run.output).names == ["base", "step-000004", "step-000006"]


def test_a_run_that_stops_early_or_falls_silent_ends_the_watch(run: FakeRun) -> None:
    run.checkpoint(2)
    assert "nothing new from run for 0.2 s" in run.watched("evaluate.watch_patience_s=0.2")[-1]
    run.alert("stop_if")
    run.checkpoint(3)
    assert run.watched()[-1] == "watch: run has ended, and all of its checkpoints are measured"
    assert steps_of(run.output) == [0, 2, 3]
    run.record(4)  # it was resumed
    shutil.rmtree(run.output)
    assert "nothing new" in run.watched("evaluate.watch_patience_s=0.2")[-1]


def test_an_interrupted_watch_keeps_what_it_measured_of_checkpoints_that_are_gone(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.checkpoint(2)

    class Killed(BaseException):
        pass

    def killed(watched: Any) -> bool:
        if "step-000002" in (run.output / "watched.json").read_text():
            raise Killed
        return False

    with monkeypatch.context() as patch:
        patch.setattr(following, "_ended", killed)
        with pytest.raises(Killed):
            run.watched()
    shutil.rmtree(run.folder / "checkpoints" / "step-000002")
    run.checkpoint(6)
    run.watched()
    assert steps_of(run.output) == [0, 2, 6]
    with pytest.raises(ValueError, match=r"^evaluate\.name: must be new"):
        run.watched()


def test_the_values_of_a_checkpoint_are_computed_once_however_many_follow_it(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: Counter[tuple[str, str]] = Counter()

    def counted(module: Any, name: str) -> None:
        compute = getattr(module, name)

        def computing(measurement: Any, *arguments: Any, **options: Any) -> Any:
            computed[f"{module.__name__}.{name}", measurement.name] += 1
            return compute(measurement, *arguments, **options)

        monkeypatch.setattr(module, name, computing)

    for module, name in (
        (comparisons, "summary"),
        (evaluations, "summary"),
        (evaluations, "majorities"),
        (evaluations, "placement"),
        (Measurement, "write"),
    ):
        counted(module, name)
    checkpoints = [f"step-00000{step}" for step in (2, 4, 6)]
    for name in checkpoints:
        run.checkpoint(int(name[-1]))
    run.watched("evaluate.frontier=[0.5]")
    names = {name for name, _ in computed}
    assert len(names) == 5
    for name in names:
        found = [computed[name, checkpoint] for checkpoint in checkpoints]
        assert found[0] > 0 and found == [found[0]] * 3, (name, found)
    for folder in (run.output, run.output / "tasks" / "more"):
        read = read_evaluation(folder)
        assert read.names == ["base", *checkpoints]
        assert read.results() == json.loads((folder / "results.json").read_text())
        others = {name: read.measurements[name][1.0] for name in checkpoints}
        anew = comparisons.problems(read.at_base, others)
        assert anew == json.loads((folder / "problems.json").read_text())
        anew = comparisons.coverage(read.at_base, others, read.ks, read.about["levels"])
        assert anew == json.loads((folder / "coverage.json").read_text())


def test_checkpoints_cannot_be_chosen_for_a_watch(run: FakeRun) -> None:
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: must be empty with evaluate\.watch"):
        settings_of(run.folder, ["evaluate.watch=run", "evaluate.checkpoints=[all]"])


@pytest.mark.slow
def test_a_watched_run_has_its_evaluation_in_wandb_with_a_record_for_each_checkpoint(
    tiny_policy: Path, tmp_path: Path
) -> None:
    run = FakeRun(tiny_policy, tmp_path)
    for step in (3, 6):
        run.checkpoint(step)
    words = [f"evaluate.watch={run.folder}", "evaluate.name=watched", "logbook.wandb=offline", "evaluate.tasks={}"]
    script = f"import sys; from orchestrator.commands.cli import main; sys.exit(main(['evaluate', *{words!r}]))"
    run_in_new_interpreter(script, tmp_path)
    steps = history(inspect(run.output))
    results = read_evaluation(run.output).at_first_temperature
    assert list(results) == ["base", "step-000003", "step-000006"]
    assert [steps[number]["heldout/pass@4"] for number in range(3)] == [v["pass@4"].value for v in results.values()]
