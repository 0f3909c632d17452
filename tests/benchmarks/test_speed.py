"""The benchmark of speed: rows and goals, the comparison of two runs, processes in turns, the page, and a quick run."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.__main__ import joined
from benchmarks.speed.check import fallen
from benchmarks.speed.contestant import Contestant, Failed, in_turns
from benchmarks.speed.heartbeat import PERIOD_S, Heartbeat
from benchmarks.speed.page import BEGIN, END, HEADINGS, generated, goal, number, values, write_page
from benchmarks.speed.plan import Plan
from benchmarks.speed.processes import Tree, new_mark, role_of
from benchmarks.speed.result import Row, read_rows, write_rows
from benchmarks.speed.rows.divergences import forms
from benchmarks.speed.rows.learner import settings
from configs.divergences import DIVERGENCES

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {
    "machine": "2 cores of a processor, 24 GiB", "versions": {"python": "3.11"}, "command": "make bench",
    "date": "2026-01-01", "commit": "abc", "minutes": 31.0, "load": 0.1,
}  # fmt: skip
GUARDED = """
import os, signal, subprocess, sys, time
from benchmarks.speed.processes import MARK, Tree, guarded
paused = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=os.environ | {MARK: sys.argv[1]})
with guarded(Tree(paused.pid, sys.argv[1])) as tree:
    tree.pause()
    print("paused", flush=True)
    time.sleep(600)
