"""Check the SQL verifier: labelled pairs, extraction from responses, comparison of results, and faulty problems."""

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.sql.gold import is_ordered, literals, sort_keys
from rewards.sql.query import check_problem, verify
from rewards.sql.results import row_overlap, run_lengths, same_bag, same_cells, same_results, same_rows
from rewards.sql.text import QueryFailed, extract, significant, statements, tokens
from rewards.verdict import Verdict
from rewards.workers.pool import Pool

LINES = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()]
SCRIPTS = {line["schema"]: line["script"] for line in LINES if "script" in line}
PAIRS = [line for line in LINES if "gold" in line]
BIRDS = """CREATE TABLE birds (name TEXT, grams INTEGER, seen TEXT);
INSERT INTO birds VALUES ('wren',9,'2020-01-01'),('robin',18,'2020-01-02'),('swan',11000,NULL),
  ('crow',18,'2021-05-05');"""


def status_of(answer: str, gold: str, schema: str = BIRDS, **options: Any) -> str:
    return verify(answer, {"schema_sql": schema, "gold_sql": gold, **options}).status


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["id"])
def test_the_verdict_on_a_pair_is_its_label(pair: dict[str, Any]) -> None:
    problem = {"schema_sql": SCRIPTS[pair["schema"]], "gold_sql": pair["gold"]}
    problem |= {"extra_dbs": [SCRIPTS[name] for name in pair.get("extra", [])]}
    problem |= {"columns": pair["columns"]} if "columns" in pair else {}
    verdict = verify(pair["answer"], problem)
    assert verdict.status == ("correct" if pair["equal"] else "wrong"), verdict.reason
    assert verdict.reward == float(pair["equal"])
    assert verify(pair["gold"], problem).status == "correct"
    assert pair["id"].startswith("school: empty gold") or check_problem(problem) == []


def test_the_data_has_enough_equal_and_unequal_pairs() -> None:
    assert len(PAIRS) >= 150
    assert sum(pair["equal"] for pair in PAIRS) >= 60
    assert sum(not pair["equal"] for pair in PAIRS) >= 60


