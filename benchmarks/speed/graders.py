"""Checks per second and latency of the graders on one and two workers, beside what else could judge the same answers.

    python benchmarks/speed/graders.py [--seconds 10]

Everything is timed in one run on one machine, in turns, so the ratios mean something where the numbers do not travel.
Beside math: math-verify in a ProcessPoolExecutor (whose running tasks cannot be killed, so it meets no hostile answer
here). Beside code: a bare `python program.py` for each test, with no isolation. Beside SQL: the same queries on an open
sqlite3 connection in this process, which is neither guarded nor killable.
"""

import argparse
import asyncio
import itertools
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rewards.workers.pool import Pool

Pair = tuple[Mapping[str, Any], str]
IN_FLIGHT = 64
WARM_UP = 30
LIBRARY = "math-verify, processes"


def integers(i: int) -> Pair:
    return {"answer": str(i)}, f"So the answer is \\boxed{{{i if i % 2 else i + 1}}}."


def expressions(i: int) -> Pair:
    right = rf"\frac{{{i}x+{2 * i}}}{{2}}+\sqrt{{{i}}}"
    return {"answer": right}, rf"\boxed{{\sqrt{{{i}}} + {i}(1+\frac{{x}}{{2}}){'' if i % 2 else '+1'}}}"


SCHEMA = "CREATE TABLE t (id INTEGER, kind TEXT, price REAL);" + "".join(
    f"INSERT INTO t VALUES ({i}, '{'abc'[i % 3]}', {i * 7 % 31});" for i in range(60)
)
GOLD = "SELECT kind, sum(price) FROM t WHERE id < {} GROUP BY kind ORDER BY kind"


def queries(i: int) -> Pair:
    answer = f"SELECT t.kind, total(price) FROM t WHERE NOT id >= {20 + i % 40} GROUP BY 1 ORDER BY 1 -- {i}"
    return {"schema_sql": SCHEMA, "gold_sql": GOLD.format(20 + i % 40)}, answer


def functions(i: int) -> Pair:
    tests = f"def check(candidate):\n    for x in range(10):\n        assert candidate(x) == x * x + {i}\n"
    problem = {"kind": "assert", "prompt": "", "entry_point": "f", "tests": tests}
    return problem, f"```python\ndef f(x):\n    return x ** 2 + {i}\n```"


def programs(i: int) -> Pair:
    tests = [{"stdin": f"{n} {i}\n", "stdout": f"{n + i}\n"} for n in range(10)]
    return {"kind": "stdio", "tests": tests}, "a, b = map(int, input().split())\nprint(a + b)\n"


async def ours(verifier: str, make: Callable[[int], Pair], workers: int, seconds: float) -> tuple[float, list[float]]:
    """Checks per second with IN_FLIGHT answers on their way, and latencies with one for each worker; `seconds` each.

    Nothing is kept from one answer to the next at this level.
    """
    pool = Pool(workers, 6.0)
    numbers = itertools.count(1)

    async def caller(until: float, latencies: list[float]) -> None:
        while time.perf_counter() < until:
            problem, answer = make(next(numbers))
            begun = time.perf_counter()
            verdict = await pool.run(verifier, problem, answer)
            assert verdict.status in ("correct", "wrong"), verdict
            latencies.append(time.perf_counter() - begun)

    async def measure(callers: int, seconds: float) -> list[float]:
        latencies: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(caller(until, latencies) for _ in range(callers)))
        return latencies

    try:
        await measure(2 * workers, min(seconds, 2.0))  # warms every worker up
        return len(await measure(IN_FLIGHT, seconds)) / seconds, await measure(workers, seconds)
    finally:
        await pool.close()


def library(pair: tuple[str, str]) -> bool:
    """math-verify as it is called by most trainers, its own alarms off (they need the main thread)."""
    from math_verify import parse, verify

    gold, answer = (parse(text, parsing_timeout=None) for text in pair)
    return bool(verify(gold, answer, timeout_seconds=None))


def math_verify(make: Callable[[int], Pair], workers: int, seconds: float) -> float:
    """Checks per second of the library in a process pool."""

    def pairs() -> Iterator[tuple[str, str]]:
        for i in itertools.count(1):
            problem, answer = make(i)
            yield f"${problem['answer']}$", answer

    source, done = pairs(), 0
    with ProcessPoolExecutor(workers) as executor:
        list(executor.map(library, itertools.islice(source, WARM_UP)))
        begun = time.perf_counter()
        while time.perf_counter() < begun + seconds:
            done += len(list(executor.map(library, itertools.islice(source, IN_FLIGHT), chunksize=8)))
        return done / (time.perf_counter() - begun)


def bare_programs(make: Callable[[int], Pair], workers: int, seconds: float) -> float:
    """Checks per second of `python program.py`, one process a test, `workers` at a time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        begun, done = time.perf_counter(), 0
        while time.perf_counter() < begun + seconds:
            problem, answer = make(done)
            if problem["kind"] == "assert":
                path.write_text(f"{answer.split('```')[1][7:]}\n{problem['tests']}\ncheck(f)\n")
                inputs = [""]
            else:
                path.write_text(answer)
                inputs = [test["stdin"] for test in problem["tests"]]
            for batch in (inputs[k : k + workers] for k in range(0, len(inputs), workers)):
                running = [
                    subprocess.Popen([sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                    for _ in batch
                ]
                for process, text in zip(running, batch, strict=True):
                    process.communicate(text, timeout=30)
                    assert process.returncode == 0
            done += 1
        return done / (time.perf_counter() - begun)


def bare_sqlite(make: Callable[[int], Pair], seconds: float) -> float:
    """Checks per second of both queries on one open connection, compared as lists."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() < begun + seconds:
        problem, answer = make(done)
        assert connection.execute(answer).fetchall() == connection.execute(problem["gold_sql"]).fetchall()
        done += 1
    return done / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    table = Table(title="Graders")
    for column in ("answers", "workers", "checks/s", "p50 ms", "p95 ms", "p99 ms", "against", "its checks/s", "ratio"):
        table.add_column(column, justify="left" if column in ("answers", "against") else "right")
    rows: list[tuple[str, str, Callable[[int], Pair], str, Callable[[int], float]]] = [
        ("math, integers", "math", integers, LIBRARY, lambda n: math_verify(integers, n, seconds)),
        (
            "math, symbolic",
            "math",
            expressions,
            LIBRARY,
            lambda n: math_verify(expressions, n, seconds),
        ),
        ("sql, 60 rows", "sql", queries, "bare sqlite3, one thread", lambda n: bare_sqlite(queries, seconds)),
        ("code, 10 calls", "code", functions, "bare subprocess", lambda n: bare_programs(functions, n, seconds)),
        ("code, 10 stdin tests", "code", programs, "bare subprocess", lambda n: bare_programs(programs, n, seconds)),
    ]
    for label, verifier, make, name, other in rows:
        for workers in (1, 2):
            speed, latencies = asyncio.run(ours(verifier, make, workers, seconds))
            theirs = other(workers)
            cuts = [1000 * cut for cut in statistics.quantiles(latencies, n=100)]
            table.add_row(
                label, str(workers), f"{speed:,.0f}", *(f"{cuts[k - 1]:.1f}" for k in (50, 95, 99)),
                name, f"{theirs:,.0f}", f"{speed / theirs:.2f}",
            )  # fmt: skip
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
