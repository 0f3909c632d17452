"""Check a command before it is sent: its words, its settings, and that what it reads is sent. Loads no torch or Ray."""

import argparse
import ast
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from configs.checks import nearest
from configs.config import Config
from configs.load import check_keys, load
from orchestrator.commands.paths import absolute
from orchestrator.evaluation.record import split_run
from orchestrator.placement import needed_roles, require_capacity, reservations
from orchestrator.preflight.beginning import require_new
from orchestrator.preflight.gradient import check_gradient
from orchestrator.preflight.resume import differences
from orchestrator.submission.names import WITHOUT_RUN
from orchestrator.submission.package import Package
from rewards.user_functions import in_file, split_name

JOBS = ("train", "evaluate", "presample", "warm-start", "inspect-task", "verify")
"""Commands that can be submitted."""
OUTPUTS = ("runs", "mirror", "rehearsal.path", "warm_start.output")
"""Settings with paths to write, relative to a folder that the cluster decides."""
WRITES = {
    "presample": "rehearsal.path",
    "warm-start": "warm_start.output",
    "inspect-task": "--output",
    "verify": "--output",
}
"""Where a command writes that has no run directory."""


@dataclass(frozen=True)
class Request:
    """A command that is to be submitted."""

    command: str
    words: tuple[str, ...]
    """Of the command line, the command first."""
    run: str
    """Name of the run; the command's for one without a run."""
    cfg: Config | None
    """The settings, where they are known here: those of a run that lies on the cluster are not."""


def request(words: Sequence[str], options: argparse.Namespace) -> Request:
    """Return the checked command.

    Args:
        options: the parsed words.

    Raises:
        ValueError: a setting is wrong, or the command cannot be submitted.
    """
    command = str(options.command)
    if command not in JOBS:
        rule = f"must be one of {', '.join(JOBS)}{nearest(command, JOBS)}"
        raise ValueError(f"COMMAND: {rule}, got {command!r}")
    given: list[str] = getattr(options, "overrides", [])
    run, settings = split_run(given) if command == "evaluate" else ("", given)
    known = command != WITHOUT_RUN and not run and not getattr(options, "resume", False)
    cfg = None
    if known:
        cfg = load(settings, getattr(options, "config", None))
        if command == "train":
            check_gradient(cfg)
            # A relative folder is on the head node. With restarts, a run that exists is continued.
            if Path(cfg.runs).is_absolute() and not options.restarts:
                require_new(cfg)
    else:
        check_keys(settings)
    if run:
        name = run.rstrip("/").rpartition("/")[2]
    elif command == WITHOUT_RUN:
        name = command
    else:
        # Only these: others may be valid on top of the settings of the run on the cluster alone.
        name = cfg.name if cfg else load([word for word in settings if word.partition("=")[0] == "name"]).name
    if command in WRITES:
        _require_kept(WRITES[command], cfg, options)
    return Request(command, tuple(words), name, cfg)


def _require_kept(key: str, cfg: Config | None, options: argparse.Namespace) -> None:
    """Raise ValueError if what a command writes would be removed with the working directory of its job."""
    if key == "--output":
        path = options.output
    else:
        assert cfg is not None
        section, _, name = key.partition(".")
        path = Path(getattr(getattr(cfg, section), name)).expanduser()
    if path is not None and path != Path() and not path.is_absolute():
        rule = "must be an absolute path on the cluster, because the working directory of a job is removed at its end"
        raise ValueError(f"{key}: {rule}, got {str(path)!r}")


def check_sent(cfg: Config, package: Package, config_file: str | None) -> list[str]:
    """Check that the files that the settings name by relative paths are sent, and return lines for the user.

    Absolute paths are those of the cluster, which cannot be seen from here.

    Raises:
        ValueError: a file does not exist, is not sent, or lacks the function that is to be called.
    """
    lines = []
    if config_file and Path(config_file).is_absolute():
        lines.append(f"--config {config_file} is an absolute path: the cluster must have it")
    elif config_file:
        _require_sent("--config", config_file, package.folder / config_file, package)
    with contextlib.chdir(package.folder):
        for key, given, path in _relative_paths(cfg):
            if in_file(given):
                place, function = split_name(given)
                _require_sent(key, given, package.folder / place, package)
                _require_function(key, given, package.folder / place, function)
            elif not Path(path).is_relative_to(package.folder):
                continue  # a policy of Breadth itself, which every cluster has
            elif Path(path).exists() or Path(path).suffix:
                _require_sent(key, given, Path(path), package)
            else:
                lines.append(f"{key}={given} is not in {package.folder}: the cluster must have it")
    return lines


def _relative_paths(cfg: Config) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and absolute path of each setting that names something to read by a relative path."""
    for key, given, path in differences(asdict(cfg), asdict(absolute(cfg))):
        if key not in OUTPUTS and isinstance(given, str) and isinstance(path, str) and "*" not in given:
            yield key, given, path


def _require_sent(key: str, given: str, path: Path, package: Package) -> None:
    """Raise ValueError unless the file, or a part of the folder, at `path` is in the package."""
    if not path.exists():
        raise ValueError(f"{key}: must exist in {package.folder}, or be an absolute path on the cluster, got {given!r}")
    if not package.holds(path):
        raise ValueError(
            f"{key}: must be among the files that are sent, got {given!r}, which {package.why_not(path)}. Move it, or "
            "give the absolute path of a copy on the cluster"
        )


def _require_function(key: str, given: str, path: Path, function: str) -> None:
    """Raise ValueError unless a file of Python binds the name of the function. It is not imported, as it may need what
    only the cluster has."""
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{key}: must be importable, got {given!r}, whose file raises {error}") from None
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if function not in bound and "*" not in bound:
        raise ValueError(f"{key}: must name a function of {path.name}{nearest(function, sorted(bound))}, got {given!r}")


def check_capacity(request: Request, available: dict[str, float]) -> None:
    """Raise ValueError if the roles do not fit the cluster. Nothing is checked where it or the settings are unknown."""
    cfg = request.cfg
    if cfg is None or not available or request.command not in ("train", "evaluate", "presample"):
        return
    if cfg.placement.kind != "ray":
        return
    if request.command != "train":
        cfg = replace(cfg, sampling=replace(cfg.sampling, mixed_with=""))
    roles = needed_roles(cfg) if request.command == "train" else ["generator", "grader"]
    require_capacity(reservations(cfg, roles), available)
