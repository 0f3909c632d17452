"""Limits of time and rows: the gold has its own, and the answer has one for each database, relative to the gold's."""

import asyncio
from typing import Any

import pytest

from rewards.sql import expected as sql_expected
from rewards.sql.query import verify
from rewards.verdict import Verdict
from rewards.workers.pool import Pool

BIG_ROWS = 92_450
COUNT = "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n LIMIT {rows})"
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows}) SELECT max(i) + max(a) FROM n, t"
SLOW_ROWS = 300_000


def database(rows: int, first: int = 0) -> str:
    return f"CREATE TABLE t (a INTEGER); {COUNT.format(first=first, rows=rows)} INSERT INTO t SELECT i FROM n;"


def test_the_gold_runs_once_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[str] = []
    run = sql_expected.run_query

    def noted(*arguments: Any, **options: Any) -> Any:
        queries.append(arguments[1])
        return run(*arguments, **options)

    monkeypatch.setattr(sql_expected, "run_query", noted)
    problem = {"schema_sql": database(7), "extra_dbs": [database(9)], "gold_sql": "SELECT a FROM t WHERE a >= 0"}
    assert verify("SELECT a + 0 FROM t", problem).status == "correct"
    assert queries == [problem["gold_sql"]] * 4  # in both orders of reading rows, on each database
    assert verify("SELECT a - 0 FROM t", problem).status == "correct"
    assert verify("SELECT 1 FROM t", problem).status == "wrong"
    assert len(queries) == 4


def test_many_databases_with_many_rows_work() -> None:
    scripts = [database(8_000, first) for first in range(39)]
    problem = {"schema_sql": scripts[0], "extra_dbs": scripts[1:], "gold_sql": "SELECT a FROM t ORDER BY a DESC"}
    verdict = verify("SELECT a AS b FROM t ORDER BY b DESC", problem)
    assert (verdict.status, verdict.reason) == ("correct", "equal on 39 databases")
    verdict = verify("SELECT a FROM t WHERE a <> 8037 ORDER BY a DESC", problem)
    assert (verdict.status, verdict.reason) == ("wrong", "returns different rows on database 39 of 39")


def test_a_result_of_many_rows_works_up_to_the_limit_of_the_problem() -> None:
    problem = {"schema_sql": database(BIG_ROWS), "gold_sql": "SELECT a, -a FROM t"}
    assert verify("SELECT a, 0 - a FROM t ORDER BY a", problem).status == "correct"
    assert verify("SELECT a, 0 - a FROM t WHERE a > 0 UNION ALL SELECT 0, 1", problem).status == "wrong"
    verdict = verify("SELECT 1", problem | {"gold_sql": "SELECT a FROM t", "gold_rows": BIG_ROWS - 1})
    assert verdict.status == "grader_error"
    assert verdict.reason == "gold_sql: must run within the limits, got the result has more than 92449 rows"


def test_an_answer_may_take_several_times_as_long_as_the_gold() -> None:
    slow = SLOW.format(rows=SLOW_ROWS)
    problem = {"schema_sql": database(2), "extra_dbs": [database(3)], "gold_sql": slow, "timeout_s": 1e-6}
    assert verify(slow.lower(), problem).status == "correct"
    verdict = verify(SLOW.format(rows=int(SLOW_ROWS * sql_expected.GOLD_FACTOR * 10)), problem)
    assert (verdict.status, verdict.reason) == ("timeout", "the query takes too long")
    verdict = verify(slow, problem | {"schema_sql": database(4), "gold_seconds": 1e-3})
    assert verdict.status == "grader_error"
    assert verdict.reason == "gold_sql: must run within the limits, got the query takes too long"


@pytest.mark.slow
def test_a_gold_may_take_longer_than_a_pool_allows_for_an_answer() -> None:
    async def main() -> list[Verdict]:
        pool = Pool(1, 0.2, 20.0)
        slow = SLOW.format(rows=3 * SLOW_ROWS)
        problem = {"schema_sql": database(2), "gold_sql": slow}
        try:
            return [await pool.run("sql", problem, answer) for answer in (slow.lower(), "SELECT a FROM t", slow)]
        finally:
            await pool.close()

    verdicts = asyncio.run(main())
    assert [verdict.status for verdict in verdicts] == ["correct", "wrong", "correct"], verdicts
