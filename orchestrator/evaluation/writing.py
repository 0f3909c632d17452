"""Write the evaluations of one job: one for each task and sampling, in folders below each other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from configs.config import Config
from configs.load import to_yaml
from orchestrator.evaluation.asked import Asked
from orchestrator.evaluation.comparisons import (
    COVERAGE,
    PROBLEMS,
    SERIES,
    coverage,
    levels_of,
    problems,
    series,
    write_json,
)
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.evaluation.measuring import Found, Measuring
from orchestrator.manifest import SETTINGS, step_of
from orchestrator.report.evaluation import SAMPLINGS, TASKS, Evaluation
from tasks.changed import extraction_modes
from trajectories.atomic_write import replace_file

CHECKPOINTS = "checkpoints"
TASK_REPORT = "task.html"
"""File of a run with the report of `breadth inspect-task`, if it was written there."""


def write_all(
    cfg: Config,
    measuring: Measuring,
    folder: Path,
    likelihoods: Likelihoods | None = None,
    *,
    answers: bool = True,
    earlier: Sequence[Evaluation] = (),
) -> list[Evaluation]:
    """Write an evaluation of the run's own task in each sampling, and of each further task, and return them.

    Policies that lack a measurement, as those that a watching job has yet to measure, are left out.

    Args:
        answers: whether the tables of answers are written, which takes long for many policies.
        earlier: what the call before returned, with fewer policies. Their values are not computed again.
    """
    written: list[Evaluation] = []
    for asked in measuring.asked:
        for number, sampling in enumerate(asked.decodings):
            place = folder / TASKS / asked.name if asked.name else folder
            place = place / SAMPLINGS / sampling if number else place
            scores = likelihoods if not (asked.name or number) else None
            before = earlier[len(written)] if earlier else None
            written.append(_write(measuring, asked, sampling, place, scores, answers=answers, before=before))
    with replace_file(folder / SETTINGS) as file:
        file.write(to_yaml(cfg).encode())
    return written


def _write(
    measuring: Measuring,
    asked: Asked,
    sampling: str,
    folder: Path,
    likelihoods: Likelihoods | None,
    *,
    answers: bool,
    before: Evaluation | None,
) -> Evaluation:
    """Write the evaluation of one task under the sampling of this name."""
    base, decodings, found = next(iter(measuring.checkpoints)), asked.decodings[sampling], measuring.found[asked.name]
    further = [replace(decodings[0], temperature=t) for t in asked.evaluate.frontier]
    chosen = {
        name: {
            decoding.temperature: measured
            for decoding in sorted({*decodings, *(further if name == base else [])}, key=lambda d: -d.temperature)
            if (measured := of_policy.get(decoding))
        }
        for name, of_policy in found.items()
        if all(of_policy.get(decoding) for decoding in decodings)
    }
    paths = {name: path for name, path in measuring.checkpoints.items() if name in chosen}
    evaluation = Evaluation(
        base=base,
        ks=sorted({1, *asked.evaluate.ks}),
        headline_k=asked.evaluate.headline_k,
        sampling=decodings[0],
        temperatures=[decoding.temperature for decoding in decodings],
        measurements={name: {t: m.measurement for t, m in of_policy.items()} for name, of_policy in chosen.items()},
        about={
            "task": asked.task.name,
            "name": asked.name,
            "answers": asked.evaluate.answers,
            "sampling": sampling,
            "levels": levels_of(asked.posed.prompts),
            "extraction": " and ".join(extraction_modes(asked.posed.prompts)),
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "paths": paths,
            "first_prompt": {name: text for name, text in asked.posed.first.items() if name in chosen},
            **_task_report(measuring, asked),
        },
        likelihoods=likelihoods,
    )
    if before is not None:
        evaluation.go_on_from(before)
    _write_comparisons(evaluation, folder)
    tables = [(name, m.answers) for name, of_policy in chosen.items() for m in of_policy.values()]
    evaluation.write(folder, tables if answers else [])
    return evaluation


def _task_report(measuring: Measuring, asked: Asked) -> dict[str, str]:
    """Return the report of `breadth inspect-task` on the run's own task, if it is in the run's folder."""
    report = Path(measuring.cfg.runs) / measuring.cfg.name / TASK_REPORT
    return {"task_report": str(report)} if report.is_file() and not asked.name else {}


def _write_comparisons(evaluation: Evaluation, folder: Path) -> None:
    """Write what is lost and gained, the values by difficulty, and those of checkpoints over their steps."""
    folder.mkdir(parents=True, exist_ok=True)
    t = evaluation.temperatures[0]
    others = {name: evaluation.measurements[name][t] for name in evaluation.names[1:]}
    write_json(folder / PROBLEMS, problems(evaluation.at_base, others, evaluation.once))
    levels = evaluation.about["levels"]
    write_json(folder / COVERAGE, coverage(evaluation.at_base, others, evaluation.ks, levels, evaluation.once))
    steps = steps_of(evaluation.about["paths"])
    if steps:
        values = {name: evaluation.summaries[name][t] for name in evaluation.names}
        write_json(folder / SERIES, {"ks": evaluation.ks, **series({evaluation.base: 0, **steps}, values)})


def steps_of(paths: Mapping[str, str]) -> dict[str, int]:
    """Return the step of each policy that is a checkpoint of the run whose checkpoints come first among `paths`."""
    found: dict[str, tuple[Path, int]] = {}
    for name, path in paths.items():
        checkpoint = Path(path).parent
        if checkpoint.parent.name == CHECKPOINTS and checkpoint.name.removeprefix("step-").isdecimal():
            found[name] = checkpoint.parent, step_of(checkpoint)
    run = next((root for root, _ in found.values()), None)
    return {name: step for name, (root, step) in found.items() if root == run}


def discard(found: Found) -> None:
    """Remove the files of measurements that are not in the cache."""
    for of_task in found.values():
        for of_policy in of_task.values():
            for measured in of_policy.values():
                if measured is not None:
                    measured.discard()
