"""`breadth verify`: grading a file with any rows from the shell, and judging a task's own right answers."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orchestrator import verify_file
from orchestrator.commands.cli import main
from orchestrator.verify_file import parse, read_rows
from rewards.registry import VERIFIERS, names

PROBLEM = {"numbers": [3, 7, 12], "target": 22}
SLOW = """
import os, subprocess, time

def verify(answer, problem):
    if answer == "hang":
        subprocess.Popen(["sleep", "3600"], start_new_session=True)
        open(problem["mark"] + str(os.getpid()), "w").close()
        time.sleep(3600)
    return len(answer) - 1
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def graded(lines: list[str | bytes], *options: str, verifier: str = "countdown") -> list[dict[str, Any]]:
    """Return the rows that the command writes for these lines."""
    Path("in.jsonl").write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    command = ["verify", "--verifier", verifier, "--input", "in.jsonl", "--output", "out.jsonl", "--workers", "1"]
    assert main([*command, *options]) == 0
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl"]
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def row(answer: Any, **fields: Any) -> str:
    return json.dumps({"id": "a", **PROBLEM, "answer": answer, **fields})


def test_output_rows_are_in_order_one_for_each_line_that_is_not_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_file, "ROWS_AHEAD", 7)
    lines: list[str | bytes] = []
    for number in range(100):
        lines += [row("3+7+12" if number % 3 else f"{number}", id=number), *(["", "  \t"] if number % 10 == 0 else [])]
    records = graded(lines)
    assert [record["id"] for record in records] == list(range(100))
    assert [record["reward"] for record in records] == [1.0 if number % 3 else 0.0 for number in range(100)]
    assert all(list(record) == ["id", "reward", "status", "reason", "seconds"] for record in records)
    assert all(record["reason"] for record in records if record["status"] == "wrong")
    assert all(0 < record["seconds"] < 5 for record in records)


def test_a_line_that_cannot_be_graded_becomes_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_file, "LINE_LIMIT", 2_000)
    broken: dict[str | bytes, tuple[Any, str]] = {
        "{": (None, "is not JSON"),
        b"\xff\xfe": (None, "is not JSON"),
        "[" * 1_500: (None, "is not JSON"),
        '{"id": 1, "answer": NaN}': (None, "is not JSON"),
        "[]": (None, "must be an object with fields, got a list"),
        "null": (None, "must be an object with fields, got null"),
        json.dumps(PROBLEM | {"answer": "1"}): (None, "has no field 'id'"),
        json.dumps(PROBLEM | {"id": 5}): (5, "has no field 'answer'"),
        row(None, id="x"): ("x", "field 'answer' must be a string, got null"),
        row(["1"], id=1.5): (1.5, "field 'answer' must be a string, got a list"),
        row("1", id=True): (None, "field 'id' must be a string or a number"),
        row("1", id={"a": 1}): (None, "field 'id' must be a string or a number"),
        '{"id": 1e999, "answer": "1"}': (None, "field 'id' must be a string or a number"),
        row("1", id="y", target=22.5): ("y", "must have integer numbers"),
        row("1", id="y", target="22"): ("y", "field 'target' must be a number, got a string"),
        json.dumps({"id": "y", "target": 22, "answer": "1"}): ("y", "has no field 'numbers'"),
        row("9" * 3_000): (None, "above 2000"),
    }
    records = graded([*broken, row("3+7+12", id="\ud800")])
    for number, (record, (row_id, reason)) in enumerate(zip(records, broken.values(), strict=False), start=1):
        assert (record["id"], record["reward"], record["status"]) == (row_id, None, "grader_error")
        assert record["reason"].startswith(f"line {number}: ")
        assert reason in record["reason"]
    assert len(records) == len(broken) + 1
    assert (records[-1]["id"], records[-1]["status"]) == ("\ud800", "correct")


@pytest.mark.parametrize(
    ("verifier", "good", "bad"),
    [
        ("math", {"gold": [5, "6"]}, {"gold": {"a": 5}}),
        ("math", {"gold": "5"}, {"gold": None}),
        ("sql", {"schema_sql": "x", "gold_sql": "y", "extra_dbs": []}, {"schema_sql": "x"}),
        ("code", {"kind": "assert", "tests": "assert 1"}, {"kind": "assert", "tests": {}}),
        ("code", {"kind": "stdio", "tests": []}, {"kind": 1, "tests": []}),
        ("countdown", PROBLEM, {"numbers": "3, 7, 12", "target": 22}),
        ("first_number", {"number": 123}, {"number": "123"}),
        ("scratchpad_sum", {"operands": [95, 7]}, {"operands": 102}),
        ("package.module:function", {}, {"answer": 1}),
    ],
)
def test_the_required_fields_of_a_row_depend_on_its_verifier(
    verifier: str, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    accepted = parse(json.dumps({"id": 1, "answer": "a", **good}).encode(), 1, verifier)
    assert accepted.problem == ({"answer": good["gold"]} if verifier == "math" else good)
    assert accepted.answer == "a"
    assert parse(json.dumps({"id": 1, "answer": "a", **bad}).encode(), 1, verifier).refusal


def test_the_example_rows_of_the_documentation_are_judged_correct() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs" / "verifiers.md").read_text()
    found = re.findall(r'^\| `(\w+)`[^|]*\| `(\{"id".*?\})`', text, flags=re.MULTILINE)
    assert {name for name, _ in found} == VERIFIERS.keys()
    packages = {name: VERIFIERS[name].package for name, _ in found}
    found = [(name, example) for name, example in found if not packages[name] or find_spec(packages[name])]
    lines = [json.dumps({"verifier": name, **json.loads(example)}) for name, example in found]
    Path("in.jsonl").write_text("\n".join(lines))
    assert main(["verify", "--input", "in.jsonl", "--output", "out.jsonl", "--workers", "1"]) == 0
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records] == ["correct"] * len(found)


