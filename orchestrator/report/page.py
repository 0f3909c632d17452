"""Build the HTML of a report. It has no links or scripts, and every text from outside is escaped by `escaped`."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.report.divergence import NOTE, Rows
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.verdicts import change_word
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.frontier import Placement
from orchestrator.watch.measurement import PromptResult

PROBLEMS_SHOWN = 15
"""Limit on the lost, and on the gained, problems listed per run."""
ANSWER_SHOWN = 400
"""Limit on the characters shown of an answer or a prompt."""
PROMPT_SHOWN = 2_000
"""Limit on the characters shown of the first prompt."""

FRONTIER = (
    "Pass@1 against Pass@k: higher and further right is better. Grey: the base at all measured temperatures (0: greedy "
    "decoding), with the 95 % interval of its Pass@k; every point of it costs nothing. Dotted: the base's power "
    "distribution, p^alpha over whole answers. A policy has learned something that sampling does not give where no "
    "point of the grey curve is as good in both."
)
PASS_AGAINST_K = (
    "Probability that at least one of k answers is correct, mean over held-out problems, with 95 % bootstrap intervals "
    "over problems. If a run became better without losing solutions, its curve is above the base at every k. If its "
    "curve crosses the base, it gained Pass@1 and lost problems that the base can solve. Curves are shifted slightly "
    "sideways so that their intervals do not overlap."
)
PASS_OVER_STEPS = (
    "Pass@k of the held-out problems during training, with 95 % bootstrap intervals over problems; the dashed line is "
    "the evaluation of the base. The margin is positive where no temperature of the base gives this Pass@1 and Pass@k."
)
TRAINING = (
    "Thin lines: every step. Thick lines: running mean. An entropy that falls towards 0 and a KL that keeps growing "
    "are early signs of lost solutions."
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5f6368; --line: #dedede; --tint: #f6f7f8; --paper: #fff;
  --bad: #b3261e; --bad-tint: #fbe3e1; --good-tint: #dcefe3; --note: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a3a8ae; --line: #3a3d41; --tint: #24272a;
  --paper: #17191b; --bad: #ff8a80; --bad-tint: #4a2321; --good-tint: #1e3f2b; --note: #3d3117; }
  img { background: #fff; border-radius: 6px; padding: 6px; box-sizing: border-box; } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper);
  max-width: 70rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; }
img { display: block; max-width: 100%; margin: 0 auto; }
figure { margin: 0; } figcaption, .soft { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .45rem 1rem .45rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
td small { display: block; color: var(--soft); font-size: .78rem; white-space: nowrap; }
.fell { color: var(--bad); } td span { font-size: .78rem; padding: .05rem .35rem; border-radius: 3px; }
.beyond { background: var(--good-tint); } .on { background: var(--tint); } .below { background: var(--bad-tint); }
.answer { border-left: 4px solid #0072B2; padding: .1rem .9rem; margin: .8rem 0; background: var(--tint); }
.answer h2 { margin: .4rem 0 0; font-size: 1.05rem; } .answer p { margin: .2rem 0 .5rem; }
.problems { width: 100%; table-layout: fixed; } .problems th, .problems td { text-align: left; }
.note { background: var(--note); border-left: 4px solid #E69F00; padding: .5rem .9rem; margin: .5rem 0; }
details { margin: .4rem 0; } summary { cursor: pointer; font-weight: 600; }
code, pre { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: var(--tint); padding: .05rem .3rem; border-radius: 3px; overflow-wrap: anywhere;
  white-space: pre-wrap; }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; }
"""


