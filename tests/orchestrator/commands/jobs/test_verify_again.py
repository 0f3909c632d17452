"""The trajectories.jsonl of a run, and `breadth verify` on it: answers are judged again and verdicts are compared."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.logbook import LogbookConfig
from orchestrator.commands.cli import main
from orchestrator.watch.logbook import Logbook
from rewards.registry import names
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

COUNTDOWN = {"numbers": [3, 7, 12], "target": 22}
CORRECT, WRONG = Grade(reward=1.0, status="correct"), Grade(reward=0.0, status="wrong", reason="evaluates to 33")
FAILED = Grade(reward=None, status="grader_error", reason="a worker could not start")
LENGTH = "def verify(answer, problem):\n    return len(answer) == problem['length']\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def length_verifier(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user verifier in a module of its own."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "length_reward.py").write_text(LENGTH)
    monkeypatch.syspath_prepend(str(folder))
    return "length_reward:verify"


def group(name: str, verifier: str, problem: Any, answers: list[tuple[str, Grade]]) -> Group:
    trajectories = tuple(
        Trajectory(
            prompt_id=name,
            sample_index=i,
            tokens=np.arange(3, dtype=np.int32),
            mask=np.array([False, True, True]),
            logp_sampler=np.zeros(3, dtype=np.float32),
            first_version=0,
            last_version=0,
            finish_reason="stop",
            seed=i,
            text=text,
            grade=grade,
        )
        for i, (text, grade) in enumerate(answers)
    )
    prompt = Prompt(id=name, position=0, text=name, verifier=verifier, problem=problem)
    return Group(prompt=prompt, trajectories=trajectories)


def write_run(
    steps: list[list[Group]], every: int = 1, sampled: int = 100, unsampled: Sequence[Group] = (), sink: Any = None
) -> Path:
    """Write the trajectories.jsonl of a run with the logbook, one list of groups per step."""
    config = LogbookConfig(console=False, trajectories_every=every, trajectories=sampled)
    arguments: dict[str, Any] = {"settings": {}, "total_steps": 9, "wandb_id": None, "render": str, "resume_step": None}
    logbook = Logbook(Path("runs/x"), config, run_name="x", **arguments)
    if sink is not None:
        logbook.copies.sinks["console"] = sink
    for step, groups in enumerate(steps, start=1):
        logbook.trajectories(step, groups, unsampled)
    logbook.close()
    return Path("runs/x/trajectories.jsonl")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def verify(*options: str) -> int:
    return main(["verify", "--workers", "1", *options])


def test_a_run_is_judged_again_without_a_named_verifier_and_changed_verdicts_are_counted(
    length_verifier: str, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = [
        group("countdown/1", "countdown", COUNTDOWN, [("3+7+12", CORRECT), ("3*7+12", CORRECT), ("3*7+12", WRONG)]),
        group("gsm8k/4", "math", {"answer": "72"}, [(r"\boxed{72}", FAILED), (r"\boxed{27}", WRONG)]),
        group("own/2", length_verifier, {"length": 3}, [("abc", WRONG), ("ab", WRONG)]),
    ]
    path = write_run([groups])
    assert verify("--input", str(path), "--output", "out.jsonl") == 0
    printed = capsys.readouterr().err
    assert "3 of 7 rows get another verdict than the recorded one" in printed
    assert "line 2, 'countdown/1#1': correct 1.0 -> wrong 0.0 (evaluates to 33, not 22)" in printed
    assert "line 4, 'gsm8k/4#0': grader_error None -> correct 1.0" in printed
    records = rows_of(Path("out.jsonl"))
    assert [record["id"] for record in records] == [
        *(f"countdown/1#{i}" for i in range(3)),
        *(f"gsm8k/4#{i}" for i in range(2)),
        *(f"own/2#{i}" for i in range(2)),
    ]
    assert [record["changed"] for record in records] == [False, True, False, True, False, True, False]
    assert [record["status"] for record in records] == [
        *("correct", "wrong", "wrong"),
        *("correct", "wrong"),
        *("correct", "wrong"),
    ]
    assert (records[3]["recorded_status"], records[3]["recorded_reward"]) == ("grader_error", None)


def test_without_an_output_file_only_the_counts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run([[group("a", "countdown", COUNTDOWN, [("3+7+12", CORRECT)])]])
    assert verify("--input", str(path)) == 0
    printed = capsys.readouterr().err
    assert "0 of 1 rows get another verdict than the recorded one" in printed
    assert "wrote" not in printed
    assert os.listdir() == ["runs"]


def test_a_row_with_a_status_but_without_a_reward_has_no_recorded_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run([[group("a", "countdown", COUNTDOWN, [("3+7+12", CORRECT)])]])
    [row] = rows_of(path)
    del row["reward"]
    path.write_text(json.dumps(row) + "\n")
    assert verify("--input", str(path)) == 0
    assert "another verdict" not in capsys.readouterr().err


def test_a_named_verifier_judges_recorded_rows_in_place_of_their_own(length_verifier: str) -> None:
    path = write_run([[group("a", "countdown", COUNTDOWN | {"length": 6}, [("3+7+12", CORRECT), ("3+7", WRONG)])]])
    assert verify("--verifier", length_verifier, "--input", str(path), "--output", "out.jsonl") == 0
    assert [(record["status"], record["changed"]) for record in rows_of(Path("out.jsonl"))] == [
        ("correct", False),
        ("wrong", False),
    ]


def test_plain_rows_may_name_their_verifier_too(length_verifier: str) -> None:
    lines = [
        {"id": 1, "verifier": "math", "gold": "72", "answer": r"\boxed{72}"},
        {"id": 2, "verifier": length_verifier, "length": 2, "answer": "abc"},
        {"id": 3, "verifier": "math", "answer": "72"},
    ]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert verify("--input", "in.jsonl", "--output", "out.jsonl") == 0
    records = rows_of(Path("out.jsonl"))
    assert [record["status"] for record in records] == ["correct", "wrong", "grader_error"]
    assert records[2]["reason"] == "line 3: has no field 'gold'"
    assert "changed" not in records[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"id": 1, "gold": "72", "answer": "72"},
            f"breadth: --input: line 2: field 'verifier': must be one of {names()}, or "
            "--verifier must name the verifier of all rows, got a row with the fields "
            "'id, gold, answer'\n",
        ),
        ({"verifier": 3, "answer": "72"}, "breadth: --input: line 2: field 'verifier': must be one of countdown"),
        (
            {"verifier": "coutdown", "problem": {}, "answer": "1"},
            f"breadth: --input: line 2: field 'verifier': must be one of {names()} "
            "(did you mean 'countdown'?), got 'coutdown'\n",
        ),
    ],
)
def test_a_row_that_names_no_known_verifier_is_refused_before_anything_is_judged(
    fields: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"verifier": "countdown", "problem": COUNTDOWN, "answer": "3+7+12"}
    Path("in.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(fields))
    assert verify("--input", "in.jsonl", "--output", "out.jsonl") == 2
    assert capsys.readouterr().err.startswith(message)
    assert os.listdir() == ["in.jsonl"]


def test_a_torn_line_and_a_problem_that_is_not_json_become_grader_errors(capsys: pytest.CaptureFixture[str]) -> None:
    broken = [group("a", "countdown", problem, [("1", WRONG)]) for problem in ({"x": {1, 2}}, {"x": float("nan")})]
    path = write_run([broken])
    assert [row["problem"] for row in rows_of(path)] == [None, None]
    with path.open("a") as file:
        file.write('{"step": 2, "veri')
    assert verify("--input", str(path), "--output", "out.jsonl") == 0
    assert [record["reason"] for record in rows_of(Path("out.jsonl"))][:2] == [
        "line 1: field 'problem' must be an object, got null",
        "line 2: field 'problem' must be an object, got null",
    ]
    assert "is not JSON" in rows_of(Path("out.jsonl"))[2]["reason"]
    assert "2 of 2 rows get another verdict" in capsys.readouterr().err


@pytest.mark.parametrize(("every", "sampled_steps"), [(0, []), (1, [1, 2, 3, 4]), (3, [3])])
def test_every_answer_that_could_not_be_graded_is_written_once_whatever_the_interval(
    every: int, sampled_steps: list[int]
) -> None:
    answers = [("first", CORRECT), ("second", FAILED), ("third", WRONG), ("fourth", FAILED)]
    groups = [group(name, "countdown", COUNTDOWN, answers) for name in ("a", "b")]
    rows = rows_of(write_run([groups] * 4, every=every, sampled=2))
    keys = [(row["step"], row["prompt_id"], row["sample_index"]) for row in rows]
    failed = {(step, name, i) for step in (1, 2, 3, 4) for name in ("a", "b") for i in (1, 3)}
    sampled = {(step, name, 0) for step in sampled_steps for name in ("a", "b")}
    assert len(keys) == len(set(keys))
    assert set(keys) == failed | sampled
    assert {row["reason"] for row in rows if row["status"] == "grader_error"} == {"a worker could not start"}
    assert all(row["verifier"] == "countdown" and row["problem"] == COUNTDOWN for row in rows)


def test_a_sampled_answer_that_could_not_be_graded_is_written_once() -> None:
    groups = [group("a", "countdown", COUNTDOWN, [("first", FAILED), ("second", FAILED)])]
    rows = rows_of(write_run([groups], sampled=1))
    assert [row["sample_index"] for row in rows] == [0, 1]


def test_answers_of_unsampled_groups_are_written_only_if_they_could_not_be_graded() -> None:
    kept = group("kept", "countdown", COUNTDOWN, [("1", WRONG)])
    other = group("other", "countdown", COUNTDOWN, [("1", WRONG), ("2", FAILED)])
    rows = rows_of(write_run([[kept]], unsampled=[other]))
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == [("kept", 0), ("other", 1)]


class RecordingSink:
    """Replaces the console: keeps the tables."""

    def __init__(self) -> None:
        self.tables: list[Sequence[Mapping[str, Any]]] = []

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables.append(rows)

    def close(self, failed: bool = False) -> None:
        pass


def test_sinks_get_the_sampled_answers_without_their_problems() -> None:
    answers = [("first", CORRECT), ("second", FAILED)]
    sink = RecordingSink()
    write_run([[group("a", "countdown", COUNTDOWN, answers)]] * 2, every=2, sampled=1, sink=sink)
    [[row]] = sink.tables
    assert (row["step"], row["answer"], row["verifier"]) == (2, "first", "countdown")
    assert "problem" not in row


def test_a_step_without_rows_writes_no_file() -> None:
    assert not write_run([[group("a", "countdown", COUNTDOWN, [("1", WRONG)])]], every=0).exists()