EXTRACTED = [
    ("SELECT 1", "SELECT 1"),
    ("  select 1 ;\n", "select 1"),
    (";;SELECT 1;;", "SELECT 1"),
    ("-- first\nSELECT 1 -- last", "SELECT 1 -- last"),
    ("/* a; b */ SELECT ';' AS \"x;y\";", "SELECT ';' AS \"x;y\""),
    ("```sql\nSELECT 1;\n```", "SELECT 1"),
    ("```SQL\nSELECT 1\n```\nIt returns 1.", "SELECT 1"),
    ("```sqlite\nSELECT 1\n```", "SELECT 1"),
    ("```sql SELECT 1```", "SELECT 1"),
    ("```SELECT 1```", "SELECT 1"),
    ("```\nSELECT 1\n```", "SELECT 1"),
    (
        "```\n-- a comment\nWITH a AS (SELECT 1) SELECT * FROM a\n```",
        "-- a comment\nWITH a AS (SELECT 1) SELECT * FROM a",
    ),
    ("```sql\nSELECT 1\n```\nprints\n```\n1\n```", "SELECT 1"),
    ("```sql\nSELECT 1\n```\nprints\n```text\nSELECT\n```", "SELECT 1"),
    ("```python\nSELECT 1\n```\n```\nSELECT 2\n```", "SELECT 2"),
    ("```sql\nSELECT 1\n```\nBetter:\n```sql\nSELECT 2\n```", "SELECT 2"),
    ("```sql\nSELECT 1\n```\n```sql\n-- that is all\n```", "SELECT 1"),
    ("```sql\nSELECT name\nFROM t", "SELECT name\nFROM t"),
    ("<think>SELECT 1</think>SELECT 2", "SELECT 2"),
    ("<think>a</think>b<think>```sql\nSELECT 1\n```</think>\n```sql\nSELECT 2\n```", "SELECT 2"),
    ("no tag opens, SELECT 1 </think> SELECT 2", "SELECT 2"),
    ("<answer>SELECT 1</answer>", "SELECT 1"),
    ("<answer>SELECT 1</answer> no: <answer>\n```sql\nSELECT 2\n```\n</answer>", "SELECT 2"),
    ("Reasoning.\n<sql>SELECT 1</sql>", "SELECT 1"),
    ("The answer is SELECT 1", "SELECT 1"),
    ("The final answer is: `SELECT 1`.", "SELECT 1"),
    ("**Answer:** SELECT 1;", "SELECT 1"),
    ("SQL: SELECT name FROM t WHERE a = 'x;y'", "SELECT name FROM t WHERE a = 'x;y'"),
    ("Here is the query:\n\nSELECT name\nFROM t;\n\nIt selects the names.", "SELECT name\nFROM t"),
    ("Here is the query:\nSELECT name\nFROM t\n\nWith this you get the names.", "SELECT name\nFROM t"),
    ("SELECT name\nFROM t\nThis returns names; all of them.", "SELECT name\nFROM t"),
    ("SELECT name\n\nFROM t\n\nWHERE a = 1", "SELECT name\n\nFROM t\n\nWHERE a = 1"),
    ("WITH a AS (\n\nSELECT 1\n\n),\n\nb AS (SELECT 2)\n\nSELECT * FROM a, b", None),
    ("WITH RECURSIVE a(n) AS (SELECT 1) SELECT n FROM a", None),
    ("With the schema given, we need:\n\nSELECT name FROM t", "SELECT name FROM t"),
    ("Select the names. The query:\n\nSELECT name FROM t", "SELECT name FROM t"),
    ("First try:\nSELECT 1;\nThat is wrong. Better:\nSELECT 2;", "SELECT 2"),
    ("VALUES (1), (2)", None),
    ("select a\n\nfrom t\n\nwhere b = 1", None),
    ("SELECT a FROM t\n```\n", "SELECT a FROM t"),
    ("SELECT a FROM t;\n```\nThis is it.", "SELECT a FROM t"),
    ("SELECT a FROM t\nUNION\nSELECT b FROM t", None),
    ("Create a query that counts:\n\nSELECT COUNT(*) FROM t", "SELECT COUNT(*) FROM t"),
    ("SELECT a FROM t;\n\nFrom this we get a.\nUse `a`, which is set to 1. Explain: it is select.", "SELECT a FROM t"),
    ("The status is set.\nUse this:\nSELECT a FROM t", "SELECT a FROM t"),
    ("Values are in column a.\nSELECT a FROM t", "SELECT a FROM t"),
]
NOT_EXTRACTED = [
    ("", "no_answer"),
    ("I do not know.", "no_answer"),
    ("```\n| a |\n```", "no_answer"),
    ("```sql\n```", "no_answer"),
    ("<think>SELECT 1", "no_answer"),
    ("/* SELECT 1", "no_answer"),
    ("SELECT 1; SELECT 2", "rejected"),
    ("SELECT 1;\n-- and\nSELECT 2;", "rejected"),
    ("```sql\nSELECT 1;\nSELECT 2;\n```", "rejected"),
    ("SELECT 1; DROP TABLE t", "rejected"),
    ("EXPLAIN SELECT 1", "rejected"),
    ("Explain\nSELECT 1", "rejected"),
    ("explain/* */\nselect 1", "rejected"),
    ("CREATE TABLE x AS\nSELECT 1", "rejected"),
    ("INSERT INTO x\nSELECT 1", "rejected"),
    ("Sure:\n\nDELETE FROM t", "rejected"),
    ("PRAGMA query_only", "rejected"),
    ("SELECT '" + "x" * 30_000 + "'", "rejected"),
]


@pytest.mark.parametrize(("response", "statement"), EXTRACTED)
def test_the_statement_of_a_response_is_found(response: str, statement: str | None) -> None:
    assert extract(response) == (response if statement is None else statement)


WRAPPINGS = [
    "{}",
    "```sql\n{}\n```",
    "```\n{};\n```",
    "<think>\n```sql\nSELECT 0\n```\n</think>\n\n```sql\n{}\n```\n\nThis is **right**; isn't it?",
    "Here it is:\n\n{}\n;\nThat's all.",
    "<answer>\n{}\n</answer>",
    "SQL: {}\n\nThe query's rows are the answer.",
]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_gold_is_found_in_any_wrapping(wrapping: str) -> None:
    for pair in PAIRS:
        assert statements(extract(wrapping.replace("{}", pair["gold"])), "sqlite") == statements(pair["gold"], "sqlite")


