"""The W&B workspace: it shows metrics that runs record, and its charts read columns that runs log."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.sinks.wandb_charts import curve_rows
from orchestrator.sinks.wandb_sections import in_section

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "wandb"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("workspace", FOLDER / "workspace.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented() -> set[str]:
    """Names in the first columns of docs/metrics.md."""
    rows = re.findall(r"^\| (`[^|]+`) \| ", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_chart_shows_a_documented_metric_under_its_name_in_wandb() -> None:
    module = script()
    shown = {in_section(name) for name in documented()}
    wanted = {name for names in module.SECTIONS.values() for name in names} | {*module.HELD_OUT, module.TOKENS}
    assert wanted - shown == set()


def test_the_charts_of_all_nodes_match_the_metrics_of_a_node() -> None:
    names = [name.replace("NODE", "gpu-worker-0").replace("gpuN", "gpu3") for name in documented()]
    names += ["system/gpu-worker-0/gpu3/utilization_percent"]
    for pattern in script().NODES:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


@pytest.mark.parametrize(("file", "strings"), [("pass_at_k.json", {"title"}), ("interval.json", {"title"})])
def test_a_chart_is_a_vega_lite_specification_whose_fields_the_workspace_gives(file: str, strings: set[str]) -> None:
    text = (FOLDER / file).read_text()
    spec = json.loads(text)
    assert "vega-lite" in spec["$schema"] and spec["data"] == {"name": "wandb"} and len(spec["layer"]) >= 2
    fields = {"pass_at_k.json": set(script().CURVE), "interval.json": {"step", "value", "low", "high"}}[file]
    assert set(re.findall(r"\$\{field:([^}]+)\}", text)) == fields
    assert set(re.findall(r"\$\{string:([^}]+)\}", text)) == strings


def test_the_pass_at_k_chart_reads_columns_of_the_logged_table() -> None:
    values = {f"heldout/pass@8{end}": 0.5 for end in ("", "/low", "/high")}
    [row, *_] = curve_rows(3, values)
    assert set(script().CURVE.values()) <= set(row)
