"""`breadth verify --audit` and `--compare`: what is listed of a file of answers, and what is written."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orchestrator import audit
from orchestrator.audit import undecided
from orchestrator.commands.cli import main
from orchestrator.verify_file import parse
from rewards.verdict import STATUSES, Verdict, correct, grader_error, wrong

ROWS: list[dict[str, Any]] = [
    {"id": "right", "gold": "72", "answer": r"so \boxed{72}", "correct": True},
    {"id": "passed", "gold": r"\frac{1}{2}", "answer": r"\boxed{0.5}", "correct": False},
    {"id": "refused", "gold": "72", "answer": "#### 72 (or 73)", "correct": 1},
    {"id": "wrong", "gold": "5", "answer": "I do [not] know \x1b[31m", "correct": 0},
    {"id": "nested", "gold": "5", "answer": rf"\boxed{{{'(' * 60}5{')' * 60}}}"},
    {"id": "number", "gold": "8", "answer": "first 7, then 8", "extraction": "last_number", "correct": "yes"},
    {"id": "broken", "answer": "5", "correct": True},
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")


def verify(rows: list[dict[str, Any]], *options: str) -> int:
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return main(["verify", "--input", "in.jsonl", "--workers", "1", *options])


def blocks(printed: str) -> list[list[str]]:
    """The lines of each listed row."""
    found: list[list[str]] = []
    for line in printed.splitlines():
        if ": line " in line:
            found.append([])
        if found:
            found[-1].append(line.rstrip())
    return found


def written() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def test_every_disagreement_and_undecided_answer_is_listed_first_with_its_extraction(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert verify(ROWS, "--verifier", "math", "--audit") == 0
    assert os.listdir() == ["in.jsonl"]
    printed = capsys.readouterr().err
    assert "5 of 7 rows have a label, the field `correct` (true or false)\n" in printed
    assert "false positive (labelled wrong and judged correct): 1\n" in printed
    assert "false negative (labelled right and not judged correct): 1\n" in printed
    assert "undecided (neither shown to be right nor to be wrong): 2\n" in printed
    listed = blocks(printed)
    assert [block[0] for block in listed] == [
        "false positive: line 2, id passed, labelled wrong",
        "false negative: line 3, id refused, labelled right",
        "undecided: line 5, id nested",
        "undecided: line 7, id broken, labelled right",
        "no finding: line 1, id right, labelled right",
        "no finding: line 4, id wrong, labelled wrong",
        "no finding: line 6, id number",
    ]
    assert listed[0][1:] == [r"  gold         \frac{1}{2}", "  math         correct", "    extracted  0.5"]
    assert listed[1][1:] == [
        "  gold         72",
        "  math         wrong: 72 (or 73) is not the answer",
        "    extracted  72 (or 73)",
    ]
    assert "  math         rejected: " in listed[2][2] and "(" * 57 + "..." in listed[2][3]
    assert listed[3][1:] == ["  math  grader_error: has no field 'gold'"], "there is no gold and no extraction"
    assert "I do [not] know  [31m" in listed[5][-1], "markup and control characters of an answer are shown as text"


def test_the_lines_of_an_audit_hold_extraction_finding_and_label() -> None:
    assert verify(ROWS, "--verifier", "math", "--audit", "--output", "out.jsonl") == 0
    assert [(row["id"], row["finding"], row["label"]) for row in written()] == [
        ("right", "", True),
        ("passed", "false positive", False),
        ("refused", "false negative", True),
        ("wrong", "", False),
        ("nested", "undecided", None),
        ("number", "", None),
        ("broken", "undecided", True),
    ]
    assert [row["extracted"] for row in written()][:4] == ["72", "0.5", "72 (or 73)", ROWS[3]["answer"]]
    assert written()[5]["extracted"] == "8"
    assert list(written()[0]) == ["id", "reward", "status", "reason", "seconds", "extracted", "finding", "label"]


def test_long_lists_are_cut_and_all_rows_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "LISTED", 3)
    rows = [{"id": i, "gold": "72", "answer": f"{72 - i % 2}", "correct": i < 8} for i in range(12)]
    assert verify(rows, "--verifier", "math", "--audit") == 0
    printed = capsys.readouterr().err
    # Odd answers are wrong: of the first 8, which are labelled right, 4; of the other 4, 2 are right.
    assert "correct): 2\n" in printed and "correct): 4\n" in printed
    assert [block[0].partition(",")[0] for block in blocks(printed)] == [
        *(f"false positive: line {line}" for line in (9, 11)),
        *(f"false negative: line {line}" for line in (2, 4, 6)),
    ]


@pytest.mark.parametrize("labels", [(), ("--audit",)])
def test_both_verdicts_on_a_row_can_be_read_in_80_columns(
    labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Path("own_verifier_with_a_long_name.py").write_text("def anything(answer, problem):\n    return True\n")
    compared = f"{Path.cwd()}/own_verifier_with_a_long_name.py:anything"
    rows = [{"id": "a row", "gold": "72", "answer": "#### 72 (or 73)"}]
    assert verify(rows, "--verifier", "math", "--compare", compared, *labels) == 0
    [block] = blocks(capsys.readouterr().err)
    assert block == [
        "differs: line 1, id a row",
        "  gold                      72",
        "  math                      wrong: 72 (or 73) is not the answer",
        "    extracted               72 (or 73)",
        "  own_verifier_with_a_long  correct",
        "  _name.py:anything",
    ]


def test_an_audit_of_a_run_needs_no_labels(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"verifier": "math", "problem": {"answer": "72"}, "answer": "72", "reward": 0.0, "status": "wrong"}
    assert verify([row | {"prompt_id": "a", "sample_index": 3}], "--audit", "--output", "out.jsonl") == 0
    printed = capsys.readouterr().err
    assert "1 of 1 rows get another verdict than the recorded one" in printed and "0 of 1 rows have a label" in printed
    assert (written()[0]["id"], written()[0]["changed"], written()[0]["extracted"]) == ("a#3", True, "72")


def test_answers_that_two_verifiers_reward_differently_are_listed(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path_factory.mktemp("module") / "own.py"
    module.write_text("def same(answer, problem):\n    return answer == problem['answer']\n")
    rows = [{"id": i, "gold": "0.5", "answer": answer} for i, answer in enumerate(["0.5", "1/2", r"\boxed{0.5}", "0"])]
    assert verify(rows, "--verifier", "math", "--compare", f"{module}:same", "--output", "out.jsonl") == 0
    printed = capsys.readouterr().err
    assert f"correct here alone: 2 of 4 rows; by {module}:same alone: 0\n" in printed
    assert "differs (another reward from the other verifier): 2\n" in printed
    assert "have a label" not in printed and "undecided" not in printed
    assert [(row["finding"], row["status"], row["other_status"], row["other_reward"]) for row in written()] == [
        ("", "correct", "correct", 1.0),
        ("differs", "correct", "wrong", 0.0),
        ("differs", "correct", "wrong", 0.0),
        ("", "wrong", "wrong", 0.0),
    ]
    assert written()[0]["other_version"].startswith(f"{module}:same@") and "label" not in written()[0]


@pytest.mark.skipif(find_spec("math_verify") is None, reason="the package math-verify is not installed")
def test_the_verifier_of_mathematics_is_compared_with_math_verify(capsys: pytest.CaptureFixture[str]) -> None:
    # math-verify rounds to six decimals, and reads the last number of a text; it reads no bare formula without braces.
    rows = [
        {"id": "both", "gold": "72", "answer": r"\boxed{72}"},
        {"id": "none", "gold": "72", "answer": r"\boxed{71}"},
        {"id": "rounded", "gold": "1/3", "answer": r"\boxed{0.333333}"},
        {"id": "last", "gold": "72", "answer": "it is 71, then 72 in all"},
        {"id": "bare", "gold": "1/2", "answer": r"\frac12"},
    ]
    assert verify(rows, "--verifier", "math", "--compare", "math_verify", "--audit", "--output", "out.jsonl") == 0
    assert [(row["id"], row["status"], row["other_status"], row["finding"]) for row in written()] == [
        ("both", "correct", "correct", ""),
        ("none", "wrong", "wrong", ""),
        ("rounded", "wrong", "correct", "differs"),
        ("last", "wrong", "correct", "differs"),
        ("bare", "correct", "no_answer", "differs"),
    ]
    printed = capsys.readouterr().err
    assert "correct here alone: 1 of 5 rows; by math_verify alone: 2\n" in printed
    assert blocks(printed)[0] == [
        "differs: line 3, id rounded",
        "  gold         1/3",
        "  math         wrong: 0.333333 is not the answer",
        "    extracted  0.333333",
        "  math_verify  correct",
        "    extracted  0.333333",
    ]


def test_a_row_that_cannot_be_graded_differs_for_no_verifier() -> None:
    assert verify(ROWS[-1:], "--verifier", "math", "--compare", "first_number", "--output", "out.jsonl") == 0
    [row] = written()
    assert (row["status"], row["other_status"], row["finding"]) == ("grader_error", "grader_error", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--task countdown --audit", "--audit: must be used with --input, not with --task, got True"),
        ("--task countdown --compare math", "--compare: must be used with --input, not with --task, got 'math'"),
        (
            "--verifier math --input in --compare math",
            "--compare: must be another verifier than --verifier, got 'math'",
        ),
        ("--verifier math --input in --compare mth", "--compare: must be one of countdown, math, "),
    ],
)
def test_a_bad_option_is_reported_in_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").write_text("")
    assert main(["verify", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"breadth: {message}")


def test_an_answer_is_undecided_if_its_check_was_not_carried_to_its_end() -> None:
    ended = {status for status in STATUSES if not undecided(Verdict(reward=_reward(status), status=status))}
    assert ended == {"correct", "wrong", "no_answer", "output_limit", "crash"}
    assert undecided(wrong("undecided: sympy ended at its limit")) and not undecided(wrong("5 is not the answer"))
    assert undecided(grader_error("")) and not undecided(correct())


def _reward(status: str) -> float | None:
    return None if status == "grader_error" else float(status == "correct")


@pytest.mark.parametrize(
    ("value", "label"), [(True, True), (False, False), (1, True), (0, False), (2, None), ("true", None), (None, None)]
)
def test_a_label_is_true_or_false(value: object, label: bool | None) -> None:
    assert parse(json.dumps({"id": 1, "answer": "a", "correct": value}).encode(), 1, "a.b:c").label is label
    recorded = {"verifier": "a.b:c", "problem": {}, "answer": "a", "correct": value}
    assert parse(json.dumps(recorded).encode(), 1, None).label is label
