"""Check that variants of a database keep its schema and constraints, change its rows, and are deterministic."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.sql.variants import ROW_LIMIT, STYLES, Base, base, variant

LINES = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()]
SCRIPTS = {line["schema"]: line["script"] for line in LINES if "script" in line}
STRICT = """CREATE TABLE kind (code TEXT PRIMARY KEY, label TEXT NOT NULL UNIQUE);
INSERT INTO kind VALUES ('a','Alpha'),('b','Beta');
CREATE TABLE thing (id INTEGER PRIMARY KEY, kind TEXT NOT NULL REFERENCES kind(code), size REAL CHECK (size > 0),
  twice REAL AS (size * 2), note TEXT);
INSERT INTO thing (kind, size, note) VALUES ('a', 1.5, 'it''s'), ('b', 2.5, NULL), ('a', 0.5, 'x');
CREATE TABLE log (what TEXT);
CREATE TRIGGER watch AFTER INSERT ON thing BEGIN INSERT INTO log VALUES (NEW.id); END;
CREATE VIEW heavy AS SELECT * FROM thing WHERE size > 1;"""
SCRIPTS["strict"] = STRICT


def rows(database: str | bytes, query: str) -> list[tuple[Any, ...]]:
    with closing(opened(database)) as connection:
        return connection.execute(query).fetchall()


def opened(database: str | bytes) -> sqlite3.Connection:
    """Open the database that a script makes, or that has these bytes."""
    connection = sqlite3.connect(":memory:")
    if isinstance(database, str):
        connection.executescript(database)
    else:
        connection.deserialize(database)
    return connection


def base_of(script: str) -> Base:
    with closing(opened(script)) as connection:
        return base(connection)


def seed_of_style(name: str) -> int:
    return STYLES.index(name)


def variants(script: str, count: int, literals: Sequence[str | int] = ()) -> list[bytes]:
    return [variant(base_of(script), seed, literals) for seed in range(count)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_variant_keeps_the_schema_and_has_no_broken_references(name: str) -> None:
    schema = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
    for database in variants(SCRIPTS[name], len(STYLES)):
        assert rows(database, schema) == rows(SCRIPTS[name], schema)
        assert rows(database, "PRAGMA foreign_key_check") == []
        assert rows(database, "PRAGMA integrity_check") == [("ok",)]


def test_a_variant_is_a_function_of_database_and_seed() -> None:
    assert variants(STRICT, 12) == variants(STRICT, 12)
    assert len(set(variants(STRICT, 12))) > 8


def test_variants_of_a_large_database_are_as_small_as_those_of_a_small_one() -> None:
    large = STRICT + "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
    large += "INSERT INTO thing (kind, size, note) SELECT 'a', i, 'note ' || i FROM n;"
    made = base_of(large)
    assert len(made.rows["thing"]) == ROW_LIMIT and made.size < 200_000
    assert all(rows(variant(made, seed), "SELECT count(*) <= 402 FROM thing") == [(1,)] for seed in range(12))
    notes = "SELECT count(*) > 9 FROM thing WHERE note LIKE 'note%'"
    assert rows(variant(made, seed_of_style("shuffled")), notes) == [(1,)]


def test_text_that_is_not_utf8_does_not_prevent_variants() -> None:
    script = "CREATE TABLE t (a TEXT); INSERT INTO t VALUES (CAST(x'ff61' AS TEXT))"
    assert all(rows(database, "SELECT count(*) FROM t") for database in variants(script, len(STYLES)))


def test_each_style_has_its_effect_on_the_rows() -> None:
    def column(name: str, query: str) -> list[Any]:
        return [row[0] for row in rows(variant(base_of(SCRIPTS["school"]), seed_of_style(name)), query)]

    assert len(column("grown", "SELECT sid FROM student")) > 6
    assert len(set(column("ties", "SELECT name FROM student"))) <= 2
    nulls = "SELECT COUNT(*) FROM student WHERE name IS NULL OR age IS NULL OR major IS NULL OR gpa IS NULL"
    assert column("nulls", nulls)[0] > 1
    copies = (
        "SELECT COUNT(*) - (SELECT COUNT(*) FROM (SELECT DISTINCT name, age, major, gpa FROM student)) FROM student"
    )
    assert column("duplicates", copies)[0] > 0
    counts = [column("empty", f"SELECT COUNT(*) FROM {table}")[0] for table in ("student", "course", "enrolled")]
    assert 0 in counts


@pytest.mark.parametrize(("value", "condition"), [(100, "age = 100"), (100, "age = 101"), ("Zoe", "name = 'Zoe'")])
def test_literals_and_their_neighbours_are_used_as_values(value: str | int, condition: str) -> None:
    query = f"SELECT name FROM student WHERE {condition}"
    assert any(rows(database, query) for database in variants(SCRIPTS["school"], 8, literals=(value,)))
    assert not any(rows(database, query) for database in variants(SCRIPTS["school"], 8))


def test_a_database_without_tables_has_nothing_of_which_variants_are_made() -> None:
    assert base_of("") == Base(b"", (), {}, {})


LINKED = """CREATE TABLE part (id INTEGER PRIMARY KEY, whole INTEGER REFERENCES part(id), label TEXT, weight INTEGER,
  sound INTEGER, made TEXT);
