"""Sections of W&B: every documented metric has one, and interval ends and summaries follow the tables."""

import re
from pathlib import Path

import pytest

from orchestrator.sinks.wandb_sections import in_section, is_bound, summary_of

DOCS = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
CHAPTERS = {
    "Held-out values": {"heldout"},
    "Rewards and answers": {"rollout"},
    "Graders": {"grader"},
    "Objective and optimizer": {"train", "terms"},
    "Mismatch between engine and learner": {"mismatch"},
    "Staleness": {"rollout"},
    "Time": {"speed"},
    "Nodes": {"system"},
}
OF_EVALUATION = ("pass_k_above", "pass_1_above", "kl_to_base", "kl_efficiency", "optimal_gain")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_metrics_of_a_chapter_of_the_docs_are_in_its_sections(chapter: str) -> None:
    text = DOCS.read_text().split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ", text, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([a-z_]+[a-z_@/A-Z0-9]*)`", row)]
    # The chapter of the held-out values also explains values of `breadth evaluate`, which are no metrics of a run.
    shown = {name: in_section(name).split("/")[0] for name in names if name not in (*OF_EVALUATION, "tokens_total")}
    assert shown
    assert {name: section for name, section in shown.items() if section not in CHAPTERS[chapter]} == {}


@pytest.mark.parametrize(
    ("name", "shown", "summary"),
    [
        ("heldout/pass@64", "heldout/pass@64", "max,last"),
        ("heldout/pass@64/low", "heldout/pass@64/low", "none"),
        ("heldout/retention", "heldout/retention", "min,last"),
        ("reward", "rollout/reward", "max,last"),
        ("reward/sql", "rollout/reward/sql", "max,last"),
        ("entropy", "train/entropy", "min,last"),
        ("kl_teacher", "train/kl_teacher", "max,last"),
        ("loss", "train/loss", "last"),
        ("seconds/update", "speed/seconds/update", "mean,last"),
        ("tokens_total", "tokens_total", "last"),
        ("step", "step", "last"),
    ],
)
def test_a_metric_has_a_name_and_a_summary_in_wandb(name: str, shown: str, summary: str) -> None:
    assert (in_section(name), summary_of(name)) == (shown, summary)


def test_the_ends_of_intervals_are_known() -> None:
    assert is_bound("heldout/pass@1/low") and is_bound("heldout/retention/high") and not is_bound("heldout/retention")
