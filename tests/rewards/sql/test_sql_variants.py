"""Check that variants of a database keep its schema and constraints, change its rows, and are deterministic."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.sql.variants import STYLES, variant

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


def rows(script: str, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(script)
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def seed_of_style(name: str) -> int:
    return STYLES.index(name)


def variants(script: str, count: int, literals: Sequence[str | int] = ()) -> list[str]:
    return [variant(script, seed, literals) for seed in range(count)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_variant_keeps_the_schema_and_has_no_broken_references(name: str) -> None:
    schema = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
    for script in variants(SCRIPTS[name], len(STYLES)):
        assert rows(script, schema) == rows(SCRIPTS[name], schema)
        assert rows(script, "PRAGMA foreign_key_check") == []
        assert rows(script, "PRAGMA integrity_check") == [("ok",)]


def test_a_variant_is_a_function_of_script_and_seed() -> None:
    assert variants(STRICT, 12) == variants(STRICT, 12)

    assert len({variant(STRICT, seed) for seed in range(12)}) > 8


def test_each_style_has_its_effect_on_the_rows() -> None:
    def column(name: str, query: str) -> list[Any]:
        return [row[0] for row in rows(variant(SCRIPTS["school"], seed_of_style(name)), query)]

    assert len(column("grown", "SELECT sid FROM student")) > 6
    assert len(set(column("ties", "SELECT name FROM student"))) <= 2
    assert column("nulls", "SELECT COUNT(*) FROM enrolled WHERE grade IS NULL")[0] > 1
    copies = (
        "SELECT COUNT(*) - (SELECT COUNT(*) FROM (SELECT DISTINCT name, age, major, gpa FROM student)) FROM student"
    )
    assert column("duplicates", copies)[0] > 0
    counts = [column("empty", f"SELECT COUNT(*) FROM {table}")[0] for table in ("student", "course", "enrolled")]
    assert 0 in counts


@pytest.mark.parametrize(("value", "condition"), [(100, "age = 100"), (100, "age = 101"), ("Zoe", "name = 'Zoe'")])
def test_literals_and_their_neighbours_are_used_as_values(value: str | int, condition: str) -> None:
    query = f"SELECT name FROM student WHERE {condition}"
    assert any(rows(script, query) for script in variants(SCRIPTS["school"], 8, literals=(value,)))
    assert not any(rows(script, query) for script in variants(SCRIPTS["school"], 8))


def test_a_script_that_does_not_run_raises_the_error_of_sqlite() -> None:
    with pytest.raises(sqlite3.Error):
        variant("CREATE TABEL x", 0)
    assert rows(variant("", 0), "SELECT COUNT(*) FROM sqlite_master") == [(0,)]


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_rows_satisfy_the_constraints_of_the_schema_for_any_seed(seed: int) -> None:
    script = variant(STRICT, seed)
    assert rows(script, "SELECT * FROM thing WHERE size <= 0 OR kind IS NULL OR twice <> size * 2") == []
    assert rows(script, "PRAGMA foreign_key_check") == []