INSERT INTO part VALUES (1,NULL,'a',5,1,'2020-01-01'), (2,1,'b',5,0,'2021-05-05'), (3,1,'c',7,1,'2020-02-29'),
  (4,2,'d',9,1,'2020-01-01');
CREATE TABLE site (code TEXT PRIMARY KEY);
INSERT INTO site VALUES ('x'), ('y');
CREATE TABLE use (part INTEGER REFERENCES part(id), site TEXT REFERENCES site(code), share REAL);
INSERT INTO use VALUES (1,'x',0.5), (2,'x',0.5), (2,'y',0.25), (4,'y',0.5);"""


@pytest.mark.parametrize("style", ["shuffled", "grown", "nulls"])
def test_a_variant_has_nulls_equal_values_and_sentinels_only_where_the_stored_rows_have_them(style: str) -> None:
    faults = (
        "SELECT count(*) FROM part WHERE label IS NULL OR weight IS NULL OR made IS NULL",
        "SELECT count(*) - count(DISTINCT label) FROM part",
        "SELECT count(*) FROM part WHERE weight <= 0 OR sound NOT IN (0, 1) OR date(made) IS NULL",
        "SELECT count(*) - count(DISTINCT part || site) FROM use",
        "SELECT count(*) FROM use WHERE share IS NULL OR share <= 0",
    )
    for round_ in range(20):
        seed = seed_of_style(style) + len(STYLES) * round_
        made = variant(base_of(LINKED), seed, [1, 7, "2020", "a", "other"])
        assert [rows(made, query) for query in faults] == [[(0,)]] * len(faults)


def test_a_table_that_refers_to_itself_has_references() -> None:
    made = [variant(base_of(LINKED), seed) for seed in range(6)]
    assert any(rows(database, "SELECT count(whole) > 1 FROM part") == [(1,)] for database in made)
    assert all(rows(database, "SELECT count(*) FROM part WHERE whole = id") == [(0,)] for database in made)


def test_a_column_with_the_name_and_the_values_of_a_key_refers_to_it() -> None:
    undeclared = (
        LINKED
        + """CREATE TABLE visit (part_id INTEGER, code TEXT, site_code TEXT, amount INTEGER);
    INSERT INTO visit VALUES (1,'x','y',3), (2,'y','z',4), (1,'x','y',2), (4,'y','x',1);"""
    )
    references = {column.name: column.reference for column in base_of(undeclared).columns["visit"]}
    assert references == {"part_id": ("part", "id"), "code": ("site", "code"), "site_code": None, "amount": None}


def test_zero_is_a_value_of_a_positive_column_if_it_is_a_literal() -> None:
    made = [variant(base_of(LINKED), seed, [0]) for seed in range(12)]
    assert any(rows(database, "SELECT count(*) FROM part WHERE weight <= 0") != [(0,)] for database in made)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_rows_satisfy_the_constraints_of_the_schema_for_any_seed(seed: int) -> None:
    script = variant(base_of(STRICT), seed)
    assert rows(script, "SELECT * FROM thing WHERE size <= 0 OR kind IS NULL OR twice <> size * 2") == []
    assert rows(script, "PRAGMA foreign_key_check") == []
