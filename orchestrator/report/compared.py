"""Read the evaluations of a report, and put those together whose policies can be compared."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.report.evaluation import SAMPLINGS, TASKS, Evaluation, read_evaluation
from orchestrator.report.inputs import RESULTS


def read_compared(folders: Sequence[Path], *, several: bool = False) -> tuple[list[Evaluation], dict[Path, str]]:
    """Read evaluations of runs, with those below them. Those of one base under the same conditions become one.

    Args:
        folders: `<run directory>/evaluations/NAME`.
        several: whether there are other runs beside them. Then a policy is named by its run, and by its own name if the
            run has more than one.

    Returns:
        The evaluations; and the folders of those that are damaged, which are left out, with the reason.

    Raises:
        ValueError: all are damaged.
    """
    runs = {folder: folder.resolve().parents[1] for folder in folders}
    named = several or len(set(runs.values())) > 1
    groups: dict[str, list[Evaluation]] = {}
    damaged: dict[Path, str] = {}
    for folder, run in runs.items():
        for path in _with_further(folder):
            try:
                evaluation = read_evaluation(path)
            except ValueError as error:
                damaged[path] = _reason(path, error)
                continue
            found = _named_by_run(evaluation, run.name) if named else evaluation
            groups.setdefault(_conditions(found), []).append(found)
    if not groups:
        got = "; ".join(f"{str(path)!r} ({reason})" for path, reason in damaged.items())
        raise ValueError(
            f"--evaluation: must hold the {RESULTS} and measurements of `breadth evaluate`, got {got}. Measure anew by "
            "`breadth evaluate`, or remove the folder to have a report without it"
        )
    return [_joined(group) if len(group) > 1 else group[0] for group in groups.values()], damaged


def _with_further(folder: Path) -> list[Path]:
    """Return the folder of an evaluation, and those of its further samplings and tasks below it."""
    return [folder, *(path for below in (SAMPLINGS, TASKS) for path in sorted((folder / below).glob("*/")))]


def _reason(path: Path, error: ValueError) -> str:
    """Return why `read_evaluation` refused a folder."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}" if (path / RESULTS).is_file() else f"it has no {RESULTS}"


def _named_by_run(evaluation: Evaluation, run: str) -> Evaluation:
    """Return the evaluation with the name of the run in that of each policy but the base."""
    base, alone, scored = evaluation.base, len(evaluation.names) == 2, evaluation.likelihoods
    called = {name: run if run != base and (alone or name == run) else f"{run} {name}" for name in evaluation.names}
    called[base] = base
    texts = {key: evaluation.about.get(key, {}) for key in ("paths", "first_prompt")}
    renamed = {key: {called[name]: text for name, text in of_key.items()} for key, of_key in texts.items()}
    return replace(
        evaluation,
        measurements={called[name]: found for name, found in evaluation.measurements.items()},
        about=evaluation.about | renamed,
        likelihoods=replace(scored, names=tuple(called[name] for name in scored.names)) if scored else None,
    )


def _conditions(evaluation: Evaluation) -> str:
    """Return all that must be equal for policies to be compared: the base, its answers' grades, and the sampling."""
    about = {key: evaluation.about.get(key) for key in ("task", "name", "extraction", "answers")}
    counts = [(p.prompt_id, p.total, p.correct) for p in evaluation.at_base.prompts]
    path = evaluation.about["paths"][evaluation.base]
    return repr((path, about, counts, evaluation.ks, evaluation.temperatures, evaluation.sampling))


def _joined(group: Sequence[Evaluation]) -> Evaluation:
    first = group[0]
    measurements = {name: found for evaluation in group for name, found in evaluation.measurements.items()}
    paths = {name: path for evaluation in reversed(group) for name, path in evaluation.about["paths"].items()}
    about = first.about | {"paths": paths, "first_prompt": {}}
    base = {first.base: first.measurements[first.base]}
    return replace(first, measurements=measurements | base, about=about, likelihoods=None, folder=None)
