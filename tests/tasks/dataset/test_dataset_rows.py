"""Dataset rows whose answers are values or queries: their prompts, problems and right answers."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rewards.judge import judge_all
from rewards.mathematics.answer import verify
from tasks.dataset.formats import FORMATS
from tasks.dataset.rows import last_box
from tests.tasks.dataset.format_rows import (
    BIRD,
    GSM8K,
    MATH,
    ROWS,
    SPIDER,
    SQL,
    STOCK,
    make_databases,
    shown,
    source,
    without_fence,
)

UNSOLVED = ("livecodebench", "deepcoder")
"""Formats whose rows hold no right answers."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_databases(tmp_path)


def test_every_format_has_a_row_here_and_reads_it(folder: Path) -> None:
    assert ROWS.keys() == FORMATS.keys()
    for name, row in ROWS.items():
        prompt = shown(folder, name, row)
        assert prompt.verifier == FORMATS[name].verifier
        assert json.loads(json.dumps(prompt.problem)) == prompt.problem


@pytest.mark.parametrize("verifier", ["math", "sql", "code"])
def test_verifiers_accept_the_right_answers_of_the_rows(folder: Path, verifier: str) -> None:
    answered = [name for name, form in FORMATS.items() if form.verifier == verifier and name not in UNSOLVED]
    demonstrations = [source(folder, name, ROWS[name]).demonstration(0) for name in answered]
    verdicts = judge_all(verifier, [(prompt.problem, answer) for prompt, answer in demonstrations], require=0)
    assert {name: v.status for name, v in zip(answered, verdicts, strict=True)} == dict.fromkeys(answered, "correct")


def test_the_example_rows_of_the_documentation_are_read(folder: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    sections = {part.partition("\n")[0]: part for part in page.split("\n### ")[1:]}
    assert list(sections) == list(FORMATS)
    for name, section in sections.items():
        rows = [json.loads(line) for line in section.splitlines() if line.startswith('    {"')]
        assert rows
        fields = re.search("emplate fields (.*?)[.;\n]", re.sub(r"\(.*?\)", "", section))
        assert fields and tuple(re.findall("`(.*?)`", fields[1])) == FORMATS[name].fields
        for row in rows:
            assert shown(folder, name, row).verifier == FORMATS[name].verifier


def test_gsm8k_keeps_the_number_after_the_marker_and_its_worked_solution_ends_in_a_box(folder: Path) -> None:
    prompt, answer = source(folder, "gsm8k", GSM8K).demonstration(0)
    assert prompt.problem == {"answer": "84", "question": GSM8K["question"]}
    assert prompt.text == (f"{GSM8K['question']}\n\nReason step by step, and put the final answer in \\boxed{{}}.")
    assert answer == "One crate holds 6*7=42 plums.\nTwo hold 42*2=84.\n\\boxed{84}"
    assert verify(answer, prompt.problem).status == "correct"


@pytest.mark.parametrize(
    ("row", "gold", "solution"),
    [
        (MATH, "\\frac{1}{2}", MATH["solution"]),
        (MATH | {"answer": "1/2"}, "1/2", MATH["solution"]),
        ({"problem": "?", "answer": 7}, 7, "\\boxed{7}"),
        ({"question": "?", "answer": "7", "solution": "By hand."}, "7", "By hand.\n\\boxed{7}"),
    ],
)
def test_math_takes_the_answer_or_else_the_box_of_the_solution(
    folder: Path, row: dict, gold: object, solution: str
) -> None:
    prompt, answer = source(folder, "math", row).demonstration(0)
    assert prompt.problem == {"answer": gold, "question": row.get("problem") or row["question"]}
    assert answer == solution
    assert verify(answer, prompt.problem).status == "correct"


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\left\\{ 1 \\right.}", "\\left\\{ 1 \\right."),
        ("so $\\boxed 7$", "7"),
        ("\\fbox{a}", "a"),
        ("\\boxed{", None),
        ("\\boxed", None),
        ("no box", None),
    ],
)
def test_the_last_box_is_read_to_its_closing_brace(text: str, box: str | None) -> None:
    assert last_box(text) == box


def test_an_sql_row_passes_its_schema_and_optional_fields_to_the_verifier(folder: Path) -> None:
    row = SQL | {"extra_dbs": [STOCK], "columns": "any", "difficulty": "easy"}
    prompt, answer = source(folder, "sql", row).demonstration(0)
    assert prompt.problem == {
        "schema_sql": STOCK,
        "gold_sql": "SELECT 'plum'",
        "extra_dbs": [STOCK],
        "columns": "any",
    }
    assert prompt.text.startswith(f"{STOCK}\n\nWhich fruit is heaviest?\n\nAnswer with one SQLite query")
    assert answer == "```sql\nSELECT 'plum'\n```"