@pytest.mark.parametrize(("response", "status"), NOT_EXTRACTED)
def test_a_response_without_exactly_one_query_raises_its_status(response: str, status: str) -> None:
    with pytest.raises(QueryFailed) as failure:
        extract(response)
    assert failure.value.status == status


@given(st.text(st.sampled_from("SELECT WITH ;'\"`[]()-/*\n:ab1.$"), max_size=80))
@settings(max_examples=300, deadline=None)
def test_the_tokens_of_any_text_join_to_the_text_and_its_verdict_is_not_an_exception(text: str) -> None:
    for engine in ("sqlite", "duckdb"):
        assert "".join(token.text for token in tokens(text, engine)) == text
    assert all(list(significant(part, "sqlite")) for part in statements(text, "sqlite"))
    assert status_of(text, "SELECT name FROM birds") in ("wrong", "no_answer", "rejected")


def test_only_rows_tied_on_the_sort_keys_may_be_in_any_order() -> None:
    gold = "SELECT name FROM birds ORDER BY grams"
    assert status_of("SELECT name FROM birds ORDER BY grams, name", gold) == "correct"
    assert status_of("SELECT name FROM birds ORDER BY grams, name DESC", gold) == "correct"
    assert status_of("SELECT name FROM birds ORDER BY name", gold) == "wrong"


def test_a_result_is_compared_in_order_only_for_an_order_by_outside_parentheses_strings_and_comments() -> None:
    ordered = ["SELECT a FROM t ORDER BY a", "select a from t order\n\tby a", "SELECT a FROM t ORDER/* */BY a LIMIT 1"]
    unordered = [
        "SELECT a FROM (SELECT a FROM t ORDER BY a)",
        "SELECT 'ORDER BY' FROM t",
        "SELECT a FROM t -- ORDER BY a",
    ]
    unordered += [
        "SELECT rank() OVER (ORDER BY a) FROM t",
        'SELECT "ORDER BY" FROM t',
        "SELECT a AS [ORDER BY a] FROM t",
    ]
    assert [is_ordered(gold, "sqlite") for gold in ordered + unordered] == [True] * 3 + [False] * 6


def test_sort_keys_are_found_among_the_output_or_appended_to_it() -> None:
    def places(gold: str, *columns: str) -> tuple[int, ...] | None:
        found = sort_keys(gold, columns, "sqlite")
        return None if found is None else found.indices

    assert places("SELECT a, b FROM t ORDER BY 2, a DESC", "a", "b") == (1, 0)
    assert places("SELECT a, MAX(b) FROM t GROUP BY a ORDER BY MAX(b)", "a", "MAX(b)") == (1,)
    assert places("SELECT a FROM t ORDER BY b, c + 1", "a") == (1, 2)
    assert places("SELECT DISTINCT a FROM t ORDER BY b", "a") is None
    assert places("SELECT a FROM t UNION SELECT b FROM t ORDER BY a", "a") == (0,)
    assert places("SELECT a FROM t ORDER/**/BY ((", "a") is None


def test_an_answer_must_equal_the_gold_on_every_database() -> None:
    more = BIRDS + "INSERT INTO birds VALUES ('kite', 900, NULL);"
    gold, lucky = "SELECT COUNT(*) FROM birds", "SELECT COUNT(*) FROM birds WHERE grams <> 900"
    assert status_of(lucky, gold) == "correct"
    assert status_of(lucky, gold, extra_dbs=[BIRDS, more]) == "wrong"
    assert status_of("SELECT SUM(1) FROM birds", gold, extra_dbs=[BIRDS, more]) == "correct"


