"""Make a W&B workspace for runs of Breadth: charts sorted by question, with intervals as bands.

    pip install wandb-workspaces
    python deploy/wandb/workspace.py ENTITY PROJECT [--ks 1 64]

It registers the charts `pass_at_k.json` and `interval.json` for the entity (its user or team), saves the workspace
"Breadth" in the project and prints its address. It needs a W&B key (`wandb login`), and changes no run.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CHARTS = {"breadth-pass-at-k": "pass_at_k.json", "breadth-interval": "interval.json"}
"""Names of the charts in W&B, and their Vega-Lite files."""
CURVE = {"k": "k", "series": "series", "value": "value", "low": "low", "high": "high"}
"""Fields of `pass_at_k.json`, and columns of the table `heldout/pass_at_k_table`."""
HELD_OUT = ("heldout/retention", "heldout/expansion", "heldout/distinct_correct", "heldout/kl_to_base")
"""Charts with bands beside those of Pass@k."""
SECTIONS = {
    "Does it learn?": (
        "rollout/reward", "rollout/solved_groups", "rollout/zero_signal_groups", "rollout/reward_std",
        "rollout/answer_length", "rollout/truncated",
    ),
    "Is the update healthy?": (
        "train/entropy", "train/kl_reference_per_trajectory", "train/kl_update_per_trajectory", "train/grad_norm",
        "train/ratio", "train/clip_fraction", "train/loss", "train/learning_rate", "train/skipped_updates",
    ),
    "Do engine and learner agree?": (
        "mismatch/mismatch_kl_k3", "mismatch/mismatch_abs_log_ratio_max", "mismatch/effective_sample_fraction",
        "rollout/staleness", "rollout/staleness_max",
    ),
    "Do the graders work?": (
        "grader/grader_error", "grader/timeout", "grader/no_answer", "grader/seconds/p99", "grader/respawns",
        "rollout/masked",
    ),
    "Is it fast?": (
        "speed/tokens_per_second", "speed/seconds/step", "speed/seconds/wait_generation", "speed/seconds/update",
        "speed/seconds/publish", "speed/seconds/due",
    ),
}  # fmt: skip
"""Metrics of line charts by section, under their names in W&B."""
TOKENS = "tokens_total"
"""Axis of charts by trained tokens: runs with different group sizes or lengths compare by it."""
NODES = ("system/.*/cpu_percent", "system/.*/memory_percent", "system/.*/gpu.*/utilization_percent")
"""Charts over all nodes, as regular expressions of metrics."""


def bands(names: Sequence[str], chart: str) -> list[Any]:
    """Return a chart with a band for each of these held-out values."""
    import wandb_workspaces.reports.v2 as wr

    panels = []
    for name in names:
        fields = {"step": "step", "value": name, "low": f"{name}/low", "high": f"{name}/high"}
        query = {"history": {"keys": [*fields.values()]}}
        panels.append(wr.CustomChart(query=query, chart_name=chart, chart_fields=fields, chart_strings={"title": name}))
    return panels


def workspace(entity: str, project: str, ks: Sequence[int], charts: dict[str, str]) -> Any:
    """Return the workspace.

    Args:
        ks: the k of Pass@k whose course is shown.
        charts: ids in W&B of the charts of CHARTS.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    curve = wr.CustomChart(
        query={"summaryTable": {"tableKey": "heldout/pass_at_k_table"}},
        chart_name=charts["breadth-pass-at-k"],
        chart_fields=CURVE,
        chart_strings={"title": "Pass@k, last measurement"},
    )
    passes = [f"heldout/pass@{k}" for k in ks]
    held_out = [*passes, *(f"heldout/change/pass@{k}" for k in ks), *HELD_OUT]
    first = [curve, *bands(held_out, charts["breadth-interval"]), wr.LinePlot(x="step", y=["heldout/entropy"])]
    sections = [ws.Section(name="Does Pass@1 rise, and Pass@k not fall?", panels=first, is_open=True)]
    for title, names in SECTIONS.items():
        panels = [wr.LinePlot(title=name, x="step", y=[name]) for name in names]
        sections.append(ws.Section(name=title, panels=panels, is_open=title == "Does it learn?"))
    by_tokens = [wr.LinePlot(title=name, x=TOKENS, y=[name]) for name in ("rollout/reward", *passes)]
    sections.append(ws.Section(name="And per generated token?", panels=by_tokens))
    nodes = [wr.LinePlot(title=name, x="step", metric_regex=name) for name in NODES]
    sections.append(ws.Section(name="What do the nodes do?", panels=nodes))
    return ws.Workspace(entity=entity, project=project, name="Breadth", sections=sections)


def main() -> None:
    """Register the charts, and save the workspace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entity", help="user or team in W&B")
    parser.add_argument("project", help="logbook.wandb_project of the runs")
    parser.add_argument("--ks", nargs="+", type=int, default=[1, 8], help="k of the Pass@k over steps")
    arguments = parser.parse_args()
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        sys.exit("wandb-workspaces is not installed: pip install wandb-workspaces")
    import wandb

    api = wandb.Api()
    charts = {}
    for name, file in CHARTS.items():
        spec = json.loads((FOLDER / file).read_text())
        charts[name] = f"{arguments.entity}/{name}"
        try:
            api.create_custom_chart(arguments.entity, name, spec["description"][:60], "vega2", "private", spec)
        except wandb.Error as error:  # mostly because it is there already
            sys.stderr.write(f"{charts[name]} was not registered, and the one of this name is used: {error}\n")
    saved = workspace(arguments.entity, arguments.project, arguments.ks, charts)
    saved.save()
    sys.stdout.write(f"{saved.url}\n")


if __name__ == "__main__":
    main()
