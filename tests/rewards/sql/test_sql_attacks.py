"""Check that no hostile query of `attacks.jsonl` is correct, hangs or leaves a file. A worker of the pool grades each.

In a case, an answer is a text, or a list of texts and [text, repetitions]; `{path}` in it is replaced by a folder. The
gold returns three names in order unless the case has its own; cases with `both` also run with a gold without rows.
"""

import asyncio
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from rewards.sandbox.process_tree import descendants
from rewards.verdict import STATUSES, Verdict
from rewards.workers.pool import Pool

pytestmark = pytest.mark.slow

SCRIPT = """CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age INTEGER);
INSERT INTO users VALUES (1,'Ada',36),(2,'Bo',36),(3,'Cy',41);"""
GOLD = "SELECT name FROM users ORDER BY id"
EMPTY_GOLD = "SELECT name FROM users WHERE age > 99"
CASES = [json.loads(line) for line in (Path(__file__).parent / "attacks.jsonl").read_text().splitlines()]
SHORT_TIMEOUT = {"timeout_s": 0.2}
"""A tenth of the default time, so that many endless queries can run."""
CPU_S, WALL_S = 2.5, 6.0
"""Largest processor and wall seconds of a hostile answer; the pool kills its worker after POOL_TIMEOUT_S."""
POOL_TIMEOUT_S = 5.0


def answer_of(case: dict[str, Any], path: str) -> str:
    parts = case["answer"] if isinstance(case["answer"], list) else [case["answer"]]
    text = "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)
    return text.replace("{path}", path)


def problems_of(case: dict[str, Any], on_file: dict[str, Any]) -> list[dict[str, Any]]:
    problems: list[dict[str, Any]] = [{"schema_sql": SCRIPT, "gold_sql": case.get("gold", GOLD)}]
    if case.get("both"):
        problems.append({"schema_sql": SCRIPT, "gold_sql": EMPTY_GOLD})
    if case["id"].partition(":")[0] in ("writes", "files", "settings"):
        problems.append(on_file)
    return [problem | SHORT_TIMEOUT for problem in problems]


def resident_bytes() -> int:
    """Resident memory of all descendants of this process."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in descendants(os.getpid()))
    return pages * os.sysconf("SC_PAGE_SIZE")


async def try_all(on_file: dict[str, Any], path: str) -> dict[str, Any]:
    """Grade every case on one worker, each followed by a right answer."""
    verdicts: dict[str, list[tuple[Verdict, float]]] = {}
    following: dict[str, Verdict] = {}
    pool = Pool(1, POOL_TIMEOUT_S, POOL_TIMEOUT_S)
    try:
        await pool.run("sql", on_file, GOLD)
        before = resident_bytes()
        for index, case in enumerate(CASES):
            for problem in problems_of(case, on_file):
                began = time.monotonic()
                verdict = await pool.run("sql", problem, answer_of(case, path))
                verdicts.setdefault(case["id"], []).append((verdict, time.monotonic() - began))
            right = on_file if index % 2 else {"schema_sql": SCRIPT, "gold_sql": GOLD}
            following[case["id"]] = await pool.run("sql", right, GOLD.lower())
        growth = resident_bytes() - before
        return {"verdicts": verdicts, "following": following, "growth": growth}
    finally:
        await pool.close()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    database = home / "users.db"
    connection = sqlite3.connect(database)
    connection.executescript(SCRIPT)
    connection.close()
    before = database.read_bytes()
    folder = Path.cwd()
    os.chdir(work)  # a worker would write a file with a relative name here
    try:
        result = asyncio.run(try_all({"database": str(database), "gold_sql": GOLD}, str(work)))
    finally:
        os.chdir(folder)
    result["left"] = sorted(path.name for path in [*work.iterdir(), *home.iterdir()])
    result["changed"] = database.read_bytes() != before
    return result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_hostile_query_is_not_correct_and_the_next_answer_is_graded_correctly(
    case: dict[str, Any], trial: dict[str, Any]
) -> None:
    for verdict, seconds in trial["verdicts"][case["id"]]:
        assert verdict.status in set(STATUSES) - {"correct", "grader_error"}
        assert verdict.status in case.get("status", STATUSES)
        assert verdict.reward == 0.0
        assert verdict.cpu_seconds < CPU_S
        assert seconds < WALL_S
    assert trial["following"][case["id"]].status == "correct"


def test_hostile_queries_leave_no_file_change_no_database_and_do_not_grow_memory(trial: dict[str, Any]) -> None:
    assert trial["left"] == ["users.db"]
    assert not trial["changed"]
    assert trial["growth"] < 100 * 2**20


def test_an_endless_query_is_interrupted_and_one_long_step_in_c_is_ended_by_the_pool() -> None:
    """Uses the default limits. The timeout of the pool ends a step that SQLite cannot interrupt."""
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r) SELECT COUNT(*) FROM r"
    long_gold = "SELECT name FROM users WHERE printf('%.*c', 900000000, 'x') IS NOT NULL"  # golds are trusted
    short = {"gold_seconds": 0.2}

    async def main() -> list[Verdict]:
        pools = default_pool, short_pool = Pool(1, POOL_TIMEOUT_S, POOL_TIMEOUT_S), Pool(1, 1.0, POOL_TIMEOUT_S)
        try:
            return [
                await default_pool.run("sql", {"schema_sql": SCRIPT, "gold_sql": GOLD}, endless),
                await short_pool.run("sql", {"schema_sql": SCRIPT, "gold_sql": long_gold} | short, GOLD),
                await short_pool.run("sql", {"schema_sql": SCRIPT, "gold_sql": GOLD}, GOLD),
            ]
        finally:
            for pool in pools:
                await pool.close()

    ended, killed, next_one = asyncio.run(main())
    assert (ended.status, ended.reason) == ("timeout", "the query takes too long")
    assert ended.cpu_seconds < CPU_S
    assert killed.status == "timeout"
    assert "no verdict within" in killed.reason
    assert next_one.status == "correct"
