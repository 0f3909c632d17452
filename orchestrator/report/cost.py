"""What runs cost: hours of their devices, tokens, and wall seconds by phase, from their records and settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.load import load
from orchestrator.placement import needed_roles, reservations
from orchestrator.report.curves import Sources
from orchestrator.report.style import table

PHASES = {
    "wait_generation": "waiting for generation",
    "reference": "references",
    "score": "scoring before the update",
    "update": "update",
    "kl_update": "KL of the update",
    "publish": "publishing weights",
    "due": "measuring and checkpoints",
}
"""`seconds/NAME` of the loop, in the order of a step. They do not overlap."""
NOTE = (
    "Device hours: reserved GPUs, or CPU cores, times the wall hours of all recorded steps, without the start. Tokens: "
    "of the answers that were trained on. In brackets: the fraction of the wall seconds. Measurements that overlap "
    "with training have no phase of their own."
)


def cost(sources: Sources) -> str:
    """Return the section of cost: a column for each run; nothing without records of time."""
    costs = {name: _of_run(records, sources.runs[name]) for name, records in sources.records.items()}
    costs = {name: found for name, found in costs.items() if found}
    rows = [
        [label, *(found.get(label, "") for found in costs.values())]
        for label in dict.fromkeys(label for found in costs.values() for label in found)
    ]
    return table("Cost", ["", *costs], rows, NOTE)


def _of_run(records: Sequence[Mapping[str, Any]], run_dir: Path) -> dict[str, str]:
    """Return the rows of one run by label; empty without a recorded time."""
    total = _sum(records, "seconds/step")
    if not total:
        return {}
    steps, tokens = sum("seconds/step" in record for record in records), _sum(records, "tokens")
    found = {"Steps": f"{steps:,}", "Wall time": _words(total)}
    found |= {f"{device} hours": _hours(count * total / 3600) for device, count in _devices(run_dir).items()}
    found["Seconds per step"] = f"{total / steps:,.2f}"
    if tokens:
        found["Tokens"] = f"{tokens:,.0f}"
        found["Tokens per second"] = f"{tokens / total:,.0f}"
    spent = {label: _sum(records, f"seconds/{name}") for name, label in PHASES.items()}
    spent["everything else"] = max(total - sum(spent.values()), 0.0)
    return found | {
        f"Seconds: {label}": f"{s:,.1f}\n({s / total:.0%})" for label, s in spent.items() if s >= 0.005 * total
    }


def _sum(records: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(sum(record[key] for record in records if isinstance(record.get(key), int | float)))


def _devices(run_dir: Path) -> dict[str, float]:
    """Return how many GPUs, or else CPU cores, a run reserves; empty if that is not known."""
    try:
        cfg = load(file=str(run_dir / "config.yaml"))
    except (ValueError, OSError):
        return {}
    if cfg.placement.kind != "ray":
        return {}
    reserved = reservations(cfg, needed_roles(cfg))
    gpus = sum(each.gpus for each in reserved)
    return {"GPU": round(gpus, 2)} if gpus else {"CPU core": sum(each.cpus for each in reserved)}


def _words(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _hours(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