def escaped(value: str) -> str:
    """Return `value` as HTML text: escape markup, and replace unprintable characters, such as bidirectional marks."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value))


def page(title: str, notes: Sequence[str], sections: Sequence[str]) -> str:
    """Return the HTML file. Its Content-Security-Policy forbids scripts and external resources."""
    warnings = "".join(f'<p class="note">{escaped(note)}</p>\n' for note in notes)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{escaped(title)}</h1>\n"
        f"{warnings}{''.join(sections)}</body></html>\n"
    )


def first_screen(facts: Sequence[str], answers: Mapping[str, str]) -> str:
    """Return the section that a reader sees first: what was measured, and the questions with their answers."""
    cards = "".join(
        f'<div class="answer"><h2>{escaped(question)}</h2><p>{escaped(answer)}</p></div>\n'
        for question, answer in answers.items()
    )
    return f'<p class="soft">{escaped(" · ".join(facts))}</p>\n{cards}' if facts else cards


def results(evaluation: Evaluation | None) -> str:
    """Return the table of all measurements: values, changes since the base, and the place against its frontier."""
    if evaluation is None:
        return ""
    columns = [*(f"pass@{k}" for k in evaluation.ks), *LABELS]
    recorded = {key for by_t in evaluation.summaries.values() for values in by_t.values() for key in values}
    columns = [column for column in columns if column in recorded]
    header = "".join(f"<th>{escaped(LABELS.get(key, key.capitalize()))}</th>" for key in columns)
    rows = []
    for name, by_temperature in evaluation.summaries.items():
        for temperature, values in by_temperature.items():
            places = {f"pass@{k}": p for k, p in evaluation.placements.get(name, {}).get(temperature, {}).items()}
            cells = "".join(
                _cell(
                    values.get(key), None if name == evaluation.base else values.get(f"change/{key}"), places.get(key)
                )
                for key in columns
            )
            rows.append(f"<tr><td><b>{escaped(name)}</b><small>temperature {temperature:g}</small></td>{cells}</tr>\n")
    base = escaped(evaluation.base)
    return (
        f"<h2>Results: {escaped(evaluation.conditions)}</h2>\n"
        f'<div class="scroll"><table><thead><tr><th></th>{header}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>\n"
        f'<p class="soft">Below Pass@k: its change since {base} at temperature {evaluation.temperatures[0]:g} (of '
        f"{base}, and of the other values: the interval of the value), with a 95 % bootstrap interval that is paired "
        f"over problems; a fall is red. Then the place against {base} at all its temperatures: beyond, on or below. "
        f"Retention: of the problems that {base} solved at least once, the fraction still solved at least once. "
        "Expansion: of the problems that it did not solve, the fraction solved at least once now. Both grow with the "
        "number of answers. "
        "Entropy: nats per token. KL: nats per answer.</p>\n"
    )


def reward_kl(of_kl: Rows | None) -> str:
    """Return the table of reward against KL; nothing without a KL."""
    if of_kl is None:
        return ""
    header = "".join(f"<th>{escaped(cell)}</th>" for cell in of_kl.header)
    rows = "".join(f"<tr>{''.join(map(_two_lines, row))}</tr>\n" for row in of_kl.rows)
    return (
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n'
        f'<p class="soft">{escaped(NOTE)}</p>\n'
    )


def _two_lines(cell: str) -> str:
    value, _, detail = cell.partition("\n")
    return f"<td><b>{escaped(value)}</b><small>{escaped(detail)}</small></td>"


def first_prompts(evaluation: Evaluation | None) -> str:
    """Return a section with the first held-out prompt as each policy read it; equal texts are shown once."""
    rendered: dict[str, list[str]] = {}
    for name, text in (evaluation.about.get("first_prompt", {}) if evaluation else {}).items():
        rendered.setdefault(text, []).append(name)
    shown = "".join(
        f"<p><b>{escaped(', '.join(names))}</b></p><pre>{escaped(text[:PROMPT_SHOWN])}</pre>\n"
        for text, names in rendered.items()
    )
    return f"<h2>The first prompt, as it was read</h2>\n{shown}" if shown else ""


LABELS = {
    "maj@n": "Maj@n",
    "retention": "Retention",
    "expansion": "Expansion",
    "distinct_correct": "Distinct correct",
    "entropy": "Entropy",
    "kl_to_base": "KL to base",
}


def _cell(interval: Interval | None, change: Interval | None, placement: Placement | None) -> str:
    if interval is None or math.isnan(interval.value):
        return '<td title="not measured">&ndash;</td>'
    detail, mark = f"{interval.low:.2f} to {interval.high:.2f}", ""
    if change is not None and change.prompts:
        detail = f"{change.value:+.3f}<br>{change.low:+.2f} to {change.high:+.2f}"
        mark = f' class="{change_word(change)}"'
    word = _word(placement) if placement else ""
    title = f' title="{interval.prompts} problems"'
    return f"<td{title}><b>{interval.value:.3f}</b><small{mark}>{detail}</small>{word}</td>"


def _word(placement: Placement) -> str:
    margin = placement.margin
    title = f"margin {margin.value:+.3f} ({margin.low:+.3f} to {margin.high:+.3f})" if margin.prompts else ""
    title += "; no temperature of the base has this Pass@1" if placement.unreached else ""
    return f'<span class="{placement.word}" title="{title}">{placement.word}</span>'


def figure(heading: str, path: Path | None, caption: str) -> str:
    """Return a section with the PNG file `path` embedded; a note instead if it is None."""
    if path is None:
        return f'<h2>{escaped(heading)}</h2>\n<p class="note">No data was recorded for this figure.</p>\n'
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<h2>{escaped(heading)}</h2>\n<figure><img alt="{escaped(heading)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escaped(caption)}</figcaption></figure>\n"
    )


def lost_and_gained_problems(
    name: str,
    lost: Sequence[tuple[PromptResult, PromptResult]],
    gained: Sequence[tuple[PromptResult, PromptResult]],
) -> str:
    """Return a section with the problems solved only by the base, and only by the run `name`, and example answers."""
    return (
        f"<h2>{escaped(name)}: problems lost and gained</h2>\n"
        + _problems(f"Lost: solved by the base, not by {name} ({len(lost)})", lost)
        + _problems(f"Gained: solved by {name}, not by the base ({len(gained)})", gained)
    )


def _problems(heading: str, pairs: Sequence[tuple[PromptResult, PromptResult]]) -> str:
    if not pairs:
        return f'<p class="soft">{escaped(heading)}.</p>\n'
    rows = "".join(
        f"<tr><td>{_code(base.prompt_text)}</td>{_answers(base)}{_answers(now)}</tr>\n"
        for base, now in pairs[:PROBLEMS_SHOWN]
    )
    more = len(pairs) - PROBLEMS_SHOWN
    return (
        f"<details open><summary>{escaped(heading)}</summary>\n"
        '<table class="problems"><thead><tr><th>Problem</th><th>Base</th><th>Run</th></tr></thead>\n'
        f"<tbody>{rows}</tbody></table>\n"
        + (f'<p class="soft">and {more} more.</p>\n' if more > 0 else "")
        + "</details>\n"
    )


def _answers(result: PromptResult) -> str:
    shown = result.correct_answers or result.wrong_answers
    listed = " ".join(_code(answer) for answer in shown)
    return f"<td>{result.correct} of {result.total} correct<br>{listed}</td>"


def _code(value: str) -> str:
    shortened = value if len(value) <= ANSWER_SHOWN else value[:ANSWER_SHOWN] + " ..."
    return f"<code>{escaped(shortened)}</code>"


def settings(name: str, path: Path) -> str:
    """Return a section with the settings file of the run `name`."""
    if not path.exists():
        return f'<h2>{escaped(name)}: settings</h2>\n<p class="note">{escaped(str(path))} is missing.</p>\n'
    details = f"<summary>{escaped(path.name)}</summary><pre>{escaped(path.read_text(errors='replace'))}</pre>"
    return f"<h2>{escaped(name)}: settings</h2>\n<details>{details}</details>\n"
