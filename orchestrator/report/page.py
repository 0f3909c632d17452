"""Sections of a report about an evaluation: the table of results, problems lost and gained, and the first prompt."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.evaluation.comparisons import coverage as by_difficulty
from orchestrator.evaluation.comparisons import problems
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.style import escaped, shortened, table
from orchestrator.report.verdicts import change_word
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.frontier import Placement
from orchestrator.watch.measurement import Measurement, PromptResult
from orchestrator.watch.passk import lost_and_gained

PROBLEMS_SHOWN = 15
"""Limit on the lost, and on the gained, problems listed per policy."""
UNFOLDED = 4
"""Problems of each list that are shown at once; the others unfold."""
ANSWERS_SHOWN = 2
"""Limit on the answers shown of one policy to one problem."""
ANSWER_SHOWN = 400
"""Limit on the characters shown of an answer or a prompt."""
LEVEL_SHOWN = 40
"""Limit on the characters shown of a level of difficulty."""
PROMPT_SHOWN = 2_000
"""Limit on the characters shown of the first prompt."""

LABELS = {
    "maj@n": "Maj@n",
    "retention": "Retention",
    "expansion": "Expansion",
    "distinct_correct": "Distinct correct",
    "entropy": "Entropy",
    "kl_to_base": "KL to base",
}
NOTES = {
    "retention": "Retention: of the problems that the base solved, the fraction still solved at least once; it grows "
    "with the number of answers.",
    "expansion": "Expansion: of the problems that the base did not solve, the fraction solved at least once now; it "
    "grows with the number of answers.",
    "entropy": "Entropy: nats per token.",
    "kl_to_base": "KL: nats per answer.",
}
COVERAGE_NOTE = (
    "Below a value: the change since the base, with its paired 95 % bootstrap interval over problems; one problem has "
    "no interval. The groups by "
    "the base's pass rate are made from the same answers as its values: problems that it solved by luck lie in too "
    "high a group, so a policy that is no better or worse seems to gain on hard problems and to lose on easy ones. "
    "Groups by a field of the problems have no such bias."
)
CHANCE_NOTE = (
    "Lost: the base has a right answer, and the policy has none; gained: the reverse. Beyond chance: the 95 % Wilson "
    "intervals of the two pass rates do not overlap."
)


def task_reports(evaluations: Sequence[Evaluation], output: Path) -> str:
    """Return links from the page `output` to the reports on the prompts of the tasks that are still where they were."""
    paths = {each.about["task_report"]: each.about["task"] for each in evaluations if "task_report" in each.about}
    lines = ""
    for path, task in paths.items():
        if os.path.isfile(path):
            place = quote(os.path.relpath(path, output.parent.resolve()), errors="surrogateescape")
            lines += (
                f'<p class="soft">Prompts of {escaped(task)}: <a href="{place}">{escaped(Path(path).name)}</a></p>\n'
            )
    return lines


def results(evaluation: Evaluation, heading: str, above: str = "") -> str:
    """Return the section with the table of all measurements: values, changes since the base, and the place against its
    frontier. A value that is defined for no policy has no column.

    Args:
        above: HTML between the heading and the table.
    """
    summaries = [values for by_temperature in evaluation.summaries.values() for values in by_temperature.values()]
    columns = [
        column
        for column in (*(f"pass@{k}" for k in evaluation.ks), *LABELS)
        if any(column in values and math.isfinite(values[column].value) for values in summaries)
    ]
    header = "".join(f"<th>{escaped(LABELS.get(key, key.capitalize()))}</th>" for key in columns)
    rows = []
    for name, by_temperature in evaluation.summaries.items():
        for temperature, values in by_temperature.items():
            places = {f"pass@{k}": p for k, p in evaluation.placements.get(name, {}).get(temperature, {}).items()}
            changes = {} if name == evaluation.base else {key: values.get(f"change/{key}") for key in columns}
            cells = "".join(_cell(values.get(key), changes.get(key), places.get(key)) for key in columns)
            rows.append(f"<tr><td><b>{escaped(name)}</b><small>temperature {temperature:g}</small></td>{cells}</tr>\n")
    base = evaluation.base
    placed = (
        f" Then the place against {base} at all its temperatures: beyond, on or below." if evaluation.placements else ""
    )
    note = (
        f"Below Pass@k: its change since {base} at temperature {evaluation.temperatures[0]:g} (of {base}, and of the "
        f"other values: the interval of the value), with a 95 % bootstrap interval, paired over problems.{placed} "
        + " ".join(text for key, text in NOTES.items() if key in columns)
    )
    return (
        f"<h2>{escaped(heading)}</h2>\n{above}"
        f'<div class="scroll"><table class="numbers"><thead><tr><th></th>{header}</tr></thead>\n'
        f'<tbody>{"".join(rows)}</tbody></table></div>\n<p class="soft">{escaped(note)}</p>\n'
    )


def coverage(evaluation: Evaluation) -> str:
    """Return Pass@k of each policy by the difficulty of the problems; nothing for measurements of runs themselves,
    which have too few answers to group problems by."""
    levels = evaluation.about.get("levels")
    if levels is None:
        return ""
    ks = list(dict.fromkeys((1, evaluation.figure_k)))
    found = by_difficulty(evaluation.at_base, _others(evaluation), ks, levels)
    ways = (("by_base_rate", "base's pass rate"), ("by_level", found["field"]))
    sections = [
        f"<h3>Pass@{k} by {escaped(label)}</h3>\n{table('', [label, 'problems', *evaluation.names], rows)}"
        for way, label in ways
        for k in ks
        if len(rows := [_bin(one, k, evaluation) for one in found[way]]) > 1
    ]
    below = f'<p class="soft">{escaped(COVERAGE_NOTE)}</p>\n'
    return f"<h2>Coverage by difficulty</h2>\n{''.join(sections)}{below}" if sections else ""


def _others(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the measurements that are compared with the base."""
    return {name: evaluation.measurements[name][evaluation.temperatures[0]] for name in evaluation.names[1:]}


