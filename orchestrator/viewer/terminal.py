"""Print answers with coloured tokens in a terminal, for machines without a browser."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from orchestrator.report.style import printable
from orchestrator.viewer.answer_file import AnswerFile

PROMPT_SHOWN = 1_000
"""Characters of a prompt that are printed."""
ANSWER_SHOWN = 20_000
"""Characters of an answer that are printed."""
LEVELS = 5
"""Steps of a colour."""
HIGH = (24, 31, 38, 75, 117)
"""Colours of the 256 of a terminal for values above 0, from weak to strong."""
LOW = (94, 130, 166, 172, 214)
"""For values below 0."""

Value = Callable[[dict[str, Any], int], float | None]


def _column(name: str, sign: float = 1.0) -> Value:
    def value(row: dict[str, Any], i: int) -> float | None:
        column = row["tokens"].get(name)
        return None if column is None or column[i] is None else sign * column[i]

    return value


VALUES: dict[str, Value] = {
    "entropy": _column("entropy"),
    "logp": _column("logp_sampler", -1.0),
    "divergence": _column("divergence"),
    "advantage": _column("advantage"),
    "mismatch": _column("mismatch"),
    "staleness": _column("staleness"),
}
"""What the colour of a token can show, by the name of `--colour`; logp is shown as -log-prob."""


def show(console: Console, answers: AnswerFile, numbers: Sequence[int], colour: str) -> None:
    """Print the answers of these numbers by step and problem: through the pager in a terminal, else as plain lines."""
    if not console.is_terminal:
        for part in _parts(answers, numbers, colour):
            console.print(part, soft_wrap=True)
        return
    with console.pager(styles=True):
        for part in _parts(answers, numbers, colour):
            console.print(part)


def _parts(answers: AnswerFile, numbers: Sequence[int], colour: str) -> Iterator[RenderableType]:
    if not numbers:
        yield Text("no answer has these properties" if answers.summaries else "the run has written no answers")
        return
    rows = [answers.answer(number) for number in numbers]
    end = _end(rows, VALUES[colour])
    if end is None:
        yield Text(f"these answers have no values of {colour}")
    elif end == 0:
        yield Text(f"all values of {colour} are 0")
    else:
        yield Text(f"colour: {colour}, strongest at {end:.3g}")
    for (step, prompt_id), members in groupby(rows, key=lambda row: (row["step"], row["prompt_id"])):
        group = list(members)
        size = group[0]["group_size"]
        of = f"  {len(group)} of {size} answers" if size >= len(group) else ""
        yield Text(f"\nstep {step}  {printable(prompt_id)}{of}", style="bold")
        yield Text(printable(group[0]["prompt"][:PROMPT_SHOWN]))
        for row in group:
            yield _verdict(row)
            yield _answer(row, VALUES[colour], end)


def _end(rows: Sequence[dict[str, Any]], value: Value) -> float | None:
    """Return the 95th percentile of the sizes of the values, at which the colours end; None without values."""
    found = (value(row, i) for row in rows for i in range(len(row["tokens"].get("texts", ()))))
    sizes = sorted(abs(each) for each in found if each is not None)
    return (sizes[int(len(sizes) * 0.95)] or sizes[-1]) if sizes else None


def _verdict(row: dict[str, Any]) -> Text:
    """Return the line about an answer: verdict, reward, length, weights and reason."""
    reward = row["reward"]
    style = "" if reward is None else "green" if reward >= 1 else "red" if reward <= 0 else "yellow"
    text = Text("  ").append(printable(row["status"]) or "not graded", style=f"bold {style}".strip())
    facts = [f"reward {'none' if reward is None else f'{reward:g}'}"]
    facts += [f"{name} {value:g}" for name, value in row["rewards"].items()]
    if row["tokens"]:
        facts.append(f"{row['tokens']['count']} tokens")
    if row["route"] == "explore":
        versions = dict.fromkeys((row["first_version"], row["last_version"]))
        facts.append(f"weights {' to '.join(map(str, versions))}")
    facts += [row["route"], f"sample {row['sample_index']}"]
    facts += ["cut off at the length limit"] if row["finish_reason"] == "length" else []
    facts += [row["reason"]] if row["reason"] else []
    return text.append(printable("  " + "  ".join(facts)))


def _answer(row: dict[str, Any], value: Value, end: float | None) -> Text:
    text, texts = Text("  "), row["tokens"].get("texts", ())
    for i, word in enumerate(texts):
        found = value(row, i)
        text.append(printable(word), style=_style(found, end) if found is not None and end is not None else "")
        if len(text) > ANSWER_SHOWN:
            return text.append(f" ... {row['tokens']['count'] - i - 1} more tokens")
    if texts and row["tokens"]["count"] > len(texts):
        return text.append(f" ... {row['tokens']['count'] - len(texts)} more tokens")
    return text if texts else text.append(printable(row["answer"][:ANSWER_SHOWN]))


def _style(value: float, end: float) -> str:
    """Return the style of a token: none for small values, and white or black text on the colour of its level."""
    level = min(math.ceil(LEVELS * abs(value) / end - 0.5), LEVELS) if end else 0
    if level <= 0:
        return ""
    return f"{'black' if level > 2 else 'white'} on color({(HIGH if value > 0 else LOW)[level - 1]})"