"""
STEPS = """
import json, sys, time
for step in range(1, 10_000):
    time.sleep(0.02)
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps({"step": step, "twice": 2 * step}) + "\\n")
"""


def row(ours: tuple[float, ...] = (40.0, 50.0, 60.0), **changes: Any) -> Row:
    return Row(**{"name": "rollouts/a", "title": "rollouts", "unit": "answers/s", "ours": ours} | changes)


def counter(folder: Path, name: str) -> Contestant:
    """A command that takes a step every 20 ms."""
    progress = folder / f"{name}.jsonl"
    return Contestant(name, [sys.executable, "-c", STEPS, str(progress)], progress, folder / f"{name}.log")


def test_a_ratio_is_that_of_the_same_round_and_the_goal_concerns_its_median() -> None:
    beside = row(other_name="TRL", other=(20.0, 50.0, 20.0), goal=2.0)
    assert beside.ratios == (2.0, 1.0, 3.0)
    assert beside.met and not row(other_name="TRL", other=(20.0, 50.0, 40.0), goal=2.0).met
    times = row(other_name="TRL", other=(80.0, 150.0, 60.0), inverse=True, goal=2.5)
    assert times.ratios == (2.0, 3.0, 1.0) and not times.met


def test_a_goal_where_lower_is_better_is_an_upper_bound() -> None:
    assert row(higher_is_better=False, goal=50.0).met
    assert not row(higher_is_better=False, goal=49.0).met
    start = row(other_name="TRL", other=(1.0, 1.0, 1.0), higher_is_better=False, goal=50.0, compares_ours=True)
    assert start.met, "the goal concerns our seconds, not the ratio"


def test_a_goal_on_a_ratio_without_the_other_value_is_not_measured() -> None:
    assert row(other_name="TRL", goal=2.0, reason="TRL is not installed").met is None


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [row(other_name="TRL", other=(1.0, 2.0, 3.0), goal=2.0), row((), name="start/b", reason="not there")]
    write_rows(tmp_path / "results.json", rows, ABOUT)
    assert read_rows(tmp_path / "results.json") == (rows, ABOUT)


def test_a_row_fell_only_if_its_median_is_worse_by_more_than_the_spread_of_either_run() -> None:
    committed = [row((98.0, 100.0, 102.0))]  # spread 4, and 5 % of the median are 5
    assert fallen([row((93.0, 95.5, 96.0))], committed, same_machine=True) == []
    [line] = fallen([row((92.0, 94.0, 95.0))], committed, same_machine=True)
    assert line.startswith("rollouts/a: 94.0 (92.0 to 95.0), was 100 (98.0 to 102)")
    assert fallen([row((80.0, 94.0, 95.0))], committed, same_machine=True) == [], "the new run spreads over 15"
    assert fallen([row((150.0, 160.0, 170.0))], committed, same_machine=True) == []


def test_a_time_fell_if_it_rose() -> None:
    committed = [row((1.0, 1.0, 1.0), higher_is_better=False)]
    assert len(fallen([row((1.1, 1.1, 1.1), higher_is_better=False)], committed, same_machine=True)) == 1
    assert fallen([row((0.5, 0.5, 0.5), higher_is_better=False)], committed, same_machine=True) == []


def test_a_row_that_is_gone_is_named_and_on_another_machine_only_ratios_are_compared() -> None:
    committed = [row(), row(name="rollouts/b", other_name="TRL", other=(1.0, 1.0, 1.0))]
    assert [line.split(":")[0] for line in fallen([], committed, same_machine=True)] == ["rollouts/a", "rollouts/b"]
    assert [line.split(":")[0] for line in fallen([], committed, same_machine=False)] == ["rollouts/b"]
    without = row(name="rollouts/b", other_name="TRL", reason="TRL is not installed")
    [line] = fallen([without], committed, same_machine=False)
    assert line == "rollouts/b: not measured (TRL is not installed)"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.012"), (1.256, "1.26"), (43.21, "43.2"), (3210.7, "3,211")]
)
def test_a_number_has_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_page_shows_ranges_goals_and_why_a_row_is_missing(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Performance\n\n{BEGIN}\nold\n{END}\n\nmore\n")
    rows = [
        row(other_name="TRL", other=(20.0, 20.0, 20.0), goal=2.0),
        row(name="verifier/stuck", title="stuck", other_name="TRL", other=(100.0, 100.0, 100.0), goal=2.0),
        row((), name="start/b", title="start", reason="not there"),
    ]
    write_page(rows, ABOUT, page, tmp_path / "figure.png")
    text = page.read_text()
    assert text.startswith("# Performance\n") and text.endswith("\n\nmore\n") and "old" not in text
    assert "| rollouts (answers/s) | 50.0 (40.0 to 60.0) | TRL: 20.0 (20.0 to 20.0) | 2.50 (2.00 to 3.00) |" in text
    assert "1 of 2 goals are met. Missed:\n\n- stuck (0.500 (0.400 to 0.600), goal 2)" in text
    assert "- start: not there." in text
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_values_of_one_round_have_no_range_and_a_goal_says_whether_it_is_met() -> None:
    assert values((2.0,)) == "2.00"
    assert goal(row(goal=60.0)) == "at least 60: **missed**"
    assert goal(row(goal=60.0, higher_is_better=False)) == "at most 60: met"
    assert goal(row()) == ""


def test_contestants_work_in_turns_and_no_two_at_a_time(tmp_path: Path) -> None:
    turns = in_turns([counter(tmp_path, "a"), counter(tmp_path, "b")], 3, 0.1)
    assert {name: len(of_one) for name, of_one in turns.items()} == {"a": 3, "b": 3}
    for of_one in turns.values():
        steps = [record["step"] for turn in of_one for record in turn.records]
        assert steps[0] >= 3 and steps == sorted(set(steps)), "the first two are the warm-up; no step counts twice"
        assert all(turn.steps >= 1 and turn.seconds >= 0.1 for turn in of_one)


def test_a_paused_contestant_takes_no_step(tmp_path: Path) -> None:
    with counter(tmp_path, "a") as contestant:
        contestant.start(2)
        done = len(contestant.records())
        time.sleep(0.2)
        assert len(contestant.records()) == done
        assert contestant.turn(0.0, 4).steps == 4
    assert contestant.process.returncode is not None


def test_every_process_of_a_contestant_is_ended_also_one_whose_parent_is_gone(tmp_path: Path) -> None:
    orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with Contestant("a", [sys.executable, "-c", orphan], tmp_path / "p", tmp_path / "log") as contestant:
        contestant.process.wait(30)
        assert len(contestant.tree.pids()) == 1
    assert contestant.tree.pids() == []


def test_a_paused_process_is_ended_also_if_the_benchmark_is_killed() -> None:
    mark = new_mark()
    command = [sys.executable, "-c", GUARDED, mark]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None and benchmark.stdout.readline() == "paused\n"
        assert len(Tree(0, mark).pids()) == 1
        benchmark.kill()
    until = time.monotonic() + 30
    while Tree(0, mark).pids() and time.monotonic() < until:
        time.sleep(0.05)
    assert Tree(0, mark).pids() == []


def test_a_contestant_that_ends_or_takes_no_step_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    ended = Contestant("a", [sys.executable, "-c", "raise ValueError('gone')"], tmp_path / "p", tmp_path / "log")
    with pytest.raises(Failed, match="a ended with status 1: ValueError: gone"), ended:
        ended.start(1)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    slow = Contestant("b", command, tmp_path / "p", tmp_path / "log", start_limit_s=0.3)
    with pytest.raises(Failed, match="b did not finish step 1 within 0 s"), slow:
        slow.start(1)


def test_the_cpu_seconds_and_memory_of_a_tree_are_those_of_its_processes(tmp_path: Path) -> None:
    busy = "import time\nheld = b'1' * 50_000_000\nwhile time.process_time() < 0.5: pass\ntime.sleep(600)"
    with Contestant("a", [sys.executable, "-c", busy], tmp_path / "p", tmp_path / "log") as contestant:
        until = time.monotonic() + 30
        while contestant.tree.cpu_seconds()["driver"] < 0.4 and time.monotonic() < until:
            time.sleep(0.05)
        assert 0.4 <= contestant.tree.cpu_seconds()["driver"] < 1.0
        assert 48 < contestant.tree.memory_mb()["driver"] < 70


def test_the_roles_of_a_run_over_ray_are_told_apart() -> None:
    parents = {1: 0, 2: 1, 3: 1, 4: 3, 5: 3, 6: 3, 7: 6, 8: 7}
    commands = {
        1: "python breadth train", 2: "gcs_server", 3: "raylet", 4: "ray::LearnerShell", 5: "ray::GeneratorShell.call",
        6: "ray::GraderShell", 7: "python -m rewards.workers.keeper", 8: "python -m rewards.workers.worker",
    }  # fmt: skip
    roles = {pid: role_of(pid, 1, parents, commands) for pid in parents}
    assert list(roles.values()) == ["driver", "others", "others", "learner", "generator", "grader", "grader", "grader"]


def test_the_tree_of_a_command_started_by_a_marked_one_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREADTH_BENCHMARK", "/one")
    assert new_mark().startswith("/one/") and new_mark() != new_mark()
    assert Tree(2**30, "/no-such-mark").pids() == []


def test_sections_of_many_alike_rows_are_one_grid() -> None:
    names = ("divergence/reverse_kl/sampled", "divergence/reverse_kl/exact", "divergence/mixed_kl/exact")
    rows = [row((float(i), float(i)), name=name, title=name) for i, name in enumerate(names, start=1)]
    text = generated(rows, ABOUT)
    assert "| | sampled | exact |" in text
    assert "| reverse_kl | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) |\n| mixed_kl |  | 3.00 (3.00 to 3.00) |" in text


def test_a_run_of_some_subjects_is_told_apart_from_the_run_whose_rows_it_joins() -> None:
    soak = ABOUT | {"command": "python -m benchmarks.speed --rows soak", "minutes": 100.0}
    both = joined(joined(ABOUT, soak), soak)
    assert both == ABOUT | {"later": [{name: soak[name] for name in ("command", "date", "commit")}]}
    assert f"Then `{soak['command']}`, 2026-01-01, commit abc." in generated([row()], both)
    assert joined(ABOUT, soak | {"machine": "another"}) == soak | {"machine": "another"}
    assert joined({}, soak) == soak


def test_every_divergence_is_measured_in_every_form_it_has(tmp_path: Path) -> None:
    names = forms(Plan(rounds=1, quick=False, folder=tmp_path))
    assert {name.split("/")[0] for name in names} == set(DIVERGENCES)
    assert {"reverse_kl/sampled", "reverse_kl/exact", "wasserstein/sampled", "batch_sinkhorn/exact"} < set(names)
    for words in names.values():
        assert settings(*words).objective.terms


def test_a_heartbeat_is_as_late_as_the_event_loop_was_blocked() -> None:
    async def blocked(seconds: float) -> float:
        async with Heartbeat() as heartbeat:
            await asyncio.sleep(0.03)
            time.sleep(seconds)  # in the event loop, or it would not be noticed
        return heartbeat.largest_lag_s

    assert asyncio.run(blocked(0.2)) >= 0.2 - PERIOD_S


@pytest.mark.slow
def test_a_quick_benchmark_measures_every_subject(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--quick", "--rounds", "1", "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=540, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    rows, about = read_rows(tmp_path / "quick.json")
    found = {row.name.split("/")[0] for row in rows if row.ours}
    assert found == {
        "rollouts", "pipeline", "cpu", "verifier", "start", "generation", "scaling", "publication", "planning",
        "learner", "packing", "divergence", "soak", "head",
    }  # fmt: skip
    assert [row.name for row in rows if not row.ours] == ["rollouts/smollm", "scaling/learners"]
    assert generated(rows, about).count("\n### ") == len(HEADINGS)
    assert json.loads((tmp_path / "quick.json").read_text())["about"]["machine"]
    assert Plan.from_json(Plan(rounds=1, quick=True, folder=tmp_path).to_json()).folder == tmp_path