def test_a_spider_row_names_its_databases_and_shows_their_schema(folder: Path) -> None:
    prompt, answer = source(folder, "spider", SPIDER).demonstration(0)
    farm = folder / "databases" / "farm"
    assert prompt.problem == {
        "database": str(farm / "farm.sqlite"),
        "extra_dbs": [str(farm / "farm_other.sqlite")],
        "gold_sql": SPIDER["query"],
        "columns": "any",
    }
    assert "CREATE TABLE orchard (id INTEGER PRIMARY KEY AUTOINCREMENT, planted INTEGER);" in prompt.text
    assert "CREATE VIEW old AS" in prompt.text and "sqlite_sequence" not in prompt.text
    assert SPIDER["question"] in prompt.text
    with closing(sqlite3.connect(prompt.problem["database"])) as connection:
        assert connection.execute(without_fence(answer, "sql")).fetchall() == [(1,)]


@pytest.mark.parametrize(("format_name", "row"), [("spider", SPIDER), ("bird", BIRD), ("sql", SQL)])
def test_limits_of_gold_queries_are_passed_to_the_verifier(folder: Path, format_name: str, row: dict[str, Any]) -> None:
    problem = shown(folder, format_name, row, gold_seconds=90.0, gold_rows=7).problem
    assert (problem["gold_seconds"], problem["gold_rows"]) == (90.0, 7)
    assert not {"gold_seconds", "gold_rows"} & shown(folder, format_name, row).problem.keys()


def test_a_bird_row_shows_its_evidence_where_it_has_any(folder: Path) -> None:
    prompt, answer = source(folder, "bird", BIRD).demonstration(0)
    assert prompt.problem["columns"] == "strict" and prompt.problem["gold_sql"] == BIRD["SQL"]
    assert f"{BIRD['question']}\nHint: {BIRD['evidence']}\n\nAnswer" in prompt.text
    assert without_fence(answer, "sql").strip() == BIRD["SQL"]
    for none in ({"evidence": ""}, {"evidence": None}):
        assert f"{BIRD['question']}\n\nAnswer" in shown(folder, "bird", BIRD | none).text


def test_the_path_of_a_database_is_absolute_because_graders_run_in_other_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    prompt = shown(folder, "spider", SPIDER, database_dir="databases")
    assert prompt.problem["database"] == str(folder / "databases" / "farm" / "farm.sqlite")


def test_a_template_in_the_settings_replaces_that_of_the_format(folder: Path) -> None:
    template = "<q>{question}</q> {{json}}"
    assert shown(folder, "gsm8k", GSM8K | {"question": "{answer}"}, prompt_template=template).text == (
        "<q>{answer}</q> {json}"
    )
    one, other = (source(folder, "gsm8k", GSM8K, prompt_template=t) for t in ("{question}", "Q: {question}"))
    assert one.prompt(0).id == other.prompt(0).id


def test_the_prompt_template_does_not_change_which_problems_are_held_out(folder: Path) -> None:
    rows = [GSM8K | {"question": f"How many are {i} plums?"} for i in range(60)]
    one, other = (
        source(folder, "gsm8k", *rows, heldout_fraction=0.3, prompt_template=template)
        for template in ("{question}", "Think.\n{question}")
    )
    assert [p.id for p in one.heldout(9)] == [p.id for p in other.heldout(9)]


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("gsm8k", GSM8K | {"answer": "84"}, "field 'answer' must end in '#### <answer>', got '84'"),
    ("gsm8k", GSM8K | {"answer": "so\n#### "}, "field 'answer' must end in '#### <answer>'"),
    ("gsm8k", {"answer": "#### 1"}, "has no field 'question'; its fields are 'answer'"),
    ("math", {"problem": "?"}, "must have the field 'answer', or a filled \\boxed{} in the field 'solution'"),
    ("math", {"problem": "?", "solution": "\\boxed{}"}, "must have the field 'answer', or a filled"),
    ("math", {"solution": "\\boxed{1}"}, "has no field 'problem' or 'question'"),
    ("math", MATH | {"answer": True}, "field 'answer' must be a non-empty string or a number"),
    ("sql", SQL | {"gold_sql": " "}, "field 'gold_sql' must be a non-empty string"),
    ("sql", SQL | {"extra_dbs": "CREATE"}, "field 'extra_dbs' must be a list of schema scripts"),
    ("spider", SPIDER | {"db_id": "zoo"}, "field 'db_id' must name a database, got 'zoo', but there is no"),
    ("spider", SPIDER | {"db_id": "../farm"}, "field 'db_id' must be the name of a folder"),
    ("spider", SPIDER | {"db_id": "broken"}, "field 'db_id' must name a readable database"),
    ("spider", SPIDER | {"db_id": "empty"}, "field 'db_id' must name a database with tables"),
    ("bird", BIRD | {"evidence": 3}, "field 'evidence' must be a string, got 3"),
    ("bird", SPIDER | {"query": None}, "has no field 'SQL' or 'query'"),
]


@pytest.mark.parametrize(("format_name", "row", "reason"), MALFORMED)
def test_a_row_that_does_not_fit_its_format_is_refused_with_file_line_and_reason(
    folder: Path, format_name: str, row: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError) as caught:
        source(folder, format_name, ROWS[format_name], row)
    assert str(caught.value).startswith(f"{folder / format_name}.jsonl, line 2: ")
    assert reason in str(caught.value)