@pytest.mark.parametrize(
    "constant", ["SELECT 4", "SELECT 4 FROM birds LIMIT 1", "VALUES (4)", "SELECT max(grams)*0+4 FROM birds"]
)
def test_a_constant_is_wrong_if_the_gold_depends_on_the_data(constant: str) -> None:
    assert status_of(constant, "SELECT COUNT(*) FROM birds") == "wrong"
    assert status_of(constant, "SELECT 2 + 2") == "correct"


def test_an_empty_result_is_correct_only_for_a_query_that_can_return_rows() -> None:
    gold = "SELECT name FROM birds WHERE grams > 20000"
    for right in (
        gold,
        "SELECT name FROM birds WHERE NOT grams <= 20000",
        "SELECT name FROM birds WHERE grams / 2 > 10000",
    ):
        assert status_of(right, gold) == "correct", right
    for constant in ("SELECT 1 WHERE 0", "SELECT name FROM birds WHERE 0", "SELECT name FROM birds LIMIT 0"):
        assert status_of(constant, gold) == "wrong", constant
    assert status_of("SELECT name, grams FROM birds WHERE grams > 20000", gold) == "wrong"
    impossible = "SELECT name FROM birds WHERE grams IS NULL AND grams = 5"
    assert status_of("SELECT name FROM birds WHERE grams = 5 AND grams IS NULL", impossible) == "correct"
    assert status_of("SELECT name FROM birds WHERE 0", impossible) == "wrong"


def test_columns_may_be_in_another_order_only_if_the_problem_allows_it_and_up_to_five() -> None:
    gold = "SELECT name, grams, seen FROM birds"
    assert status_of("SELECT seen, name, grams FROM birds", gold) == "wrong"
    assert status_of("SELECT seen, name, grams FROM birds", gold, columns="any") == "correct"
    wide = "SELECT name, grams, seen, 1, 2, 3 FROM birds"
    assert status_of("SELECT grams, name, seen, 1, 2, 3 FROM birds", wide, columns="any") == "wrong"


def test_partial_credit_is_off_by_default_and_below_one() -> None:
    problem = {"schema_sql": BIRDS, "gold_sql": "SELECT name FROM birds ORDER BY name"}
    answer = "SELECT name FROM birds WHERE grams < 1000"
    assert verify(answer, problem).reward == 0.0
    assert verify(answer, problem | {"partial_credit": True}).reward == pytest.approx(0.5 * 6 / 7)
    reversed_rows = verify("SELECT name FROM birds ORDER BY name DESC", problem | {"partial_credit": True})
    assert (reversed_rows.reward, reversed_rows.status) == (0.5, "wrong")


def test_a_database_file_is_read_but_not_written(tmp_path: Path) -> None:
    first, second = tmp_path / "one #1?.sqlite", tmp_path / "two.sqlite"
    for path, script in ((first, BIRDS), (second, BIRDS + "DELETE FROM birds WHERE grams = 18;")):
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()
    before = first.read_bytes()
    problem = {"database": str(first), "gold_sql": "SELECT COUNT(*) FROM birds", "extra_dbs": [str(second)]}
    assert verify("SELECT COUNT(name) FROM birds", problem).status == "correct"
    assert verify("SELECT COUNT(*) FROM birds WHERE grams <> 19 OR seen = 4", problem).status == "correct"
    assert verify("SELECT 4", problem).status == "wrong"
    assert verify("DELETE FROM birds RETURNING 4", problem).status == "rejected"
    assert first.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]
    del problem["extra_dbs"]
    assert verify("SELECT COUNT(*) FROM birds WHERE grams > 0", problem).status == "correct"
    first.write_bytes(second.read_bytes())
    assert verify("SELECT COUNT(*) FROM birds WHERE grams > 0", problem).status == "correct"


