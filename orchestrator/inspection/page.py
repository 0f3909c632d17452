"""Write the report of an inspection: one self-contained HTML page, and its numbers as JSON beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orchestrator.inspection.findings import Findings, SetFindings
from orchestrator.inspection.words import PAIRS, SETS, answers, pair_rows, set_rows
from orchestrator.report.plots import Curve, Panel, figure
from orchestrator.report.style import first_screen, page, table
from trajectories.atomic_write import replace_file

LISTED = 20
"""Duplicates of two sets, and highest scores of a set, that are shown."""
TEXT_SHOWN = 400
"""Characters shown of a prompt."""
SETS_NOTE = (
    "Equal, nearly equal: prompts with a copy elsewhere in the set, the first by all tokens, the second by the Jaccard "
    "similarity of token trigrams. Diversity: entropy of the policy's hidden states in nats, by nearest neighbours, "
    "comparable within this report only, with the interval of 95 % of 100 random draws of equal size. Contamination: "
    "mean DC-PDD score; clipped: fraction of its tokens at the clip, where the score distinguishes nothing."
)
PAIRS_NOTE = (
    "Equal, nearly equal: prompts of the first set with a copy in the second. Novelty: KL divergence in nats of the "
    "first set from the second, by nearest neighbours; zero: the same between two parts of the second set. A novelty "
    "above the zero's interval is new; below it, prompts repeat. Scores higher: the probability that a prompt of the "
    "first set has a higher contamination score than one of the second; 0.5 is no difference."
)
FIGURES_NOTE = (
    "Left: fraction of the prompts of a set with at most this contamination score; a curve further right is of prompts "
    "that the policy knows better. Right: each distinct prompt at the first two principal components of its hidden "
    "states."
)


def write(findings: Findings, facts: Sequence[str], output: Path) -> None:
    """Write the HTML file `output`, and its numbers as a JSON file beside it.

    Args:
        facts: what was inspected, in a few words each.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(output.with_suffix(".json")) as file:
        file.write(json.dumps({"about": list(facts), **findings.plain()}, indent=1, allow_nan=False).encode())
    sections = [
        first_screen(facts, answers(findings)),
        table("The sets", SETS, set_rows(findings), SETS_NOTE),
        table("Set against set", PAIRS, pair_rows(findings), PAIRS_NOTE),
        figure(_panels(findings), FIGURES_NOTE, "Contamination scores and hidden states"),
        *_copies(findings),
        *(_highest(found) for found in findings.sets.values()),
    ]
    output.write_bytes(page("Prompts of a task", [], sections).encode("utf-8", "replace"))


def _copies(findings: Findings) -> list[str]:
    """Return a table of duplicates for each set, and for each pair of sets in one order: of held-out in train."""
    sections, names = [], list(findings.sets)
    for one, other in ((one, other) for index, one in enumerate(names) for other in names[: index + 1]):
        copies = findings.duplicates[one, other]
        if not copies.pairs:
            continue
        where = f"within {one}" if one == other else f"of {one} in {other}"
        rows = [
            [
                "equal" if pair.equal else f"{pair.similarity:.2f}",
                _prompt(findings.sets[one], pair.one),
                _prompt(findings.sets[other], pair.other),
            ]
            for pair in copies.pairs[:LISTED]
        ]
        heading = f"Duplicates {where}: {len(rows)} of {len(copies.pairs)}"
        sections.append(table(heading, ("similarity", one, other), rows, words=True))
    return sections


def _highest(found: SetFindings) -> str:
    rows = [[f"{found.scores[i]:.4g}", _prompt(found, i)] for i in found.by_score[:LISTED]]
    return table(f"Highest contamination scores of {found.name}", ("score", "prompt"), rows, words=True)


def _prompt(found: SetFindings, index: int) -> str:
    text = found.texts[index]
    return f"{found.ids[index]}: {text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN] + ' ...'}"


def _panels(findings: Findings) -> list[Panel]:
    scores, places = [], []
    for style, found in enumerate(findings.sets.values()):
        known = np.sort(found.scores[~np.isnan(found.scores)])
        fractions = np.arange(1, len(known) + 1) / max(len(known), 1)
        scores.append(Curve(name=found.name, style=style, x=known.tolist(), y=fractions.tolist()))
        x, y = np.pad(found.places, ((0, 0), (0, 2)))[:, :2].T
        places.append(Curve(name=found.name, style=style, x=x.tolist(), y=y.tolist(), marked=True, joined=False))
    return [
        Panel(title="Contamination", x_label="score", y_label="prompts", curves=scores, whole_x=False),
        Panel(title="Hidden states", x_label="component 1", y_label="component 2", curves=places, whole_x=False),
    ]