def _bin(row: Mapping[str, Any], k: int, evaluation: Evaluation) -> list[str]:
    cells = []
    for name in evaluation.names:
        values = row["policies"].get(name, {})
        value, change = (values.get(key, [None] * 3) for key in (f"pass@{k}", f"change/pass@{k}"))
        shift = "" if change[0] is None or name == evaluation.base else f"\n{change[0]:+z.2f}"
        shift += f"\n{change[1]:+z.2f} to {change[2]:+z.2f}" if shift and None not in change else ""
        cells.append("" if value[0] is None else f"{value[0]:z.3f}{shift}")
    label = str(row["bin"])
    return [label if len(label) <= LEVEL_SHOWN else f"{label[:LEVEL_SHOWN]} ...", str(row["prompts"]), *cells]


def first_prompts(evaluation: Evaluation | None) -> str:
    """Return a section with the first held-out prompt as each policy read it; equal texts are shown once."""
    rendered: dict[str, list[str]] = {}
    for name, text in (evaluation.about.get("first_prompt", {}) if evaluation else {}).items():
        rendered.setdefault(text, []).append(name)
    shown = "".join(
        f"<p><b>{escaped(', '.join(names))}</b></p><pre>{shortened(text, PROMPT_SHOWN)}</pre>\n"
        for text, names in rendered.items()
    )
    return f"<h2>The first prompt, as it was read</h2>\n{shown}" if shown else ""


def _cell(interval: Interval | None, change: Interval | None, placement: Placement | None) -> str:
    if interval is None or math.isnan(interval.value):
        return '<td title="not measured">&ndash;</td>'
    detail, mark = f"{interval.low:z.2f} to {interval.high:z.2f}", ""
    if change is not None and change.prompts:
        detail = f"{change.value:+z.3f}<br>{change.low:+z.2f} to {change.high:+z.2f}"
        mark = f' class="{change_word(change)}"'
    word = _word(placement) if placement else ""
    title = f' title="{interval.prompts} problems"'
    return f"<td{title}><b>{interval.value:z.3f}</b><small{mark}>{detail}</small>{word}</td>"


