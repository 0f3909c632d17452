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
from orchestrator.report.inputs import run_facts
from orchestrator.report.page import first_prompts, lost_and_gained_problems, results
from orchestrator.report.plots import draw, figure
from orchestrator.report.style import facts, first_screen, page, table
from orchestrator.report.verdicts import beyond_sharpening, survival
from orchestrator.watch.logbook import METRICS, read_records
from orchestrator.watch.passk import lost_and_gained


def write_report(
    output: Path,
    *,
    runs: Mapping[str, Path],
    evaluation: Evaluation | None,
    title: str,
    samplings: Sequence[Evaluation] = (),
) -> Path:
    """Write the HTML file `output`, and its first figure as a PNG file beside it, for documents that show no SVG.

    The page has a note where a run has no records or there is no evaluation. A part without data is left out.

    Args:
        runs: run directories by name.
        samplings: evaluations of the same policies under further samplings, shown as tables.

    Returns:
        `output`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    records = {name: _read(name, run_dir, notes) for name, run_dir in runs.items()}
    sources = Sources(runs=runs, records=records, evaluation=evaluation)
    notes += _notes(evaluation)
    headline = curves.frontier(sources)
    if headline:
        draw(headline, output.with_name(f"{output.stem}-frontier.png"))
    sections = [
        first_screen(_facts(evaluation), _answers(evaluation), figure(headline, curves.FRONTIER)),
        facts([run_facts(name, folder) for name, folder in runs.items()]),
        *(results(shown) for shown in (evaluation, *samplings) if shown is not None),
        figure(curves.pass_against_k(sources), curves.PASS_AGAINST_K),
        figure(curves.held_out(sources), curves.HELD_OUT, "Held-out problems over steps"),
        figure(curves.over_steps(sources, curves.TRAINED), curves.TRAINING, "Training over steps"),
        *_lost_and_gained_problems(sources),
        *_against_kl(sources),
        cost(sources),
        figure(curves.over_steps(sources, curves.SPED), curves.SPEED, "Speed over steps"),
        differences(runs),
        first_prompts(evaluation),
    ]
    output.write_bytes(page(title, notes, sections).encode("utf-8", "replace"))
    return output


def _read(name: str, run_dir: Path, notes: list[str]) -> list[dict[str, Any]]:
    records = read_records(run_dir / METRICS)
    if not records:
        notes.append(
            f"Run {name}: {run_dir / METRICS} is missing or has no records, so the run has no curves over steps."
        )
    return records


def _notes(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["There is no evaluation, so there is no table and no curve of Pass@k: run `breadth evaluate`."]
    return [
        f"Evaluation {name} at temperature {t:g}: {measurement.ungraded} answers could not be graded and are left out."
        for name, by_temperature in evaluation.measurements.items()
        for t, measurement in by_temperature.items()
        if measurement.ungraded
    ]


def _facts(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return []
    at_base, about = evaluation.at_base, evaluation.about
    measured = f"{len(at_base.prompts)} held-out prompts of {about['task']}, {at_base.answers} answers each"
    return [f"{measured}, {evaluation.conditions}", f"base: {about['paths'][evaluation.base]}", str(about["date"])]


def _answers(evaluation: Evaluation | None) -> dict[str, str]:
    """Return the two questions and their answers; empty without a policy to compare with the base."""
    if evaluation is None or len(evaluation.names) < 2:
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


def _lost_and_gained_problems(sources: Sources) -> list[str]:
    evaluation = sources.evaluation
    if evaluation is None:
        return []
    first = evaluation.temperatures[0]
    return [
        lost_and_gained_problems(name, *lost_and_gained(evaluation.at_base, evaluation.measurements[name][first]))
        for name in evaluation.names[1:]
    ]
