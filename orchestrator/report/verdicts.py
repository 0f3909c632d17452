"""Answer two questions about an evaluation in words: did Pass@k survive, and was anything learned beyond sharpening?

Both are answered at the first of `evaluate.temperatures`, by 95 % intervals that are paired over prompts.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from orchestrator.report.evaluation import Evaluation
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.frontier import Placement, Word

LISTED = 4
"""Values of k that fell up to which each is told."""


def change_word(change: Interval) -> str:
    """Return `rose`, `fell` or `held`, by the interval of the change of Pass@k since the base; empty if undefined."""
    if not change.prompts:
        return ""
    if change.low > 0:
        return "rose"
    return "fell" if change.high < 0 else "held"


def survival(evaluation: Evaluation) -> str:
    """Return in which policies no Pass@k with k above 1 fell, and where it fell, with the changes since the base and
    their intervals: with few problems, a wide one is no proof that nothing was lost."""
    at_base = evaluation.summaries[evaluation.base][evaluation.temperatures[0]]
    known = [at_base[f"pass@{k}"] for k in evaluation.ks if k > 1 and at_base[f"pass@{k}"].prompts]
    if known and not any(value.value for value in known):
        return f"There was nothing to lose: {evaluation.base} has no right answer."
    kept, lost = [], []
    for name in evaluation.names[1:]:
        values = evaluation.summaries[name][evaluation.temperatures[0]]
        changes = {k: values[f"change/pass@{k}"] for k in evaluation.ks if values[f"change/pass@{k}"].prompts and k > 1}
        fell = {k: change for k, change in changes.items() if change_word(change) == "fell"}
        if fell:
            lost.append(f"{name} ({_losses(fell, len(changes))})")
        elif changes:
            k = evaluation.figure_k if evaluation.figure_k in changes else max(changes)
            kept.append(f"{name} (Pass@{k} {_change(changes[k])})")
    sentences = [f"Yes in {_listed(kept)}: no interval with k above 1 is below 0."] if kept else []
    sentences += [f"No in {_listed(lost)}."] if lost else []
    return " ".join(sentences) or "Not measured: no Pass@k with k above 1."


def beyond_sharpening(evaluation: Evaluation) -> str:
    """Return which policies lie beyond the frontier of the base at every k, at some k, and at none."""
    k, temperature = evaluation.figure_k, evaluation.temperatures[0]
    placed = {name: by_temperature[temperature] for name, by_temperature in evaluation.placements.items()}
    placed = {name: places for name, places in placed.items() if len(_by_word(places)["not measured"]) < len(places)}
    if not placed:
        return f"Not measured: {evaluation.base} has graded answers at one temperature only."
    outcomes: dict[str, list[str]] = {"Yes at every k": [], "At some k": [], "Not shown": [], "No": []}
    for name, places in placed.items():
        words = _by_word(places)
        if len(words["beyond"]) == len(places):
            outcomes["Yes at every k"].append(f"{name} (margin {places[k].margin.value:+z.2f} at k = {k})")
        else:
            outcome = "At some k" if words["beyond"] else "No" if words["below"] else "Not shown"
            listed = [f"{word} at {_which(ks, len(places))}" for word, ks in words.items() if ks]
            outcomes[outcome].append(f"{name} ({', '.join(listed)})")
    sentences = [f"{outcome} in {_listed(names)}." for outcome, names in outcomes.items() if names]
    unreached = [name for name, places in placed.items() if places[k].unreached]
    if unreached:
        sentences.append(f"No temperature of {evaluation.base} reaches the Pass@1 of {_listed(unreached)}.")
    beyond = [name for name, places in placed.items() if _by_word(places)["beyond"]]
    return " ".join([*sentences, *_against_power(evaluation, beyond)])


def _against_power(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """Return one sentence on the power distribution, if one of `names` can be compared with it."""
    if not evaluation.power or not names:
        return []
    places = {name: evaluation.power_placements[name][evaluation.temperatures[0]] for name in names}
    beyond = [name for name in names if len(_by_word(places[name])["beyond"]) == len(places[name])]
    against = f"the power distribution of {evaluation.base} (k = {_listed(list(evaluation.power))})"
    return [f"Beyond {against} too: {_listed(beyond) if beyond else 'none of them'}."]


def _losses(fell: Mapping[int, Interval], measured: int) -> str:
    """Return the changes of every k that fell; of many, their number and the largest loss."""
    if len(fell) <= LISTED:
        return "; ".join(f"Pass@{k} {_change(change)}" for k, change in fell.items())
    k, most = min(fell.items(), key=lambda item: item[1].value)
    return f"{len(fell)} of {measured} k above 1, most of all Pass@{k} {_change(most)}"


def _which(ks: Sequence[int], measured: int) -> str:
    return "every k" if len(ks) == measured > 1 else f"k = {_listed(ks)}"


def _by_word(placed: Mapping[int, Placement]) -> dict[Word, list[int]]:
    """Return the values of k by the word of their placement."""
    return {word: [k for k, placement in placed.items() if placement.word == word] for word in get_args(Word)}


def _change(interval: Interval) -> str:
    return f"{interval.value:+z.2f}, {interval.low:+z.2f} to {interval.high:+z.2f}"


def _listed(items: Sequence[object]) -> str:
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