FAULTY = [
    ({"gold_sql": "SELECT nme FROM birds"}, "gold_sql: must run within the limits"),
    ({"gold_sql": "DELETE FROM birds"}, "gold_sql: must run within the limits"),
    ({"gold_sql": "SELECT 1; SELECT 2"}, "gold_sql: must be one statement"),
    ({"gold_sql": ""}, "gold_sql: must be one statement"),
    ({"gold_sql": 5}, "gold_sql: must be a string"),
    ({"gold_sql": "SELECT random()"}, "gold_sql: must run within the limits"),
    ({"gold_sql": "SELECT name FROM birds WHERE julianday('now') > 2 AND strftime('%f','now') <> ''"}, ""),
    ({"schema_sql": "CREATE TABEL x"}, "gold_sql: must run within the limits, got the database cannot be built"),
    ({"schema_sql": None}, "schema_sql: must be a string"),
    ({"schema_sql": None, "database": "/nowhere/x.sqlite"}, "gold_sql: must run within the limits"),
    ({"engine": "oracle"}, "engine: must be sqlite or duckdb"),
    ({"columns": "some"}, "columns: must be strict or any"),
    ({"extra_dbs": "script"}, "extra_dbs: must be a list of strings"),
    ({"extra_dbs": ["CREATE TABLE x (y)"]}, "gold_sql: must run within the limits"),
    ({"timeout_s": 0}, "timeout_s: must be a number above 0"),
    ({"gold_seconds": 0}, "gold_seconds: must be a number in (0, 1000], got 0"),
    ({"gold_rows": 0}, "gold_rows: must be a whole number above 0, got 0"),
    ({"gold_rows": 3}, "gold_sql: must run within the limits, got the result has more than 3 rows"),
]


@pytest.mark.parametrize(("fields", "reason"), FAULTY)
def test_a_faulty_problem_gets_a_grader_error_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    problem = {"schema_sql": BIRDS, "gold_sql": "SELECT name FROM birds"} | fields
    verdict = verify("SELECT name FROM birds", problem)
    assert (verdict.status == "grader_error") == bool(reason)
    assert verdict.reason.startswith(reason)
    assert bool(check_problem(problem)) == bool(reason)


def test_a_gold_that_changes_between_two_runs_is_a_grader_error() -> None:
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 30000)"
    gold = f"{slow} SELECT COUNT(*), strftime('%f', 'now') FROM n"
    verdict = verify("SELECT 1", {"schema_sql": BIRDS, "gold_sql": gold})
    assert (verdict.status, verdict.reason) == ("grader_error", "gold_sql: must return the same result when run again")


def test_a_slow_gold_is_a_grader_error_and_a_slow_answer_a_timeout() -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT COUNT(*) FROM n, birds"
    assert status_of("SELECT COUNT(*) FROM birds", endless, gold_seconds=0.1) == "grader_error"
    assert status_of(endless, "SELECT COUNT(*) FROM birds", timeout_s=0.1) == "timeout"


def test_golds_without_rows_or_with_an_undefined_order_are_reported() -> None:
    def faults(gold: str) -> list[str]:
        return check_problem({"schema_sql": BIRDS, "gold_sql": gold})

    assert faults("SELECT name FROM birds WHERE grams < 0") == ["gold_sql: must return a row on at least one database"]
    assert faults("SELECT name FROM birds LIMIT 1") == ["gold_sql: must not depend on the order in which rows are read"]
    assert faults("SELECT name FROM birds ORDER BY name LIMIT 1") == []


def test_reasons_do_not_contain_the_gold() -> None:
    for answer in ("SELECT 1", "SELECT name FROM birds", "SELECT name, grams FROM birds", "SELECT x", ""):
        assert "11000" not in verify(answer, {"schema_sql": BIRDS, "gold_sql": "SELECT MAX(grams) FROM birds"}).reason


def test_the_verifier_works_from_any_thread() -> None:
    statuses: list[str] = []
    answers = ["SELECT name FROM birds", "SELECT 1", "SELECT name FROM birds LIMIT 3"]
    work = [threading.Thread(target=lambda a=a: statuses.append(status_of(a, answers[0]))) for a in answers]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(20)
    assert sorted(statuses) == ["correct", "wrong", "wrong"]


CELLS = [
    (1, 1.0, True),
    (1, 2, False),
    (2**53 + 1, 2**53, False),
    (2**53 + 1, float(2**53), False),
    (0.1 + 0.2, 0.3, True),
    (1.0, 1.0 + 1e-8, False),
    (1e-20, 2e-20, False),
    (0.0, 1e-300, False),
    (1e300, -1e300, False),
    (float("inf"), float("inf"), True),
    (float("inf"), 1e308, False),
    (3, 3.0000000000000004, True),
    ("1", 1, False),
    ("a", "A", False),
    ("a", b"a", False),
    (None, None, True),
    (None, 0, False),
    (None, "", False),
    (b"", None, False),
]


