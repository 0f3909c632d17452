"""The SQL verifier: run the query of a response and the gold query on the same databases, and compare their results.

Results compare as bags of rows (`rewards/sql/results.py`). If the gold has an ORDER BY outside all parentheses, the
order counts, except among rows that are tied on the gold's sort keys. The results must be equal on every database of
the problem. On the one with most rows, the answer's result must also be equal if SQLite reads rows without an ORDER BY
in reverse order, unless that changes the gold's result. An answer whose result does not follow the data as the gold's
does is wrong (`rewards/sql/dependence.py`).

Fields of a problem:

- `schema_sql`, a script, or `database`, the path of an SQLite file;
- `gold_sql`;
- optional: `extra_dbs`, more scripts, or more paths with `database`; `engine`, "sqlite" (default) or "duckdb";
  `columns`, "strict" (default) or "any" for columns in any order; `partial_credit`, default False; `timeout_s`,
  processor seconds of the answer on each database, default and maximum SECONDS, or GOLD_FACTOR times those of the gold
  where that is more; `gold_seconds` and `gold_rows`, processor seconds and largest number of rows of the gold on each
  database, default GOLD_SECONDS and GOLD_ROWS.

The gold runs for the first answer to a problem in a process, and its results are cached by the hash of the database.
"""

from collections.abc import Mapping
from typing import Any

from rewards.sql.dependence import Evidence, follow_data
from rewards.sql.execution import ROW_LIMIT, Database, Result, TimeBudget
from rewards.sql.expected import END_S, Expected, GoldFailed, gold_results, gold_runner, run_query
from rewards.sql.problem import SqlProblem, parse_problem
from rewards.sql.results import row_overlap, same_results
from rewards.sql.text import QueryFailed, canonical, extract
from rewards.sql.ties import cut_tie
from rewards.steps import begin_step
from rewards.verdict import RIGHT_VOTE, Verdict, correct, grader_error, wrong

COMPARE_S = 1e-4
"""Wall seconds allowed for reading and comparing one row of a result."""
PARTIAL_CREDIT = 0.5
"""With `partial_credit`, the reward of a wrong answer is this times `row_overlap`."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return whether the query of a response returns the same as the gold query on every database.

    Args:
        answer: the text of the response.
        problem: the fields are listed at the top of this module.
    Returns: the status is correct, wrong, or grader_error if the problem or its gold fails; no_answer or rejected if
        the response has no query that may run; timeout, memory or output_limit if the query exceeds a limit. The reason
        says on how many databases and variants the results agree.

    Example: gold `SELECT COUNT(*) FROM t` and response "SELECT COUNT(1) FROM t" -> correct; "SELECT 3" -> wrong, even
    if t has three rows.
    """
    try:
        parsed = parse_problem(problem)
        golds = gold_results(parsed)
        if len({len(gold.result.columns) for gold in golds}) > 1:
            raise GoldFailed("gold_sql: must return the same number of columns on every database")
    except (ValueError, GoldFailed) as error:
        return grader_error(str(error))
    try:
        query = extract(answer, parsed.engine)
        results = []
        for database, gold in zip(parsed.databases, golds, strict=True):
            results.append(_run_answer(database, query, gold, parsed))
            if not gold.equals(results[-1], parsed.any_columns):
                return _wrong_result(gold, results[-1], parsed, len(results))
        if _depends_on_reading_order(parsed, query, golds):
            return wrong("the result depends on the order in which rows are read")
        evidence = follow_data(parsed, query, golds, results)
    except QueryFailed as error:
        return Verdict(reward=0.0, status=error.status, reason=error.reason)
    if evidence.fault:
        return wrong(evidence.fault + _agreement("; equal on", evidence))
    where = f"equal on {len(golds)} database{'s' if len(golds) > 1 else ''}"
    return correct(where + _agreement(" and", evidence), canonical(query, parsed.engine), vote=RIGHT_VOTE)


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """Return the faults of a problem; an empty list if it has none.

    The gold must be one query that runs within the limits, returns the same result twice, returns a row on at least one
    database, and does not depend on the order in which rows are read. Where a LIMIT keeps some of several rows that are
    equal in ORDER BY, for example, a right answer could be graded as wrong.
    """
    try:
        parsed = parse_problem(problem)
        golds = gold_results(parsed)
        if not any(gold.result.rows for gold in golds):
            return ["gold_sql: must return a row on at least one database"]
        for database, gold in zip(parsed.databases, golds, strict=True):
            if not gold.any_order:
                return ["gold_sql: must not depend on the order in which rows are read"]
            budget = TimeBudget(parsed.gold_seconds)
            begin_step(budget.wall_seconds + END_S)
            if cut := cut_tie(parsed.gold, parsed.engine, gold_runner(database, budget)):
                return [f"gold_sql: its LIMIT must not cut a tie, got {cut} between different rows"]
    except (ValueError, GoldFailed) as error:
        return [str(error)]
    verdict = verify(parsed.gold, problem)
    return [] if verdict.status == "correct" else [f"gold_sql: must be correct itself, got {verdict.reason}"]


def _run_answer(
    database: Database, query: str, gold: Expected, parsed: SqlProblem, *, reverse_unordered: bool = False
) -> Result:
    """Run the answer. A row more than the gold has is enough to see that they differ, unless the overlap is needed."""
    rows = max(ROW_LIMIT, len(gold.result.rows)) if parsed.partial_credit else len(gold.result.rows)
    budget = gold.answer_budget(parsed.seconds)
    begin_step(budget.wall_seconds + END_S + COMPARE_S * len(gold.result.rows))
    options: dict[str, Any] = {"row_limit": rows, "reverse_unordered": reverse_unordered}
    return run_query(database, query, budget, column_count=len(gold.result.columns), **options)


def _depends_on_reading_order(parsed: SqlProblem, query: str, golds: list[Expected]) -> bool:
    """Return whether the answer differs from the gold if SQLite reads rows without an ORDER BY in reverse order."""
    most_rows = max(golds, key=lambda gold: len(gold.result.rows))
    if parsed.engine != "sqlite" or not most_rows.any_order:
        return False
    database = parsed.databases[golds.index(most_rows)]
    result = _run_answer(database, query, most_rows, parsed, reverse_unordered=True)
    return not most_rows.equals(result, parsed.any_columns)


def _wrong_result(gold: Expected, result: Result, parsed: SqlProblem, number: int) -> Verdict:
    """Return the verdict on a result that differs from the gold's, with partial credit if the problem allows it.

    Args:
        number: that of the database, from 1.
    """
    where = f" on database {number} of {len(parsed.databases)}" if len(parsed.databases) > 1 else ""
    vote = f"{number}: {sorted(map(repr, result.rows))}"  # the result, up to the order of its rows
    if len(result.columns) != len(gold.result.columns):
        return wrong(f"returns a different number of columns{where}", vote=vote)
    if gold.tie_lengths is not None and same_results(gold.result.rows, None, result.rows, parsed.any_columns):
        reason = f"returns the rows in a different order{where}"
    else:
        reason = f"returns different rows{where}"
    reward = PARTIAL_CREDIT * row_overlap(gold.result.rows, result.rows) if parsed.partial_credit else 0.0
    return Verdict(reward=reward, status="wrong", reason=reason, vote=vote)


def _agreement(before: str, evidence: Evidence) -> str:
    """Return on how many variants the answer equals the gold, or "" if none was compared."""
    return f"{before} {evidence.agreed} of {evidence.compared} variants" if evidence.compared else ""
