"""Measure checks per second and latency of the verifiers on one and two workers, and of baselines on the same answers.

    python benchmarks/speed/graders.py [--seconds 10]

All measurements run one after the other on the same machine, so compare their ratios; the absolute numbers depend on
the machine. The baselines are:

- mathematics: math-verify in a ProcessPoolExecutor. It cannot kill a running task, so no answer here is hostile;
- code: `python program.py` for each test, without isolation;
- SQL: the same queries on one open sqlite3 connection in this process, without limits and without a timeout.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rewards.workers.pool import Pool

Case = tuple[Mapping[str, Any], str]
IN_FLIGHT = 64
"""Number of answers submitted at once in a measurement of checks per second."""
WARM_UP_CHECKS = 30
"""Number of checks before math-verify is timed."""
MATH_VERIFY = "math-verify, processes"


def integer_case(i: int) -> Case:
    return {"answer": str(i)}, f"So the answer is \\boxed{{{i if i % 2 else i + 1}}}."


def expression_case(i: int) -> Case:
    right = rf"\frac{{{i}x+{2 * i}}}{{2}}+\sqrt{{{i}}}"
    return {"answer": right}, rf"\boxed{{\sqrt{{{i}}} + {i}(1+\frac{{x}}{{2}}){'' if i % 2 else '+1'}}}"


SCHEMA = "CREATE TABLE t (id INTEGER, kind TEXT, price REAL);" + "".join(
    f"INSERT INTO t VALUES ({i}, '{'abc'[i % 3]}', {i * 7 % 31});" for i in range(60)
)
GOLD = "SELECT kind, sum(price) FROM t WHERE id < {} GROUP BY kind ORDER BY kind"


def sql_case(i: int) -> Case:
    answer = f"SELECT t.kind, total(price) FROM t WHERE NOT id >= {20 + i % 40} GROUP BY 1 ORDER BY 1 -- {i}"
    return {"schema_sql": SCHEMA, "gold_sql": GOLD.format(20 + i % 40)}, answer


def function_case(i: int) -> Case:
    tests = f"def check(candidate):\n    for x in range(10):\n        assert candidate(x) == x * x + {i}\n"
    problem = {"kind": "assert", "prompt": "", "entry_point": "f", "tests": tests}
    return problem, f"```python\ndef f(x):\n    return x ** 2 + {i}\n```"


def program_case(i: int) -> Case:
    tests = [{"stdin": f"{n} {i}\n", "stdout": f"{n + i}\n"} for n in range(10)]
    return {"kind": "stdio", "tests": tests}, "a, b = map(int, input().split())\nprint(a + b)\n"


async def measure_verifier(
    verifier: str, make_case: Callable[[int], Case], workers: int, seconds: float
) -> tuple[float, list[float]]:
    """Measure a verifier in a pool of workers. The pool does not cache verdicts.

    Returns: checks per second with IN_FLIGHT answers at a time, and the seconds of each check with one answer per
        worker at a time. Each measurement takes `seconds`.
    """
    pool = Pool(workers, 6.0, 6.0)
    case_numbers = itertools.count(1)

    async def caller(until: float, latencies: list[float]) -> None:
        while time.perf_counter() < until:
            problem, answer = make_case(next(case_numbers))
            start = time.perf_counter()
            verdict = await pool.run(verifier, problem, answer)
            assert verdict.status in ("correct", "wrong"), verdict
            latencies.append(time.perf_counter() - start)

    async def measure(callers: int, seconds: float) -> list[float]:
        latencies: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(caller(until, latencies) for _ in range(callers)))
        return latencies

    try:
        await measure(2 * workers, min(seconds, 2.0))  # warm up every worker
        return len(await measure(IN_FLIGHT, seconds)) / seconds, await measure(workers, seconds)
    finally:
        await pool.close()


def check_with_math_verify(pair: tuple[str, str]) -> bool:
    """Check (gold, answer) with math-verify. Its timeouts are off, since they need the main thread."""
    from math_verify import parse, verify

    gold, answer = (parse(text, parsing_timeout=None) for text in pair)
    return bool(verify(gold, answer, timeout_seconds=None))


def measure_math_verify(make_case: Callable[[int], Case], workers: int, seconds: float) -> float:
    """Return the checks per second of math-verify in a process pool."""

    def gold_answer_pairs() -> Iterator[tuple[str, str]]:
        for i in itertools.count(1):
            problem, answer = make_case(i)
            yield f"${problem['answer']}$", answer

    source, checked = gold_answer_pairs(), 0
    with ProcessPoolExecutor(workers) as executor:
        list(executor.map(check_with_math_verify, itertools.islice(source, WARM_UP_CHECKS)))
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            checked += len(list(executor.map(check_with_math_verify, itertools.islice(source, IN_FLIGHT), chunksize=8)))
        return checked / (time.perf_counter() - start)


def measure_programs(make_case: Callable[[int], Case], workers: int, seconds: float) -> float:
    """Return the checks per second of `python program.py`, with one process per test and `workers` at a time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        start, checked = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            problem, answer = make_case(checked)
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
            checked += 1
        return checked / (time.perf_counter() - start)