@pytest.mark.parametrize(("gold", "answer", "equal"), CELLS)
def test_cells_compare_by_type_and_value(gold: Any, answer: Any, equal: bool) -> None:
    assert same_cells(gold, answer) is equal
    assert same_cells(answer, gold) is equal
    assert same_bag([(gold, 1), (5, 6)], [(5, 6), (answer, 1)]) is equal


def test_rows_with_near_reals_are_matched_even_if_sorting_pairs_them_wrongly() -> None:
    near = 1.0 + 1e-12
    assert same_bag([(1.0, 5), (near, 3)], [(near, 5), (1.0, 3)])
    assert not same_bag([(1.0, 5), (near, 3)], [(near, 5), (1.0, 4)])
    assert not same_bag([(1.0,), (1.0,), (2.0,)], [(1.0,), (2.0,), (2.0,)])
    # The first gold row is near both answer rows, the second near one only, so the matching must give it that one.
    assert same_bag([(1.0, 1 + 9e-10), (near, 1.0)], [(1.0, 1 + 1e-11), (near, 1 + 18e-10)])
    assert not same_bag([(1.0, 1 + 9e-10), (near, 1.0)], [(1.0, 1 + 18e-10), (near, 1 + 18e-10)])


cells = st.one_of(
    st.none(), st.integers(-3, 3), st.sampled_from([0.1, 0.1 + 1e-13, 1.0, 2.5]), st.sampled_from(["", "a", "1"])
)
tables = st.lists(st.tuples(cells, cells), max_size=6)


