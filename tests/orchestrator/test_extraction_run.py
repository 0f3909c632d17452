"""The extraction modes of a run: training and monitor may read answers in two modes, and both are on record."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import train as loop
from orchestrator.commands.cli import main
from orchestrator.heldout.prompts import HeldOut
from orchestrator.watch.monitor import Monitor
from tests.orchestrator.test_train import config, train
from trajectories.trajectory import Prompt

MODES = ("task.extraction=last_number", "monitor.extraction=tag:answer")


@pytest.fixture
def rows(tmp_path: Path) -> tuple[str, ...]:
    """Return the settings of a task of 40 sums."""
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(40)))
    return "task.name=dataset", f"task.options.path={path}", "task.options.heldout_fraction=0.3"


def test_the_monitor_reads_answers_in_another_mode_than_training(
    rows: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Prompt] = []

    class Recording(Monitor):
        def __init__(self, heldout: HeldOut, *others: Any) -> None:
            measured.extend(heldout.prompts)
            super().__init__(heldout, *others)

    monkeypatch.setattr(loop, "Monitor", Recording)
    train(config(tmp_path, *rows, *MODES, "steps=1", "name=two", "logbook.trajectories_every=1"))
    lines = (tmp_path / "two" / "trajectories.jsonl").read_text().splitlines()
    trained = [json.loads(line)["problem"] for line in lines]
    assert trained and {problem["extraction"] for problem in trained} == {"last_number"}
    assert [prompt.problem["extraction"] for prompt in measured] == ["tag:answer"] * 4


def test_the_answers_of_a_run_are_judged_again_in_the_mode_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = {"verifier": "math", "answer": "first 71, then 72", "reward": 1.0, "status": "correct"}
    problems = [{"answer": "72", "extraction": "last_number"}, {"answer": "72", "extraction": "boxed"}]
    Path("in.jsonl").write_text("".join(json.dumps(fields | {"problem": problem}) + "\n" for problem in problems))
    assert main(["verify", "--input", "in.jsonl", "--workers", "1"]) == 0
    printed = capsys.readouterr().err
    assert "1 of 2 rows get another verdict than the recorded one" in printed
    assert "line 2, None: correct 1.0 -> no_answer 0.0 (no final answer: no \\boxed{})" in printed


def test_the_modes_of_a_run_are_shown_with_what_they_read(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> str:
        assert main(["show-config", "--offline", *words]) == 0
        return capsys.readouterr().out

    text = shown(*MODES)
    assert "  extraction: last_number\n" in text and "  extraction: tag:answer\n" in text
    line = "last_number (the last number); held-out answers: tag:answer (the text in the last <answer>...</answer>)"
    assert f"# final answer: {line}\n" in text
    assert "# final answer: boxed (the last box alone)\n" in shown("task.extraction=boxed")
    assert "  extraction: strict\n" in shown() and "# final answer" not in shown()
    no_effect = "# monitor.extraction=boxed has no effect: monitor.every is 0\n"
    assert no_effect in shown("monitor.extraction=boxed", "monitor.every=0")
    assert "no effect" not in shown("monitor.extraction=boxed")


def test_a_mode_of_the_monitor_that_no_verifier_reads_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "monitor.extraction=boxed"]) == 2
    message = "monitor.extraction: must be left out unless prompts have the verifier math; these have ['countdown']"
    assert f"breadth: {message}, got 'boxed'" in capsys.readouterr().err
