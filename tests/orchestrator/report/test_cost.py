"""What runs cost, by hand: 2 steps of 1,800 s on 4 GPUs are 4 GPU hours."""

from pathlib import Path

from configs.load import load, to_yaml
from orchestrator.report.cost import cost
from orchestrator.report.curves import Sources

RECORDS = [
    {"step": 0, "time": 1.0},
    {"step": 1, "seconds/step": 1800.0, "seconds/update": 900.0, "seconds/wait_generation": 600.0, "tokens": 30_000.0},
    {"step": 2, "seconds/step": 1800.0, "seconds/update": 900.0, "seconds/score": None, "tokens": 42_000.0},
]


def shown(tmp_path: Path, *settings: str) -> str:
    (tmp_path / "config.yaml").write_text(to_yaml(load(settings)))
    runs = {"a": tmp_path, "without records": tmp_path}
    return cost(Sources(runs=runs, records={"a": RECORDS, "without records": []}, evaluation=None))


def test_hours_tokens_and_phases_are_those_of_all_steps(tmp_path: Path) -> None:
    placement = ("placement.device=gpu", "placement.generators=3", "placement.learners=1", "generator.engine=vllm")
    html = shown(tmp_path, *placement, "monitor.kl_to_base=false")
    for label, cell in (
        ("Steps", "2"),
        ("Wall time", "1 h 0 min"),
        ("GPU hours", "4"),
        ("Seconds per step", "1,800.00"),
        ("Tokens", "72,000"),
        ("Tokens per second", "20"),
        ("Seconds: update", "1,800.0<small>(50%)</small>"),
        ("Seconds: waiting for generation", "600.0<small>(17%)</small>"),
        ("Seconds: everything else", "1,200.0<small>(33%)</small>"),
    ):
        assert f"<tr><td><b>{label}</b></td><td>{cell}</td></tr>" in html, label
    assert "scoring" not in html and "without records" not in html, "what is not recorded has no row and no column"


def test_a_run_without_reserved_devices_has_hours_of_none(tmp_path: Path) -> None:
    html = shown(tmp_path, "placement.kind=in_process", "generator.engine=transformers")
    assert "Wall time" in html and "hours" not in html.split("<p")[0]


def test_runs_without_a_recorded_time_have_no_cost(tmp_path: Path) -> None:
    assert cost(Sources(runs={"a": tmp_path}, records={"a": RECORDS[:1]}, evaluation=None)) == ""
