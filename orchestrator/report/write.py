"""Write the report of runs and evaluations as one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.report import curves
from orchestrator.report.cost import cost
from orchestrator.report.curves import Sources
from orchestrator.report.differences import differences
from orchestrator.report.divergence import MAP, NOTE, REWARD_KL, map_panels, reward_kl_panels, reward_kl_rows
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.inputs import place_words, run_facts
from orchestrator.report.monitored import monitored
from orchestrator.report.page import coverage, first_prompts, lost_and_gained_problems, results, task_reports
from orchestrator.report.plots import draw, figure
from orchestrator.report.style import facts, first_screen, page, table
from orchestrator.report.verdicts import beyond_sharpening, survival
from orchestrator.watch.logbook import METRICS, read_records

NO_EVALUATION = "There is no evaluation, so there is no table and no curve of Pass@k: run `breadth evaluate`."
OWN_MEASUREMENTS = (
    "There is no evaluation: the results are the last held-out measurements that the runs made themselves. "
    "`breadth evaluate` measures any checkpoints, with more answers."
)
NOT_EVALUATED = "Not evaluated: {}. Their results are the last held-out measurements that the runs made themselves."
NOT_MEASURED = "Neither evaluated nor measured during the run, so without results: {}."
LARGEST = 1e100
"""Limit on the size of a number that is drawn: the range of an axis is computed in float64."""


def write_report(
    output: Path,
    *,
    runs: Mapping[str, Path],
    evaluation: Evaluation | None,
    title: str,
    samplings: Sequence[Evaluation] = (),
    left_out: Sequence[str] = (),
) -> Path:
    """Write the HTML file `output`, and its first figure as a PNG file beside it, for documents that show no SVG.

    The page has a note where a run has no records or is in no evaluation; then it shows the run's own held-out
    measurements. A part without data is left out.

    Args:
        runs: run directories by name.
        samplings: evaluations under further samplings or on further tasks, shown as tables with their answers.
        left_out: notes on evaluations that could not be read.

    Returns:
        `output`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    notes = list(left_out)
    records = {name: _read(name, run_dir, notes) for name, run_dir in runs.items()}
    shown = [evaluation, *samplings] if evaluation else []
    without = {name: folder for name, folder in runs.items() if not any(_covers(each, name, folder) for each in shown)}
    own = monitored(without)
    notes += _notes_of_own(list(without), own, alone=evaluation is None)
    shown += own
    evaluation, samplings = shown[0] if shown else None, shown[1:]
    sources = Sources(runs=runs, records=records, evaluation=evaluation)
    notes += _ungraded(evaluation)
    headings = _headings(shown)
    headline, against_k = curves.frontier(sources), curves.pass_against_k(sources)
    if headline:
        draw(headline, output.with_name(f"{output.stem}-frontier.png"))
    sections = [
        _first_screen(evaluation, figure(headline, curves.frontier_caption(sources))),
        facts([run_facts(name, runs[name], own[-1]["step"] if own else None) for name, own in records.items()]),
        task_reports(shown, output),
        results(evaluation, headings[0]) if evaluation else "",
        *(results(each, heading, _first_screen(each)) for each, heading in zip(samplings, headings[1:], strict=True)),
        figure(against_k, curves.against_k_caption(against_k), "Pass@k against k"),
        figure(curves.over_checkpoints(sources), curves.CHECKPOINTS),
        coverage(evaluation) if evaluation else "",
        figure(curves.held_out(sources), curves.HELD_OUT, "Held-out problems over steps"),
        figure(curves.parts_held_out(sources), curves.PARTS, "Domains and other tasks over steps"),
        figure(curves.over_steps(sources, curves.TRAINED), curves.TRAINING, "Training over steps"),
        lost_and_gained_problems(evaluation) if evaluation else "",
        *_against_kl(sources),
        cost(sources),
        figure(curves.over_steps(sources, curves.SPED), curves.SPEED, "Speed over steps"),
        differences(runs),
        first_prompts(evaluation),
    ]
    output.write_bytes(page(title, notes, sections).encode("utf-8", "replace"))
    return output


