"""`breadth evaluate RUN`: what is measured is what was trained, in a folder of its own."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.load import to_yaml
from orchestrator.commands.cli import main
from orchestrator.evaluation.folders import check_name, latest, new_folder, one_job
from orchestrator.manifest import SETTINGS
from orchestrator.state import Best, RunState
from tests.conftest import make_policy
from tests.orchestrator.in_process import config
from tests.orchestrator.test_checkpoint import write

TEMPLATE = "<q>{{ messages[0].content }}</q>"
FEW = ("task.heldout_prompts=2", "evaluate.answers=2", "evaluate.ks=[1,2]", "evaluate.frontier=[]")


def chat_policy(folder: Path, seed: int = 0) -> Path:
    make_policy(folder, seed=seed)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def make_run(run_dir: Path, *overrides: str, steps: tuple[int, ...] = (1, 2), best: int | None = None) -> Path:
    """A run directory as training leaves it, with random policies as checkpoints."""
    base = chat_policy(run_dir.parent / "start")
    cfg = config(base, run_dir.parent, f"name={run_dir.name}", "policy.chat_template=true", *FEW, *overrides)
    for step in steps:
        trained = chat_policy(run_dir.parent / f"trained-{step}", seed=step)
        state = replace(RunState.initial(cfg), step=step, best=Best(step=best, value=0.5) if best else None)

        async def save(folder: str, trained: Path = trained) -> None:
            shutil.copytree(trained, Path(folder) / "policy")
            (Path(folder) / "optimizer").mkdir()
            (Path(folder) / "optimizer" / "rank-00000-of-00001.safetensors").touch()
            (Path(folder) / SETTINGS).write_text(to_yaml(cfg))

        asyncio.run(write(run_dir / "checkpoints", state, save))
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / SETTINGS).write_text(to_yaml(cfg))
    return run_dir


def results(run_dir: Path) -> dict[str, Any]:
    folder = latest([run_dir])
    assert folder is not None
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["evaluate", *words]) == 2
    err = capsys.readouterr().err
    return err[err.index("breadth: ") + len("breadth: ") :]


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "first")


def test_a_run_is_measured_as_it_was_trained_against_the_policy_it_started_from(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "runs/first"]) == 0
    err = capsys.readouterr().err
    found = results(first)
    assert found["about"]["paths"] == {
        "base": str(first.parent / "start"),
        "first": str(first / "checkpoints" / "step-000002" / "policy"),
    }
    assert found["about"]["extraction"] == "", "the verifier of countdown reads no modes"
    prompt = found["about"]["first_prompt"]["first"]
    assert prompt.startswith("<q>") and prompt.endswith(":</q>"), "the chat template of the run"
    assert f"first prompt of base, first, {len(prompt)} tokens:\n{prompt}\n" in err
    assert (found["prompts"], found["about"]["answers"], found["sampling"]["max_new_tokens"]) == (2, 2, 6)


@pytest.mark.slow
def test_every_evaluation_has_a_folder_of_its_own_and_the_report_shows_the_latest(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first / "metrics.jsonl").write_text('{"step": 0}\n')
    assert main(["evaluate", "run=first", "evaluate.answers=1"]) == 0
    further = ["evaluate.samplings.one.top_k=1", "evaluate.temperatures=[1.0]"]
    assert main(["evaluate", "first", "evaluate.name=mine", "sampling.max_new_tokens=3", *further]) == 0
    one, two = sorted((first / "evaluations").iterdir())
    assert (two.name, one.name[-2:]) == ("mine", "-1")
    assert json.loads((one / "results.json").read_text())["ks"] == [1], "ks of the record follow the answers"
    assert results(first)["sampling"]["max_new_tokens"] == 3
    assert "max_new_tokens: 3" in (two / "config.yaml").read_text()
    assert refusal(capsys, "first", "evaluate.name=mine").startswith("evaluate.name: must be new in ")
    assert main(["report", "runs/first", "--output", "page.html"]) == 0
    assert f"evaluation {two}\n" in capsys.readouterr().err.replace("runs/first", str(first))
    page = Path("page.html").read_text()
    assert "&lt;q&gt;" in page, "the first prompt"
    assert "Results: at most 3 tokens" in page and "Results: one: top_k 1, at most 3 tokens" in page


def test_an_evaluation_in_another_extraction_mode_than_strict_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sums.jsonl").write_text("".join(f'{{"prompt": "{i}+1=", "answer": {i + 1}}}\n' for i in range(40)))
    sums = ("task.name=dataset", f"task.options.path={tmp_path}/sums.jsonl", "task.options.heldout_fraction=0.3")
    run_dir = make_run(tmp_path / "runs" / "sums", *sums, steps=(1,))
    (run_dir / "metrics.jsonl").write_text('{"step": 0}\n')
    title = "2 held-out prompts, 2 answers each, at most 6 tokens"
    for mode, words in {"strict": "", "boxed": ", extraction boxed"}.items():
        assert main(["evaluate", "sums", f"evaluate.extraction={mode}", f"evaluate.name={mode}"]) == 0
        assert f"{title}{words} " in " ".join(capsys.readouterr().out.split()) + " "
        assert results(run_dir)["about"]["extraction"] == mode
        assert main(["report", "runs/sums", "--output", "page.html"]) == 0
        page = Path("page.html").read_text()
        assert f"<h2>Results: at most 6 tokens{words}</h2>" in page
        assert f"2 held-out prompts of dataset, 2 answers each, at most 6 tokens{words} ·" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "names"),
    [
        ("[last]", ["base", "last"]),
        ("[best,2]", ["base", "best", "step-000002"]),
        ("[step-000001,grown=last]", ["base", "step-000001", "grown"]),
        ("[all,last,best]", ["base", "step-000001", "step-000002"]),
        ("[base=trained-1,runs/first]", ["base", "first"]),
    ],
)
def test_checkpoints_of_the_run_are_named_in_short(items: str, names: list[str], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "runs" / "first", best=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "runs" if "trained" in items else tmp_path)
        assert (
            main(["evaluate", str(run_dir), f"evaluate.checkpoints={items.replace('runs/first', str(run_dir))}"]) == 0
        )
    paths = results(run_dir)["about"]["paths"]
    assert list(paths) == names
    steps = {"last": 2, "best": 1, "grown": 2, "first": 2, "step-000001": 1, "step-000002": 2}
    for name in names[1:]:
        assert paths[name] == str(run_dir / "checkpoints" / f"step-{steps[name]:06d}" / "policy")
    start = "trained-1" if "trained" in items else "start"
    assert paths["base"] == str(tmp_path / "runs" / start)


def test_a_policy_of_a_run_with_other_prompt_settings_is_refused_unless_they_are_named(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(first.parent / "other", "policy.chat_template=false", "task.options.numbers=4", steps=(3,))
    both = f"evaluate.checkpoints=[last,other={other}]"
    line = refusal(capsys, "first", both)
    assert line.startswith("evaluate.checkpoints: policies must come from runs with the prompt form, task, verifier")
    assert f"got other of {other}, which was trained with policy.chat_template=False instead of True" in line
    assert "task.options.numbers=4 instead of None" in line
    line = refusal(capsys, "first", both, "policy.chat_template=true")
    assert "chat_template" not in line and "task.options.numbers" in line
    assert not (first / "evaluations").exists()
    assert main(["evaluate", "first", both, "policy.chat_template=true", "task.options.numbers=3"]) == 0


def test_without_its_run_a_checkpoint_is_not_measured_under_other_settings_than_it_was_trained_with(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"evaluate.checkpoints=[base={first.parent / 'start'},first=runs/first/checkpoints/step-000002]"]
    place = ["placement.kind=in_process", "generator.engine=transformers", "sampling.max_new_tokens=6"]
    line = refusal(capsys, *words, *place)
    assert "first was" not in line and "policy.chat_template=True instead of False" in line
    assert f"`breadth evaluate {first}` measures it as it was trained" in line


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        (["gone"], "run: must be the directory or the name of a run with a record, "),
        (["runs/first/checkpoints/step-000001"], "run: must be the directory or the name of a run with a record, "),
        (["first", "run=first"], "run: must be one run, "),
        (["first", "--config", "runs/first/config.yaml"], "--config: must be left out for a run"),
        (["first", "name=other"], "name: must be left out for a run"),
        (["first", "evaluate.checkpoints=[best]"], "evaluate.checkpoints: best needs a run that measured"),
        (["first", "evaluate.checkpoints=[7]"], "evaluate.checkpoints: must be a directory of a Hugging Face policy"),
        (["first", "evaluate.extraction=boxed"], "evaluate.extraction: must be left out unless prompts have the verif"),
        (["first", "evaluate.name=a/b"], "evaluate.name: must be a folder name without '/'"),
        (["first", f"evaluate.name={'名' * 70}"], "evaluate.name: must be a folder name without '/', of at most 200 b"),
        (
            ["first", f"evaluate.checkpoints=[{'名' * 70}=runs/first]"],
            "evaluate.checkpoints: names must be file names without '/', of at most 200 bytes",
        ),
        (["first", "task.heldout_prompts=99", "task.options.numbers=2"], "task.heldout_prompts: must be at most the "),
        (
            ["first", "sampling.max_prompt_tokens=9"],
            "sampling.max_prompt_tokens: must be at least the longest held-out",
        ),
        (["empty"], "evaluate.checkpoints: a run must have a checkpoint"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_engine_starts(
    words: list[str],
    beginning: str,
    first: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a role was started")

    monkeypatch.setattr("orchestrator.cluster.start", refuse)
    make_run(first.parent / "empty", steps=())
    assert refusal(capsys, *words).startswith(beginning)
    assert not (first / "evaluations").exists()


def test_a_record_that_was_edited_does_not_change_how_a_checkpoint_was_trained(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (first / SETTINGS).read_text()
    assert "chat_template: true" in text
    (first / SETTINGS).write_text(text.replace("chat_template: true", "chat_template: false"))
    assert "policy.chat_template=True instead of False" in refusal(capsys, "first")


def test_a_broken_last_checkpoint_is_passed_over(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first / "checkpoints" / "step-000002" / "policy" / "config.json").write_text("{}")
    assert main(["evaluate", "first"]) == 0
    assert "going back to the one before it" in capsys.readouterr().err
    assert results(first)["about"]["paths"]["first"].endswith("checkpoints/step-000001/policy")


def test_a_run_that_was_moved_keeps_its_evaluations_beside_it(first: Path, tmp_path: Path) -> None:
    moved = first.rename(tmp_path / "elsewhere")
    assert main(["evaluate", "elsewhere"]) == 0
    assert results(moved)["about"]["paths"]["elsewhere"].startswith(str(moved))


def test_folders_of_evaluations_are_numbered_and_the_latest_is_that_with_the_latest_date(tmp_path: Path) -> None:
    names = [new_folder(tmp_path, "", f"settings: {i}").name for i in range(3)]
    assert [name.rpartition("-")[2] for name in names] == ["1", "2", "3"]
    assert new_folder(tmp_path, "mine").name == "mine"
    assert latest([tmp_path]) is None, "none has ended"
    for name, day in ((names[0], "2026-01-02"), (names[1], "2026-01-03"), ("mine", "2026-01-01")):
        (tmp_path / "evaluations" / name / "results.json").write_text(json.dumps({"about": {"date": day}}))
    assert latest([tmp_path]) == tmp_path / "evaluations" / names[1]


def test_an_interrupted_evaluation_goes_on_in_its_folder_and_one_that_ended_or_runs_is_not_touched(
    tmp_path: Path,
) -> None:
    first = new_folder(tmp_path, "", "seed: 1")
    assert new_folder(tmp_path, "", "seed: 1") == first, "the same settings"
    assert new_folder(tmp_path, "", "seed: 2") != first
    with one_job(first):
        assert new_folder(tmp_path, "", "seed: 1") != first
        running = r"^evaluate\.name: must not be that of a job that is running"
        with pytest.raises(ValueError, match=running), one_job(first):
            pass
    (first / "results.json").write_text("{}")
    assert new_folder(tmp_path, "", "seed: 1") != first
    check_name(tmp_path, "new")
    with pytest.raises(ValueError, match=r"^evaluate\.name: must be new"):
        check_name(tmp_path, first.name)


def test_all_checkpoints_of_a_run_are_a_series_over_its_steps(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "first", "evaluate.checkpoints=[all]", "evaluate.kl_to_base=false"]) == 0
    assert list(results(first)["policies"]) == ["base", "step-000001", "step-000002"]
    folder = latest([first])
    assert folder is not None
    points = json.loads((folder / "series.json").read_text())["points"]
    assert [(point["step"], point["policy"]) for point in points] == [
        (0, "base"),
        (1, "step-000001"),
        (2, "step-000002"),
    ]
    assert "must select a checkpoint" in refusal(capsys, "first", "evaluate.checkpoints=[every:7]")


def test_a_run_is_watched_by_name_or_directory_and_its_settings_are_those_of_its_record(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first / "metrics.jsonl").write_text(json.dumps({"step": 2, "time": 1.0}) + "\n")
    record = first / SETTINGS
    record.write_text(record.read_text().replace("steps: 100\n", "steps: 2\n"))
    assert main(["evaluate", "evaluate.watch=first", "evaluate.name=watched"]) == 0
    assert "watch: first has ended, and all of its checkpoints are measured" in capsys.readouterr().err
    assert list(results(first)["policies"]) == ["base", "step-000001", "step-000002"]
    words = refusal(capsys, "first", "evaluate.watch=first")
    assert words.startswith("evaluate.watch: must be left out for the run 'first'")
    assert refusal(capsys, "evaluate.watch=nowhere").startswith("run: must be the directory or the name of a run")
    assert "evaluate.checkpoints: must be empty" in refusal(
        capsys, "evaluate.watch=first", "evaluate.checkpoints=[last]"
    )
