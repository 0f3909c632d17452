"""Find the policies of an evaluation: directories, and checkpoints of runs."""

from collections.abc import Callable
from pathlib import Path

from actors.policy_files.folder import check_policy_folder
from configs.checks import FILE_NAME, is_file_name, require
from configs.config import Config
from orchestrator import checkpoint
from orchestrator.commands.paths import split_name
from orchestrator.evaluation.record import located
from orchestrator.evaluation.selection import check_places, selected

BASE, LAST = "base", "last"
KEY = "evaluate.checkpoints"


def named_policies(cfg: Config, run_dir: Path | None, log: Callable[[str], None]) -> dict[str, str]:
    """Return the policy directories of `evaluate.checkpoints` by name; the first one is the base of the comparison.

    Of a run, its starting policy is the base, and by default its last checkpoint follows, under the name of the run.
    Without a run the default is `policy.path`. A policy that an earlier item names is left out, with a line, unless
    the later item gives it a name.

    Args:
        run_dir: the run that is evaluated; None: policies alone.
        log: called with a line for each broken checkpoint.

    Raises:
        ValueError: two policies have the same name, or a directory has no policy.
    """
    check_places(cfg.evaluate.checkpoints, run_dir)  # again: a run that goes on removes checkpoints
    items = [(item, KEY) for item in selected(cfg.evaluate.checkpoints, run_dir)]
    if run_dir is None:
        items = items or [(f"policy={cfg.policy.path}", "policy.path")]
    else:
        items = items or [(f"{run_dir.name}={LAST}" if run_dir.name != BASE else LAST, KEY)]
        if BASE not in [split_name(item)[0] for item, _ in items]:
            items = [(f"{BASE}={cfg.policy.path}", "policy.path"), *items]
    named: dict[str, str] = {}
    for item, setting in items:
        given, path = split_name(item)
        place = located(path, run_dir)
        folder = _checkpoint(place.folder, place.which, log) if place.which else place.folder
        name = given or place.name
        require(is_file_name(name), KEY, f"names must be file names {FILE_NAME}", name)
        if name in named:
            raise ValueError(f"{KEY}: names must differ, got {name!r} twice")
        check_policy_folder(str(folder), setting)
        found = place.hub or str(folder.resolve())
        before = next((other for other, path in named.items() if path == found and other != BASE), "")
        if before and not given:
            log(f"{name} is {before}, which is measured under that name")
        else:
            named[name] = found
    return named


def _checkpoint(run_dir: Path, which: str, log: Callable[[str], None]) -> Path:
    """Return the policy of the last, or of the best, checkpoint of a run; a broken last one is passed over."""
    found = checkpoint.find(run_dir, log)
    require(found is not None, KEY, "a run must have a checkpoint", str(run_dir))
    assert found is not None
    if which == LAST:
        return found.policy
    best = found.state.best
    require(best is not None, KEY, "best needs a run that measured its checkpoint.best_metric", str(run_dir))
    assert best is not None
    return run_dir / "checkpoints" / checkpoint.folder_name(best.step) / "policy"