def _covers(evaluation: Evaluation, run: str, run_dir: Path) -> bool:
    """Return whether an evaluation is of a run: made in its folder, or of a policy that is in it or has its name."""
    root = run_dir.resolve()
    places = [*evaluation.about["paths"].values(), *([str(evaluation.folder.resolve())] if evaluation.folder else [])]
    named = any(name == run or name.startswith(f"{run} ") for name in evaluation.names)
    return named or any(Path(place).is_relative_to(root) for place in places)


def _notes_of_own(runs: Sequence[str], own: Sequence[Evaluation], *, alone: bool) -> list[str]:
    """Return the notes on the page about runs without an evaluation.

    Args:
        runs: their names.
        own: their last held-out measurements, as far as they have any.
        alone: whether no run was evaluated.
    """
    measured = [name for name in runs if any(name in each.names for each in own)]
    unknown = [name for name in runs if name not in measured]
    if alone and not own:
        return [NO_EVALUATION]
    notes = [OWN_MEASUREMENTS] if alone else [NOT_EVALUATED.format(", ".join(measured))] if measured else []
    return notes + ([NOT_MEASURED.format(", ".join(unknown))] if unknown else [])


def _read(name: str, run_dir: Path, notes: list[str]) -> list[dict[str, Any]]:
    records = [_drawable(record) for record in read_records(run_dir / METRICS) if abs(record["step"]) <= LARGEST]
    if not records:
        notes.append(
            f"Run {name}: {run_dir / METRICS} is missing or has no records, so the run has no curves over steps."
        )
    return records


def _drawable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record without numbers that no figure can show."""
    return {k: v for k, v in record.items() if not isinstance(v, int | float) or abs(v) <= LARGEST}


def _ungraded(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return []
    return [
        f"Evaluation {name} at temperature {t:g}: {measurement.ungraded} answers could not be graded and are left out."
        for name, by_temperature in evaluation.measurements.items()
        for t, measurement in by_temperature.items()
        if measurement.ungraded
    ]


def _headings(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the titles of the tables of results: where two have the same conditions, with policies and sizes."""
    if len({each.conditions for each in evaluations}) == len(evaluations):
        return [f"Results: {each.conditions}" for each in evaluations]
    names = [
        ", ".join(each.names[1:]) if len(each.names) <= 4 else f"{len(each.names)} policies" for each in evaluations
    ]
    of = [f" of {name}" if name and len(set(names)) > 1 else "" for name in names]
    return [
        f"Results{name}: {len(each.at_base.prompts)} prompts, {each.at_base.answers} answers each, {each.conditions}"
        for name, each in zip(of, evaluations, strict=True)
    ]


def _first_screen(evaluation: Evaluation | None, figure: str = "") -> str:
    """Return what was measured, with short names for paths, and the two answers."""
    if evaluation is None:
        return first_screen([], {}, figure)
    at_base, about = evaluation.at_base, evaluation.about
    base, folder = about["paths"][evaluation.base], evaluation.folder
    places = {f"base: {place_words(base)}": base}
    places |= {f"evaluation: {place_words(str(folder.resolve()))}": str(folder)} if folder else {}
    measured = f"{len(at_base.prompts)} held-out prompts of {about['task']}, {at_base.answers} answers each"
    told = [f"{measured}, {evaluation.conditions}", *places, str(about["date"])]
    return first_screen(told, _answers(evaluation), figure, places)


def _answers(evaluation: Evaluation) -> dict[str, str]:
    """Return the two questions and their answers; empty without a policy to compare with the base."""
    if len(evaluation.names) < 2:
        return {}
    return {
        "Did Pass@k survive?": survival(evaluation),
        "Was anything learned beyond sharpening?": beyond_sharpening(evaluation),
    }


def _against_kl(sources: Sources) -> list[str]:
    """Return the figures and the table of reward against KL, and the map."""
    evaluation = sources.evaluation
    found = reward_kl_rows(evaluation) if evaluation else None
    return [
        figure(reward_kl_panels(evaluation, sources.style), REWARD_KL),
        table("", found.header, found.rows, NOTE) if found else "",
        figure(map_panels(evaluation, sources.style), MAP),
    ]
