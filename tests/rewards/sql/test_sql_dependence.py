"""Answers that equal the gold by luck: constants behind a condition on the data, and rows in the order of storage."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rewards.sql.query import verify

BIRDS = """CREATE TABLE birds (id INTEGER PRIMARY KEY, name TEXT, grams INTEGER, place TEXT);
INSERT INTO birds VALUES (1,'wren',9,'wood'), (2,'robin',18,'wood'), (3,'crow',480,'field'), (4,'swan',11000,'lake'),
  (5,'owl',300,'wood'), (6,'rook',450,'field'), (7,'jay',160,'wood'), (8,'tern',110,'lake');"""
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
LONG = "hex(" * 12 + "'0123456789abcdef'" + ")" * 12
HEAVY = "SELECT count(*) FROM birds WHERE grams > 100"
WOOD = "SELECT name FROM birds WHERE place = 'wood' ORDER BY id"
RANKED = "SELECT name FROM (SELECT name, rank() OVER (ORDER BY grams DESC) r FROM birds) WHERE r < 4 ORDER BY r"
HEAVIEST = "SELECT name FROM birds ORDER BY grams DESC LIMIT 3"
MOST = "SELECT max(grams) FROM birds"
MEAN = "SELECT avg(grams) FROM birds WHERE place = 'lake'"
NAMES = "SELECT group_concat(name) FROM (SELECT name FROM birds ORDER BY id)"
FIRST = "SELECT name FROM birds WHERE id = 1"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (HEAVY, "SELECT 6 FROM birds LIMIT 1"),
        (HEAVY, "SELECT CASE WHEN count(*) = 8 THEN 6 ELSE 0 END FROM birds"),
        (HEAVY, "SELECT CASE WHEN count(*) = 8 THEN 6 END FROM birds"),
        (HEAVY, "SELECT CASE WHEN count(*) = 8 THEN 6 ELSE count(*) END FROM birds"),
        (HEAVY, "SELECT iif((SELECT sum(grams) FROM birds) = 12527, 6, 1) FROM birds LIMIT 1"),
        (HEAVY, "SELECT 2 + 4 * (count(*) = 8) FROM birds"),
        (HEAVY, "SELECT count(*) - 2 FROM birds"),
        (HEAVY, "SELECT CASE WHEN count(*) = 8 THEN 6 ELSE abs(-9223372036854775808) END FROM birds"),
        (HEAVY, f"SELECT CASE WHEN count(*) = 8 THEN 6 ELSE ({ENDLESS}) END FROM birds"),
        (HEAVY, f"SELECT CASE WHEN count(*) = 8 THEN 6 ELSE length({LONG}) END FROM birds"),
        (MOST, "SELECT CASE WHEN count(*) = 8 THEN 11000 ELSE count(*) END FROM birds"),
        (MEAN, "SELECT 5555.0 WHERE EXISTS (SELECT 1 FROM birds WHERE place = 'lake')"),
        (WOOD, "SELECT name FROM birds WHERE name IN ('wren', 'robin', 'owl', 'jay') ORDER BY id"),
    ],
)
def test_a_constant_behind_a_condition_on_the_data_is_wrong(gold: str, answer: str) -> None:
    verdict = verify(answer, {"schema_sql": BIRDS, "gold_sql": gold, "timeout_s": 0.2})
    assert verdict.status == "wrong"
    assert verdict.reason.startswith("the result does not follow the data; equal on ")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (WOOD, "SELECT name FROM birds WHERE place = 'wood'"),
        (FIRST, "SELECT name FROM birds LIMIT 1"),
        (NAMES, "SELECT group_concat(name) FROM birds"),
    ],
)
def test_a_result_in_the_order_of_storage_is_wrong(gold: str, answer: str) -> None:
    verdict = verify(answer, {"schema_sql": BIRDS, "gold_sql": gold})
    assert verdict.status == "wrong", verdict


def test_the_reason_names_the_dependence_on_the_reading_order() -> None:
    verdict = verify("SELECT name FROM birds WHERE place = 'wood'", {"schema_sql": BIRDS, "gold_sql": WOOD})
    assert verdict.reason == "the result depends on the order in which rows are read"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (HEAVY, "SELECT count(id) FROM birds WHERE NOT grams <= 100"),
        (HEAVY, "SELECT sum(grams > 100) FROM birds"),
        (HEAVY, "SELECT count(*) FROM birds WHERE grams > 100 LIMIT 6"),
        (HEAVY, "SELECT sum(CASE WHEN grams > 100 THEN 1 ELSE 0 END) FROM birds"),
        (HEAVY, "SELECT count(*) FROM birds WHERE grams >= 101"),
        (WOOD, "SELECT name FROM (SELECT * FROM birds WHERE place = 'wood' ORDER BY id)"),
        (WOOD, "WITH w AS (SELECT * FROM birds WHERE place = 'wood' ORDER BY id) SELECT name FROM w"),
        (WOOD, "SELECT name FROM birds WHERE lower(place) LIKE '%wood%' ORDER BY id ASC"),
        (HEAVIEST, RANKED),
        (FIRST, "SELECT name FROM birds ORDER BY id LIMIT 1"),
        (FIRST, "SELECT name FROM birds WHERE id = (SELECT min(id) FROM birds)"),
        (MOST, "SELECT grams FROM birds ORDER BY grams DESC LIMIT 1"),
        (MEAN, "SELECT sum(grams) * 1.0 / count(*) FROM birds WHERE place = 'lake'"),
        (MEAN, "SELECT round(avg(grams), 6) FROM birds WHERE place = 'lake'"),
        ("SELECT place, max(grams) FROM birds GROUP BY place", "SELECT place, max(grams) FROM birds GROUP BY 1"),
        # These golds depend on the reading order themselves, so no answer is tested for it.
        ("SELECT name FROM birds LIMIT 1", "SELECT b.name FROM birds b LIMIT 1"),
        ("SELECT group_concat(name) FROM birds", "SELECT group_concat(b.name) FROM birds b"),
    ],
)
def test_an_answer_that_follows_the_data_is_correct(gold: str, answer: str) -> None:
    verdict = verify(answer, {"schema_sql": BIRDS, "gold_sql": gold})
    assert verdict.status == "correct", verdict


def test_the_reason_says_on_how_many_databases_and_variants_the_results_agree() -> None:
    other = BIRDS.replace("(1,'wren',9,'wood')", "(1,'wren',900,'wood')")
    problem = {"schema_sql": BIRDS, "gold_sql": HEAVY}
    assert verify(HEAVY, problem).reason == "equal on 1 database and 1 of 1 variants"
    assert verify(HEAVY, problem | {"extra_dbs": [other, BIRDS]}).reason == "equal on 3 databases"
    lucky = verify("SELECT count(*) - 2 FROM birds", problem | {"extra_dbs": [other, BIRDS]})
    assert (lucky.status, lucky.reason) == ("wrong", "returns different rows on database 2 of 3")


def test_variants_decide_for_a_large_file_too(tmp_path: Path) -> None:
    path = tmp_path / "birds.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(BIRDS)
        gulls = ((number, "gull" * 30, number, "sea") for number in range(9, 9_000))
        connection.executemany("INSERT INTO birds VALUES (?, ?, ?, ?)", gulls)
        connection.commit()
    assert path.stat().st_size > 1_000_000
    problem = {"database": str(path), "gold_sql": "SELECT count(*) FROM birds WHERE place = 'wood'"}
    assert verify("SELECT sum(place = 'wood') FROM birds", problem).status == "correct"
    assert verify("SELECT CASE WHEN max(id) = 8999 THEN 4 ELSE 0 END FROM birds", problem).status == "wrong"
