"""Answers that equal the gold by luck: constants behind a condition on the data, rows in the order of storage, and
answers to another question."""

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
    assert verify(HEAVY, problem).reason == "equal on 1 database and 8 of 8 variants"
    assert verify(HEAVY, problem | {"extra_dbs": [other, BIRDS]}).reason == "equal on 3 databases"
    lucky = verify("SELECT count(*) - 2 FROM birds", problem | {"extra_dbs": [other, BIRDS]})
    assert (lucky.status, lucky.reason) == ("wrong", "returns different rows on database 2 of 3")


STAFF = """CREATE TABLE emp (id INTEGER PRIMARY KEY, name TEXT NOT NULL, dept TEXT, salary INTEGER, hired TEXT,
  mgr INTEGER, city TEXT, active INTEGER);
INSERT INTO emp VALUES (1,'Ann','A',100,'2020-01-05',NULL,'Bern',1), (2,'Bob','A',90,'2021-03-01',1,'Genf',0),
  (3,'Cid','B',120,'2019-07-20',1,NULL,1), (4,'Dee','B',70,'2022-02-02',3,'Bern',1),
  (5,'Eve','C',60,'2022-11-30',3,'Bern',0), (6,'Fay','A',80,'2018-05-05',1,'Genf',1);
CREATE TABLE dep (code TEXT PRIMARY KEY, budget INTEGER, lead INTEGER REFERENCES emp(id));
INSERT INTO dep VALUES ('A',100,1), ('B',80,3), ('C',40,NULL);"""
IN_A = "SELECT count(*) FROM emp WHERE dept='A'"
TOP = "SELECT name FROM emp WHERE salary=(SELECT max(salary) FROM emp)"
LAST = "SELECT name FROM emp ORDER BY id DESC LIMIT 1"
RICH = "SELECT sum(budget) FROM dep WHERE budget>50"
LARGE = "SELECT dept FROM emp GROUP BY dept HAVING count(*)>=2 AND dept<'C'"
FREE = "SELECT name FROM emp WHERE mgr IS NULL"
IN_2022 = "SELECT count(*) FROM emp WHERE strftime('%Y', hired)='2022'"
LEADS = "SELECT e.name FROM emp e JOIN dep d ON d.lead=e.id"
SECOND = "SELECT max(salary) FROM emp WHERE salary<(SELECT max(salary) FROM emp)"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (IN_A, "SELECT count(DISTINCT dept) FROM emp"),
        (TOP, "SELECT name FROM emp WHERE salary=120"),
        (TOP, "SELECT name FROM emp WHERE id=3"),
        (TOP, "SELECT name FROM emp WHERE salary>100"),
        ("SELECT name FROM emp ORDER BY name", "SELECT name FROM emp ORDER BY id"),
        (LAST, "SELECT max(name) FROM emp"),
        (RICH, "SELECT sum(budget) FROM dep WHERE lead NOT NULL"),
        (LARGE, "SELECT dept FROM emp GROUP BY dept HAVING count(*)>1"),
        (FREE, "SELECT name FROM emp WHERE id=1"),
        (FREE, "SELECT min(name) FROM emp"),
        (LEADS, "SELECT name FROM emp WHERE id IN (1,3)"),
        (LEADS, "SELECT name FROM emp WHERE salary>=100"),
        (SECOND, "SELECT salary FROM emp WHERE name='Ann'"),
        ("SELECT name FROM emp WHERE salary>(SELECT avg(salary) FROM emp)", "SELECT name FROM emp WHERE salary>86"),
    ],
)
def test_an_answer_to_another_question_with_the_same_result_is_wrong(gold: str, answer: str) -> None:
    verdict = verify(answer, {"schema_sql": STAFF, "gold_sql": gold})
    assert verdict.status == "wrong"
    assert verdict.reason.startswith("the result differs from the gold's on other data; equal on "), verdict