def _word(placement: Placement) -> str:
    margin = placement.margin
    title = f"margin {margin.value:+z.3f} ({margin.low:+z.3f} to {margin.high:+z.3f})" if margin.prompts else ""
    title += "; no temperature of the base has this Pass@1" if placement.unreached else ""
    return f'<span class="word {placement.word}" title="{title}">{placement.word}</span>'


def lost_and_gained_problems(evaluation: Evaluation) -> str:
    """Return a section with the problems that only the base solved, and those that only another policy solved.

    Each problem stands above example answers of both, side by side: right answers of the one that solves it, and wrong
    answers of the other with verdict and reason. All policies but the first are folded.
    """
    sections = list[str]()
    counted = problems(evaluation.at_base, _others(evaluation))["policies"]
    for name, other in _others(evaluation).items():
        lost, gained = lost_and_gained(evaluation.at_base, other)
        counts = [
            f"{len(pairs)} {kind} ({counted[name][kind]['clear']} beyond chance)"
            for kind, pairs in (("lost", lost), ("gained", gained))
        ]
        sections.append(
            f"<details{'' if sections else ' open'}><summary>{escaped(name)}: {', '.join(counts)}</summary>\n"
            f"{_problems(f'Lost: solved by the base, not by {name}', name, lost)}"
            f"{_problems(f'Gained: solved by {name}, not by the base', name, gained)}</details>\n"
        )
    note = f'<p class="soft">{escaped(CHANCE_NOTE)}</p>\n'
    return f"<h2>Problems lost and gained</h2>\n{note}{''.join(sections)}" if sections else ""


def _problems(heading: str, name: str, pairs: Sequence[tuple[PromptResult, PromptResult]]) -> str:
    if not pairs:
        return f'<p class="soft">{escaped(heading)}: none.</p>\n'
    problems = [_problem(name, *pair) for pair in pairs[:PROBLEMS_SHOWN]]
    folded, more = problems[UNFOLDED:], len(pairs) - PROBLEMS_SHOWN
    return (
        f"<h3>{escaped(heading)}: {len(pairs)}</h3>\n{''.join(problems[:UNFOLDED])}"
        + (f"<details><summary>{len(folded)} more</summary>\n{''.join(folded)}</details>\n" if folded else "")
        + (f'<p class="soft">{more} further ones are not shown.</p>\n' if more > 0 else "")
    )


def _problem(name: str, base: PromptResult, now: PromptResult) -> str:
    return (
        f'<article class="problem">\n<pre>{shortened(base.prompt_text, ANSWER_SHOWN)}</pre>\n'
        f'<div class="sides">{_side("Base", base)}{_side(name, now)}</div></article>\n'
    )


def _side(name: str, result: PromptResult) -> str:
    """Return up to ANSWERS_SHOWN right answers, or else wrong ones with verdict and reason."""
    right = bool(result.correct_answers)
    if right:
        shown = [f"<pre>{shortened(answer, ANSWER_SHOWN)}</pre>" for answer in result.correct_answers]
    else:
        reasons = [*result.wrong_reasons, *[""] * len(result.wrong_answers)]
        shown = [
            f"<pre>{shortened(answer, ANSWER_SHOWN)}</pre>" + (f"<small>{escaped(reason)}</small>" if reason else "")
            for answer, reason in zip(result.wrong_answers, reasons, strict=False)
        ]
    mark = "right" if right else "wrong"
    counts = f"<b>{escaped(name)}</b>: {result.correct} of {result.total} correct"
    return f'<div class="side {mark}"><p>{counts}</p>{"".join(shown[:ANSWERS_SHOWN])}</div>\n'
