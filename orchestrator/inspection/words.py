"""Put findings into words: the cells of the tables, and the answers to three questions about the held-out prompts."""

import math

from orchestrator.inspection.contamination import FEWEST, Separation
from orchestrator.inspection.estimators import Novelty
from orchestrator.inspection.findings import Findings
from orchestrator.inspection.prompt_sets import HELDOUT, TRAIN
from orchestrator.watch.bootstrap import Interval

TOO_SMALL = "too few prompts"
SETS = ("set", "prompts", "distinct", "tokens", "equal", "nearly equal", "diversity", "contamination", "clipped")
"""Columns of the table of sets."""
PAIRS = ("set", "against", "equal", "nearly equal", "novelty", "zero", "word", "scores higher")
"""Columns of the table of pairs of sets."""


def set_rows(findings: Findings) -> list[list[str]]:
    """Return the cells of the table of sets."""
    rows = []
    for name, found in findings.sets.items():
        copies = findings.duplicates[name, name]
        left_out = f" ({found.too_long} too long)" if found.too_long else ""
        shortest, median, longest = found.lengths
        rows.append(
            [
                name,
                f"{len(found.texts)}{left_out}",
                str(found.distinct),
                f"{shortest} to {longest}, median {median}",
                str(copies.exact),
                str(copies.near),
                _spread(found.diversity),
                _number(found.mean_score, ".4g"),
                _number(found.clipped, ".0%"),
            ]
        )
    return rows


def pair_rows(findings: Findings) -> list[list[str]]:
    """Return the cells of the table of pairs."""
    rows = []
    for (one, other), new in findings.novelty.items():
        copies = findings.duplicates[one, other]
        cells = (_spread(new.divergence), _interval(new.zero), new.word) if new else (TOO_SMALL, "", "")
        higher = _separation(findings.separation[one, other])
        rows.append([one, other, str(copies.exact), str(copies.near), *cells, higher])
    return rows


def answers(findings: Findings) -> dict[str, str]:
    """Return three questions about the held-out prompts, and their answers."""
    return {
        "Are held-out prompts also trained on?": _copied(findings),
        "Do held-out prompts differ in kind from train prompts?": _novel(findings.novelty[HELDOUT, TRAIN]),
        "Has the policy seen the held-out prompts before?": _seen(findings),
    }


def _copied(findings: Findings) -> str:
    copies, total = findings.duplicates[HELDOUT, TRAIN], len(findings.sets[HELDOUT].texts)
    return (
        f"{copies.exact} of {total} held-out prompts are equal to one of {len(findings.sets[TRAIN].texts)} train "
        f"prompts, {copies.near} more are nearly equal to one."
    )


def _novel(new: Novelty | None) -> str:
    if new is None:
        return f"Not measured: {TOO_SMALL}, or all are equal."
    answer = {
        "new": "Yes",
        "alike": "Not shown",
        "repeats": "No, they are closer to train prompts than train prompts are to each other",
    }[new.word]
    return (
        f"{answer}: their KL divergence from train prompts is {new.divergence.value:.2f} nats, and that between parts "
        f"of the train prompts is {_interval(new.zero)}."
    )


def _seen(findings: Findings) -> str:
    others = [name for name in findings.sets if name != HELDOUT]
    apart = {name: found for name in others if (found := findings.separation[HELDOUT, name])}
    if not apart:
        return f"Not measured: {TOO_SMALL}, fewer than {FEWEST} of a set have a score."
    better = [name for name, found in apart.items() if found.low > 0.5]
    answer = f"Perhaps: it knows them better than {' and '.join(better)}" if better else "Not shown"
    compared = ", ".join(f"of {name} {_separation(found)}" for name, found in apart.items())
    return (
        f"{answer}. The contamination score of a held-out prompt is higher than that of a prompt {compared}, as a "
        "probability; 0.5 is no difference. A set that was seen too shows nothing: compare with prompts that are newer "
        "than the policy (inspect_task.others)."
    )


def _separation(apart: Separation | None) -> str:
    return TOO_SMALL if apart is None else f"{apart.value:.2f} ({apart.low:.2f} to {apart.high:.2f})"


def _spread(spread: Interval | None) -> str:
    return TOO_SMALL if spread is None else f"{spread.value:.2f} ({_interval(spread)})"


def _interval(spread: Interval) -> str:
    return f"{spread.low:.2f} to {spread.high:.2f}"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