def test_a_count_less_a_constant_is_wrong() -> None:
    assert verify("SELECT count(*) - 2 FROM birds", {"schema_sql": BIRDS, "gold_sql": HEAVY}).status == "wrong"
    assert verify("SELECT count(mgr) - 3 FROM emp", {"schema_sql": STAFF, "gold_sql": IN_2022}).status == "wrong"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (IN_A, "SELECT sum(CASE WHEN dept='A' THEN 1 ELSE 0 END) FROM emp"),
        (IN_A, "SELECT count(*) FROM emp WHERE upper(dept)='A'"),
        (IN_A, "SELECT count(salary) FROM emp WHERE dept='A'"),
        (TOP, "SELECT name FROM emp ORDER BY salary DESC LIMIT 1"),
        ("SELECT name FROM emp ORDER BY salary DESC LIMIT 1", TOP),
        (LAST, "SELECT name FROM emp WHERE id=(SELECT max(id) FROM emp)"),
        (RICH, "SELECT total(CASE WHEN budget>=51 THEN budget END) FROM dep"),
        (LARGE, "SELECT dept FROM emp WHERE dept<'C' GROUP BY dept HAVING count(*)>1"),
        (FREE, "SELECT name FROM emp WHERE coalesce(mgr,0)=0"),
        (FREE, "SELECT name FROM emp WHERE coalesce(mgr,-1)=-1"),
        (FREE, "SELECT name FROM emp WHERE ifnull(mgr,'')=''"),
        (FREE, "SELECT name FROM emp WHERE coalesce(mgr,999)=999"),
        ("SELECT name FROM emp WHERE coalesce(mgr,0)=0", FREE),
        ("SELECT name FROM emp WHERE city IS NULL", "SELECT name FROM emp WHERE coalesce(city,'')=''"),
        ("SELECT name FROM emp WHERE coalesce(city,'')=''", "SELECT name FROM emp WHERE city IS NULL"),
        ("SELECT name FROM emp WHERE active=1", "SELECT name FROM emp WHERE active"),
        ("SELECT name FROM emp WHERE active=1", "SELECT name FROM emp WHERE active<>0"),
        ("SELECT name FROM emp WHERE city='Genf'", "SELECT name FROM emp WHERE city<>'Bern'"),
        (IN_2022, "SELECT count(*) FROM emp WHERE hired LIKE '2022%'"),
        (IN_2022, "SELECT count(*) FROM emp WHERE hired BETWEEN '2022-01-01' AND '2022-12-31'"),
        ("SELECT count(*) FROM emp WHERE hired>'2020-12-31'", "SELECT sum(strftime('%Y', hired)>='2021') FROM emp"),
        (LEADS, "SELECT name FROM emp WHERE id IN (SELECT lead FROM dep)"),
        (SECOND, "SELECT DISTINCT salary FROM emp ORDER BY salary DESC LIMIT 1 OFFSET 1"),
        ("SELECT dept, count(*) FROM emp GROUP BY dept", "SELECT dept, sum(1) FROM emp GROUP BY 1"),
        ("SELECT name FROM emp WHERE salary BETWEEN 60 AND 80", "SELECT name FROM emp WHERE salary>59 AND salary<=80"),
    ],
)
def test_a_right_answer_may_differ_on_data_that_cannot_occur_and_on_a_few_variants(gold: str, answer: str) -> None:
    verdict = verify(answer, {"schema_sql": STAFF, "gold_sql": gold})
    assert verdict.status == "correct", verdict


def test_a_right_answer_may_rely_on_references_that_are_not_declared() -> None:
    trips = (
        BIRDS
        + """CREATE TABLE trips (trip INTEGER PRIMARY KEY, bird_id INTEGER, km INTEGER);
    INSERT INTO trips VALUES (1,1,20), (2,1,30), (3,4,900), (4,8,700), (5,8,650);"""
    )
    problem = {"schema_sql": trips, "gold_sql": "SELECT sum(km) FROM trips"}
    assert verify("SELECT sum(km) FROM trips JOIN birds ON birds.id = bird_id", problem).status == "correct"
    assert verify("SELECT sum(km) FROM trips WHERE bird_id IN (1, 4, 8)", problem).status == "wrong"


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
