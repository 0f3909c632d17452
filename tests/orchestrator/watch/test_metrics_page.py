"""docs/metrics.md names exactly the metrics that runs record."""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from tasks.mixture import MixtureOptions
from tests.orchestrator.test_critic_run import train

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
PLACEHOLDERS = {
    "NODE": r"[^/]+",
    "K": r"\d+",
    "DOMAIN": r"[^/]+",
    "NAME": r"[^/]+",
    "VERIFIER": r"[^/]+",
    "METRIC": r".+",
    "ROLE": "(?:generator|grader|reference)",
}
"""What a word in capitals in a documented name stands for."""
OF_EVERY_RECORD = {"step", "time"}

EVEN = "task.verifier=toy_verifiers:even"
"""About half of the random policy's answers are right, so that advantages and rehearsed answers exist."""
[DOMAINS] = [field.name for field in fields(MixtureOptions)]
RUNS = {
    "gates": (
        "method=gtpo",
        EVEN,
        "sampling.max_refills=1",
        "objective.old_policy=learner",
        "objective.mismatch.kind=token_truncate",
        "objective.covariance.kind=clip",
    ),
    "domains": (
        "method=recap",
        "replay.batch=2",
        "monitor.every=2",
        "monitor.answers=4",
        "monitor.ks=[1,4]",
        "task.name=mixture",
        f"task.options.{DOMAINS}=[{{name: countdown}}, {{name: sql_questions}}]",
        "sampling.max_prompt_tokens=500",
    ),
    "annealed": ("method=pkpo", EVEN, "objective.pass_k.schedule=linear", "objective.pass_k.k=3"),
    "critic": ("method=safe_critic", EVEN),
    "flow": ("method=flow_rl", EVEN),
    "feedback": ("method=sdpo", EVEN),
    "token_weights": ("method=sod", EVEN),
    "confidence": (
        "method=safe",
        EVEN,
        "objective.terms.divergence.coefficient={kind: confidence, value: 0.5}",
    ),
    "several": (EVEN, "objective.rewards.low.verifier=toy_verifiers:starts_low"),
    "solutions": ("method=spin",),
    "others": (
        "monitor.every=2",
        "monitor.answers=4",
        "monitor.ks=[1,4]",
        "monitor.also.sums={name: few_shot_sums, heldout_prompts: 2}",
        "sampling.max_prompt_tokens=200",
    ),
    "experience": ("method=exgrpo", EVEN, "objective.experience.start=0"),
    "mask": ("method=sparse_po", EVEN),
    "rehearsal": ("method=dph_f", EVEN, "rehearsal.prompts=4", "rehearsal.batch=2", "rehearsal.threshold=1"),
}
"""Overrides of runs that together record every metric."""


@pytest.fixture(scope="module")
def recorded(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of all metrics in the records of RUNS, two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    names: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # The grader's workers import toy_verifiers.
        for name, settings in RUNS.items():
            records = train(tiny_policy, folder, *settings, "steps=2", f"name={name}")
            names |= {metric for record in records for metric in record}
    return names - OF_EVERY_RECORD


def documented_names() -> list[str]:
    """Names in the first column of the page's tables of metrics."""
    names: list[str] = []
    in_table = False
    for line in PAGE.read_text().splitlines():
        in_table = line.startswith("| metric |") or (in_table and line.startswith("|"))
        if in_table:
            names += re.findall(r"`([^`]+)`", line.split("|")[1])
    return names


def pattern(documented_name: str) -> re.Pattern[str]:
    """Return the pattern of a documented name, whose placeholders are its words in capitals."""
    words = re.split(r"([A-Z]+)", documented_name)
    return re.compile("".join(PLACEHOLDERS[word] if word.isupper() else re.escape(word) for word in words))


def best_match(metric: str) -> str | None:
    """Return the documented name that matches `metric` with the fewest placeholders."""
    matches = [name for name in documented_names() if pattern(name).fullmatch(metric)]
    return min(matches, key=lambda name: len(re.findall(r"[A-Z]+", name)), default=None)


def test_every_metric_of_a_run_is_documented(recorded: set[str]) -> None:
    assert sorted(name for name in recorded if best_match(name) is None) == []


def test_every_documented_metric_is_recorded_by_a_run(recorded: set[str]) -> None:
    assert sorted(set(documented_names()) - {best_match(name) for name in recorded}) == []


def test_no_metric_is_documented_twice() -> None:
    assert [name for name, count in Counter(documented_names()).items() if count > 1] == []


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("heldout/pass@16", "heldout/pass@K"),
        ("heldout/pass@16/sql", "heldout/pass@K/DOMAIN"),
        ("heldout/pass@16/low", "heldout/METRIC/low"),
        ("heldout/pass@16/sql/high", "heldout/METRIC/high"),
        ("kl_reference", "kl_reference"),
        ("kl_soup", "kl_NAME"),
        ("terms/near/value", "terms/NAME/value"),
        ("terms/near/values", None),
        ("heldout/pass@all", None),
        ("rewards", None),
    ],
)
def test_a_metric_matches_its_most_specific_documented_name(metric: str, name: str | None) -> None:
    assert best_match(metric) == name