def measure_sqlite(make_case: Callable[[int], Case], seconds: float) -> float:
    """Return the checks per second of gold and answer on one open connection, with the results compared as lists."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    start, checked = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        problem, answer = make_case(checked)
        assert connection.execute(answer).fetchall() == connection.execute(problem["gold_sql"]).fetchall()
        checked += 1
    return checked / (time.perf_counter() - start)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Speed of a verifier on some answers, and of a baseline on the same answers in the same run."""

    name: str
    workers: int
    speed: float
    """Checks per second with IN_FLIGHT answers at a time."""
    latencies: list[float]
    """Seconds of each check, with one answer for each worker at a time."""
    baseline: str
    baseline_speed: float


def measure(seconds: float) -> list[Row]:
    """Return all rows; each of their measurements takes `seconds`."""
    cases: list[tuple[str, str, Callable[[int], Case], str, Callable[[int], float]]] = [
        ("math, integers", "math", integer_case, MATH_VERIFY, lambda n: measure_math_verify(integer_case, n, seconds)),
        (
            "math, symbolic",
            "math",
            expression_case,
            MATH_VERIFY,
            lambda n: measure_math_verify(expression_case, n, seconds),
        ),
        ("sql, 60 rows", "sql", sql_case, "bare sqlite3, one thread", lambda n: measure_sqlite(sql_case, seconds)),
        (
            "code, 10 calls",
            "code",
            function_case,
            "bare subprocess",
            lambda n: measure_programs(function_case, n, seconds),
        ),
        (
            "code, 10 stdin tests",
            "code",
            program_case,
            "bare subprocess",
            lambda n: measure_programs(program_case, n, seconds),
        ),
    ]
    rows = []
    for name, verifier, make_case, baseline, measure_baseline in cases:
        for workers in (1, 2):
            speed, latencies = asyncio.run(measure_verifier(verifier, make_case, workers, seconds))
            rows.append(
                Row(
                    name=name, workers=workers, speed=speed, latencies=latencies, baseline=baseline,
                    baseline_speed=measure_baseline(workers),
                )
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    table = Table(title="Graders")
    for column in ("answers", "workers", "checks/s", "p50 ms", "p95 ms", "p99 ms", "baseline", "its checks/s", "ratio"):
        table.add_column(column, justify="left" if column in ("answers", "baseline") else "right")
    for row in measure(parser.parse_args().seconds):
        percentiles = [1000 * latency for latency in statistics.quantiles(row.latencies, n=100)]
        table.add_row(
            row.name, str(row.workers), f"{row.speed:,.0f}", *(f"{percentiles[k - 1]:.1f}" for k in (50, 95, 99)),
            row.baseline, f"{row.baseline_speed:,.0f}", f"{row.speed / row.baseline_speed:.2f}",
        )  # fmt: skip
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
