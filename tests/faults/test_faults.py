"""A fault happens to a run in each row of `rows.py`; afterwards the run is whole, and nothing is left of it."""

import re
import sys
from pathlib import Path

import pytest

from orchestrator.recovery.ledger import account, read
from orchestrator.watch.logbook import read_records
from tests.faults.rows import ROWS, Fault
from tests.faults.subject import Subject

STATUS = {"goes on": 0, "stops": 0, "ends": 1, "killed": -9}


def marks(fault: Fault) -> list[pytest.MarkDecorator]:
    kind = [pytest.mark.ray] if fault.kind == "ray" else [pytest.mark.slow]
    return kind if fault.always else [*kind, pytest.mark.faults]


@pytest.mark.parametrize("fault", [pytest.param(row, id=row.name, marks=marks(row)) for row in ROWS])
def test_after_a_fault_the_run_is_whole_and_nothing_is_left(fault: Fault, tmp_path: Path) -> None:
    words = [f"placement.kind={fault.kind}", *fault.words]
    subject = Subject(tmp_path, words, dict(fault.environment))
    try:
        ended = subject.run(fault=fault.arguments(), bound_s=fault.bound_s)
        assert f"FAULT {fault.action}" in ended.output, ended.output[-3000:]
        back = re.findall(r"is back.* after ([0-9.]+ s)", ended.output)
        sys.stdout.write(f"TIMES {fault.name}: ended {ended.since_fault_s:.0f} s after the fault; back after {back}\n")
        assert ended.status == STATUS[fault.expected], ended.output[-3000:]
        assert re.search(fault.message, ended.output), ended.output[-3000:]
        assert ended.output.count("Traceback") == 0, ended.output[-3000:]
        left = subject.leftovers(records=False)
        assert not left, left
        assert not (found := account(read(subject.run_dir), ended=False)).problems, found
        if fault.expected != "goes on":
            # One process is enough to go on, and starts sooner.
            again = subject.run("--resume", "placement.kind=in_process", bound_s=90.0)
            assert again.status == 0, again.output[-3000:]
        subject.check()
        if fault.heals:
            assert read_records(subject.run_dir / "metrics.jsonl")[-1][f"restarts/{fault.role}"] == 1
        if fault.heals and fault.action == "SIGSTOP":
            stacks = [path.read_text() for path in subject.run_dir.glob("stacks/*/*.txt")]
            assert sum("it was stopped by a signal" in text for text in stacks) == 1, ended.output[-3000:]
    finally:
        subject.close()