def test_a_file_may_begin_with_a_byte_order_mark_and_end_without_a_newline() -> None:
    lines = b'\xef\xbb\xbf{"id": 1, "answer": "a"}\r\n{"id": 2, "answer": "b"}'
    rows = list(read_rows(io.BytesIO(lines), "package.module:function"))
    assert [(r.id, r.refusal) for r in rows] == [(1, ""), (2, "")]


def test_a_user_verifier_grades_a_file_within_the_deadline(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("module")
    (elsewhere / "own_reward.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(elsewhere))
    lines: list[str | bytes] = [row(answer, mark=str(elsewhere / "mark")) for answer in ("", "a", "ab", "hang", "ab")]
    records = graded(lines, "--timeout-s", "0.5", verifier="own_reward:verify")
    assert [(r["reward"], r["status"]) for r in records] == [
        (-1.0, "wrong"),
        (0.0, "wrong"),
        (1.0, "correct"),
        (0.0, "timeout"),
        (1.0, "correct"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--verifier countdown --output out", "--input: must name a jsonl file, got nothing"),
        ("--verifier countdown --input in", "--output: must name a jsonl file, got nothing"),
        ("--verifier countdown --input gone --output out", "--input: must be an existing file, got 'gone'"),
        ("--verifier countdown --input in --output gone/out", "--output: must be a file in an existing directory"),
        ("--verifier countdown --input in --output .", "--output: must be a file in an existing directory"),
        ("--verifier countdown --input in --output ./in", "--output: must be another file than --input"),
        (
            "--verifier coutdown --input in --output out",
            f"--verifier: must be one of {names()} (did you mean 'countdown'?), got 'coutdown'",
        ),
        ("--verifier countdown --input in --output out --workers 0", "--workers: must be positive, got 0"),
        ("--verifier countdown --input in --output out --timeout-s nan", "--timeout-s: must be positive, got nan"),
        ("--verifier countdown --input in --output out seed=1", "override: must be used with --task, got 'seed=1'"),
        ("", "--input: must name a jsonl file, got nothing"),
        ("--task coutdown", "--task: must be one of countdown"),
        ("--task countdown --count 0", "--count: must be positive, got 0"),
        ("--task countdown task.options.nummers=3", "task.options.nummers: unknown option"),
    ],
)
def test_a_bad_option_is_reported_in_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").write_text("")
    assert main(["verify", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"breadth: {message}")
    assert os.listdir() == ["in"]


def test_the_right_answers_of_a_task_are_judged_by_its_verifier(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--task", "countdown", "--count", "30", "--workers", "1"]) == 0
    assert "30 of 30 right answers of countdown are judged correct" in capsys.readouterr().err


def test_right_answers_that_are_not_judged_correct_are_listed_and_the_exit_status_is_1(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path_factory.mktemp("module")
    (elsewhere / "picky_reward.py").write_text("def verify(answer, problem):\n    return '-' not in answer\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    words = ("task.verifier=picky_reward:verify", "seed=1")
    assert main(["verify", "--task", "countdown", "--count", "30", "--workers", "1", *words]) == 1
    *listed, last = capsys.readouterr().err.splitlines()
    assert listed[0].startswith("countdown/train/")
    assert all(": wrong (" in line and "-" in line for line in listed)
    assert last == f"{30 - len(listed)} of 30 right answers of countdown are judged correct"


def test_a_problem_whose_gold_depends_on_the_order_of_rows_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = "CREATE TABLE birds (name TEXT); INSERT INTO birds VALUES ('wren'), ('owl');"
    rows = [
        {"question": "Which bird?", "schema_sql": schema, "gold_sql": "SELECT name FROM birds LIMIT 1"},
        {"question": "Which birds?", "schema_sql": schema, "gold_sql": "SELECT name FROM birds"},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"task.options.path={data}", "task.options.format=sql", "task.options.heldout_fraction=0.01"]
    assert main(["verify", "--task", "dataset", "--count", "2", "--workers", "1", *settings]) == 1
    text = capsys.readouterr().err
    assert "gold_sql: must not depend on the order in which rows are read" in text
    assert "2 of 2 right answers of dataset are judged correct" in text and "1 problems of dataset are faulty" in text


def test_an_interrupted_command_leaves_no_output_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "own_reward.py").write_text(SLOW)
    mark = tmp_path / "mark"
    Path("in.jsonl").write_text("".join(row("hang", id=i, mark=str(mark)) + "\n" for i in range(4)))
    words = ["--verifier", "own_reward:verify", "--input", "in.jsonl", "--output", "out.jsonl", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(tmp_path)])}
    program = [sys.executable, "-m", "orchestrator.commands.cli", "verify", *words, "--timeout-s", "600"]
    # A shell without job control starts this suite with SIGINT ignored if it is in the background.
    unignored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, preexec_fn=unignored) as command:
        until = time.monotonic() + 30
        while len(marks := list(tmp_path.glob("mark*"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        below = descendants(command.pid)
        assert len(below) == 6  # two keepers, two workers, two of theirs in sessions of their own
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
    assert {int(m.name.removeprefix("mark")) for m in marks} <= below
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert not list(tmp_path.glob("out*"))


def descendants(ancestor: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}
