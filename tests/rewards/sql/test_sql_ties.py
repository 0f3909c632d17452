"""Gold queries whose LIMIT keeps some of several rows that are equal in ORDER BY."""

import pytest

from rewards.sql.query import check_problem

SCORES = (
    "CREATE TABLE scores (name TEXT, score INTEGER, team TEXT);"
    "INSERT INTO scores VALUES ('a', 9, 'x'), ('b', 9, 'y'), ('c', 7, 'x'), ('d', 7, 'z'), ('e', 1, 'y');"
)


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
@pytest.mark.parametrize(
    ("gold", "named"),
    [
        # a and b have the highest score: either may be the first row.
        ("SELECT name FROM scores ORDER BY score DESC LIMIT 1", "ORDER BY score DESC LIMIT 1"),
        ("SELECT name FROM scores ORDER BY score DESC LIMIT 3", "ORDER BY score DESC LIMIT 3"),
        ("SELECT name FROM scores ORDER BY score DESC LIMIT 2 OFFSET 1", "ORDER BY score DESC LIMIT 2 OFFSET 1"),
        ("SELECT team FROM scores GROUP BY team ORDER BY COUNT(*) DESC LIMIT 1", "ORDER BY COUNT(*) DESC LIMIT 1"),
        (
            "SELECT team FROM scores WHERE name = (SELECT name FROM scores ORDER BY score DESC LIMIT 1)",
            "ORDER BY score DESC LIMIT 1",
        ),
        (
            "WITH low AS (SELECT * FROM scores WHERE score < 9) SELECT name FROM low ORDER BY score DESC LIMIT 1",
            "ORDER BY score DESC LIMIT 1",
        ),
    ],
)
def test_a_limit_that_cuts_a_tie_is_named(engine: str, gold: str, named: str) -> None:
    [fault] = check_problem({"schema_sql": SCORES, "gold_sql": gold, "engine": engine})
    assert fault == f"gold_sql: its LIMIT must not cut a tie, got {named} between different rows"


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
@pytest.mark.parametrize(
    "gold",
    [
        "SELECT name FROM scores ORDER BY score DESC LIMIT 2",  # the whole tie is kept
        "SELECT name FROM scores ORDER BY score DESC, name LIMIT 1",
        "SELECT score FROM scores ORDER BY score DESC LIMIT 1",  # both rows are 9
        "SELECT name FROM scores ORDER BY score LIMIT 1",
        "SELECT name FROM scores ORDER BY score DESC LIMIT 9",
        "SELECT name FROM scores ORDER BY score DESC",
        "SELECT name FROM scores WHERE score = (SELECT score FROM scores ORDER BY score DESC LIMIT 1)",
    ],
)
def test_a_limit_that_keeps_every_tie_whole_is_no_fault(engine: str, gold: str) -> None:
    assert check_problem({"schema_sql": SCORES, "gold_sql": gold, "engine": engine}) == []
