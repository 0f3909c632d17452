"""Read the items of `evaluate.checkpoints` that stand for several checkpoints of a run: all, every:N, A..B."""

import re
from collections.abc import Sequence
from pathlib import Path

from configs.checks import require
from orchestrator.commands.paths import split_name
from orchestrator.evaluation.record import located
from orchestrator.manifest import MANIFEST, saved, step_of

KEY = "evaluate.checkpoints"
CHECKPOINTS = "checkpoints"
EVERY = re.compile(r"every:([1-9][0-9]*)")
BETWEEN = re.compile(r"([0-9]*)\.\.([0-9]*)")


def selected(items: Sequence[str], run_dir: Path | None) -> list[str]:
    """Return the items with each that stands for several checkpoints replaced by their names, in the order of steps.

    A checkpoint that an earlier item names is left out of the several. Without a run every item stays as it is.

    Raises:
        ValueError: no checkpoint of the run is among those of an item.
    """
    found: list[str] = []
    for item in items:
        several = None if run_dir is None else _several(item, run_dir)
        if several is None:
            found.append(item)
            continue
        rule = f"must select a checkpoint of {str(run_dir)!r}, which has {_steps(run_dir)}"
        require(bool(several), KEY, rule, item)
        found += [name for name in several if name not in found]
    return found


def check_places(items: Sequence[str], run_dir: Path | None) -> None:
    """Raise ValueError for an item that selects no checkpoint, or is not a directory."""
    for item in selected(items, run_dir):
        place = located(split_name(item)[1], run_dir)
        rule = "must be a directory of a Hugging Face policy"
        if run_dir is not None and place.folder.is_relative_to(run_dir / CHECKPOINTS):
            rule += f"; of its checkpoints the run has {_steps(run_dir)}, and checkpoint.keep_last removes older ones"
        require(place.folder.is_dir(), KEY, rule, str(place.folder))


def _several(item: str, run_dir: Path) -> list[str] | None:
    """Return the names of the checkpoints that an item stands for; None for an item that stands for one policy."""
    every, between = EVERY.fullmatch(item), BETWEEN.fullmatch(item)
    if item != "all" and not every and not (between and (between[1] or between[2])):
        return None
    # A checkpoint without its manifest is from another program, or was cut short.
    whole = [path for path in saved(run_dir / CHECKPOINTS) if (path / MANIFEST).is_file()]
    if every:
        whole = [path for path in whole if step_of(path) % int(every[1]) == 0]
    if between:
        low, high = between[1] or "0", between[2]
        whole = [path for path in whole if int(low) <= step_of(path) and (not high or step_of(path) <= int(high))]
    return [path.name for path in whole]


def _steps(run_dir: Path | None) -> str:
    steps = [str(step_of(path)) for path in saved(run_dir / CHECKPOINTS)] if run_dir else []
    return f"those of the steps {', '.join(steps)}" if steps else "none"
