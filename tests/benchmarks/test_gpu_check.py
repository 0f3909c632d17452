"""The check of the GPU path: every stage on a CPU, deadlines, findings that survive a failure, and its page."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.check import LIMIT_S, RESULTS, STAGES, main, run_stage
from benchmarks.gpu.machine import ROOT
from benchmarks.gpu.page import BEGIN, END, table, write_page
from benchmarks.gpu.receiver import COLUMNS, checksum
from benchmarks.gpu.record import Record, passed
from benchmarks.gpu.stages.handles import chunks

ABOUT = {
    "machine": "NVIDIA H100, 81559 MiB", "versions": {"torch": "2.11"}, "date": "2026-01-01", "commit": "abc",
    "seconds": 300.0, "small": False,
}  # fmt: skip


def results(**about: Any) -> dict[str, Any]:
    stage = {
        "stage": "head", "outcome": "passed", "seconds": 12.0,
        "values": {"milliseconds": 3.25, "planned peak": {"head": 1}},
        "phases": {"update": {"seconds": 1.5, "gb_before": 10.0, "gb_peak": 40.25, "gb_reserved": 44.0}},
        "checks": {"error": {"value": 0.5, "met": False, "at_most": 0.25}}, "failures": {}, "error": "",
    }  # fmt: skip
    return {"about": ABOUT | about, "stages": [stage, {"stage": "training", "outcome": "cut after 70 s"}]}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record("head", tmp_path / "head.json", device="cpu", small=True, scratch=tmp_path)


def written(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.file.read_text())
    return found


@pytest.mark.slow
def test_every_stage_passes_on_a_cpu_at_the_smallest_sizes(tmp_path: Path) -> None:
    status = main(["--small", "--device", "cpu", "--output", str(tmp_path)])
    stages = json.loads((tmp_path / RESULTS).read_text())["stages"]
    assert {stage["stage"]: stage["outcome"] for stage in stages} == dict.fromkeys(STAGES, "passed"), stages
    assert status == 0
    assert all(json.loads((tmp_path / f"{stage}.json").read_text())["checks"] for stage in STAGES)


@pytest.mark.slow
def test_whole_runs_need_no_ray(tmp_path: Path) -> None:
    program = f"""
import sys
from benchmarks.gpu.stage import main
sys.modules["ray"] = sys.modules["psutil"] = None  # as where they are not installed
sys.exit(main("training", {str(tmp_path / "training.json")!r}, "cpu", {str(tmp_path)!r}, "small"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, (tmp_path / "training.json").read_text() + done.stderr


def test_the_deadlines_of_all_stages_fit_into_eight_minutes() -> None:
    assert sum(STAGES.values()) <= LIMIT_S <= 8 * 60 - 15


def test_a_stage_is_cut_at_its_deadline_and_says_so(tmp_path: Path) -> None:
    found = run_stage("head", tmp_path, "cpu", small=True, deadline_s=1.0)
    assert found["outcome"] == "cut after 1 s"
    assert json.loads((tmp_path / "head.json").read_text())["outcome"] == found["outcome"]
    assert "no time" in run_stage("head", tmp_path, "cpu", small=True, deadline_s=0.0)["outcome"]


def test_a_stage_that_raises_leaves_its_findings_and_the_end_of_the_traceback(record: Record) -> None:
    def stage(record: Record) -> None:
        record.value("found", 3)
        raise RuntimeError("out of memory")

    assert not record.run(stage)
    assert written(record)["values"] == {"found": 3}
    assert written(record)["error"].endswith("RuntimeError: out of memory")


def test_a_part_that_fails_lets_the_others_go_on_and_the_stage_fail(record: Record) -> None:
    def stage(record: Record) -> None:
        for number in (0, 1):
            with record.part(f"part {number}"):
                record.value(f"inverse of {number}", 1 / number)

    assert not record.run(stage)
    assert list(written(record)["failures"]) == ["part 0"] and written(record)["values"] == {"inverse of 1": 1.0}


@pytest.mark.parametrize(("value", "met"), [(0.5, True), (1.0, True), (1.1, False), (-0.1, False), (math.nan, False)])
def test_a_comparison_is_met_between_its_bounds_and_never_by_nan(record: Record, value: float, met: bool) -> None:
    assert record.run(lambda record: record.check("share", value, at_most=1.0, at_least=0.0)) is met
    assert passed(written(record)) is met


def test_a_stage_that_has_not_ended_has_not_passed(record: Record) -> None:
    assert not passed(written(record))


def test_the_checksum_depends_on_every_element_and_its_place() -> None:
    tensor = torch.randn(3 * COLUMNS + 5).bfloat16()
    for place in (0, COLUMNS + 7, 3 * COLUMNS + 4):
        changed = tensor.clone()
        changed[place] += 1
        assert checksum(changed) != checksum(tensor)
    assert checksum(tensor.roll(1)) != checksum(tensor)


def test_tensors_are_packed_in_order_into_buffers_that_hold_them() -> None:
    sent = [(str(size), torch.zeros(size, dtype=torch.uint8)) for size in (4, 6, 1, 9, 10, 2)]
    parts = list(chunks(sent, 10))
    assert [[name for name, _ in part] for part in parts] == [["4", "6"], ["1", "9"], ["10"], ["2"]]


def test_the_table_has_phases_values_and_comparisons_and_says_what_is_not_met() -> None:
    text = table(results())
    assert "| head | passed | 12 |" in text and "| training | cut after 70 s |  |" in text
    assert (
        "| update | 1.5 | 10 | 40.25 | 44 |" in text
        and "| milliseconds | 3.25 |" in text
        and "planned peak" not in text
    )
    assert "| error | 0.5 | at most 0.25 | **no** |" in text


def test_a_published_check_becomes_the_last_section_of_the_page_and_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nText.\n")
    write_page(results(), page)
    write_page(results(commit="def"), page)
    text = page.read_text()
    assert text.startswith("# Performance\n\nText.\n\n" + BEGIN) and text.endswith(END + "\n")
    assert text.count("## On a GPU\n") == 1 and "commit def" in text and "commit abc" not in text


@pytest.mark.parametrize("about", [{"small": True}, {"machine": "a CPU"}])
def test_only_a_check_on_a_gpu_at_full_size_is_published(tmp_path: Path, about: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at full size"):
        write_page(results(**about), tmp_path / "performance.md")


def test_without_a_gpu_the_full_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--output", str(tmp_path)]) == 1
    assert "--small" in capsys.readouterr().err