@given(tables, tables, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_only_ordered_rows_depend_on_order_and_bags_compare_symmetrically(
    one: list[Any], two: list[Any], rng: Any
) -> None:
    shuffled = rng.sample(one, len(one))
    swapped = [(b, a) for a, b in shuffled]
    assert same_bag(one, shuffled)
    assert same_bag(one, two) == same_bag(two, one)
    assert same_rows(one, (1,) * len(one), shuffled) == all(map(same_bag, ([r] for r in one), ([r] for r in shuffled)))
    assert same_results(one, None, swapped, any_column_order=True)
    assert same_results(one, None, swapped, any_column_order=False) == same_bag(one, swapped)
    assert not same_bag(one, [*shuffled, (None, None)])
    assert 0 <= row_overlap(one, two) == row_overlap(two, one) <= 1
    assert sum(run_lengths(one)) == len(one)


def test_literals_are_read_from_the_text_of_a_query() -> None:
    query = "SELECT 'a''b', 12 FROM t WHERE x > 1.5 AND y = 'a''b' -- 'no' 99"
    assert literals(query, "sqlite") == ["a'b", 12, 1.5]


DUCK = """CREATE TABLE birds (name TEXT, grams INTEGER, seen DATE);
INSERT INTO birds VALUES ('wren',9,'2020-01-01'),('swan',11000,NULL);"""
DUCK_CASES = [
    ("SELECT name FROM birds WHERE grams > 10", "SELECT name FROM birds WHERE grams > 10", "correct"),
    ("SELECT name FROM birds", "SELECT name FROM birds ORDER BY grams", "correct"),
    ("SELECT name FROM birds ORDER BY grams DESC", "SELECT name FROM birds ORDER BY grams", "wrong"),
    ("SELECT date_trunc('day', seen) FROM birds", "SELECT seen FROM birds", "correct"),
    ("SELECT [grams, 1] FROM birds", "SELECT list_value(grams, 1) FROM birds", "correct"),
    ("SELECT grams::DECIMAL(9,2) FROM birds", "SELECT grams FROM birds", "correct"),
    ("SELECT grams::VARCHAR FROM birds", "SELECT grams FROM birds", "wrong"),
    ("SELECT 2", "SELECT COUNT(*) FROM birds", "wrong"),
    ("SELECT name, grams FROM birds WHERE grams < 0", "SELECT name FROM birds WHERE grams < 0", "wrong"),
    ("SELECT name FROM birds WHERE grams < -1", "SELECT name FROM birds WHERE grams < 0", "correct"),
    ("SELECT nme FROM birds", "SELECT name FROM birds", "wrong"),
    ("FROM birds", "SELECT * FROM birds", "no_answer"),
    ("INSERT INTO birds VALUES ('x', 1, NULL) RETURNING name", "SELECT name FROM birds", "rejected"),
    ("WITH x AS (DELETE FROM birds RETURNING name) SELECT name FROM x", "SELECT name FROM birds", "wrong"),
    ("COPY birds TO '/tmp/birds.csv'", "SELECT name FROM birds", "rejected"),
    ("ATTACH '/tmp/birds.duckdb'", "SELECT name FROM birds", "rejected"),
    ("SELECT * FROM read_csv('/etc/passwd')", "SELECT name FROM birds", "rejected"),
    ("SELECT name FROM '/etc/passwd'", "SELECT name FROM birds", "wrong"),
    ("SELECT name FROM duckdb_settings()", "SELECT name FROM birds", "rejected"),
    ("SELECT * FROM query('SELECT name FROM birds')", "SELECT name FROM birds", "rejected"),
    ("SELECT $$'$$ || random() || $$'$$", "SELECT name FROM birds", "rejected"),
    ("SELECT E'\\'' || random() || E'\\''", "SELECT name FROM birds", "rejected"),
    ("SELECT 1 /* /* */ ' */ + random() /* ' */", "SELECT name FROM birds", "rejected"),
    ("SELECT length(repeat('x', 2000000000))", "SELECT name FROM birds", "rejected"),
    ("SELECT SUM(a.range) FROM range(100000000000) a, birds", "SELECT COUNT(*) FROM birds", "timeout"),
    ("SELECT list_sum(range(3000000000))", "SELECT COUNT(*) FROM birds", "memory"),
]


def test_duckdb_problems_are_graded_in_a_locked_database() -> None:
    """Runs in a worker of the pool, whose memory limit is the only one that applies to all of DuckDB."""
    pytest.importorskip("duckdb")
    common = {"schema_sql": DUCK, "engine": "duckdb", "timeout_s": 0.5}
    faulty_fields = [
        {"schema_sql": "CREATE TABEL"},
        {"gold_sql": "SELECT random()"},
        {"schema_sql": None, "database": "x"},
    ]

    async def main() -> tuple[list[Verdict], list[Verdict]]:
        pool = Pool(1, 5.0, 5.0)
        try:
            verdicts = [await pool.run("sql", common | {"gold_sql": gold}, answer) for answer, gold, _ in DUCK_CASES]
            return verdicts, [
                await pool.run("sql", common | {"gold_sql": "SELECT 1"} | wrong, "SELECT 1") for wrong in faulty_fields
            ]
        finally:
            await pool.close()

    verdicts, faulty_verdicts = asyncio.run(main())
    for verdict, (answer, _, status) in zip(verdicts, DUCK_CASES, strict=True):
        assert verdict.status == status, (answer, verdict)
    assert {verdict.status for verdict in faulty_verdicts} == {"grader_error"}
    assert not Path("/tmp/birds.csv").exists()
    assert not Path("/tmp/birds.duckdb").exists()


def test_right_queries_have_one_key_if_they_differ_in_spaces_comments_and_the_case_of_words() -> None:
    gold = "SELECT name FROM birds WHERE grams > 10"
    problem = {"schema_sql": BIRDS, "gold_sql": gold}
    alike = [
        gold,
        "select name\nfrom BIRDS -- all\nwhere grams>10;",
        "```sql\nSelect  name From birds Where grams > 10\n```",
    ]
    assert {verify(answer, problem).semantic_key for answer in alike} == {"SELECT NAME FROM BIRDS WHERE GRAMS > 10"}
    other = verify("SELECT name FROM birds WHERE NOT grams <= 10", problem)
    assert other.status == "correct" and other.semantic_key == "SELECT NAME FROM BIRDS WHERE NOT GRAMS < = 10"
    assert verify("SELECT seen FROM birds", problem).semantic_key == ""
