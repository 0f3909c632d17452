"""Fetch what the settings name on the Hugging Face Hub, and pin each name to the commit that was fetched.

The settings of a run then name the same files on every node and after a resume: a role on another node fetches them
before it loads, into the cache of its own node. Loads no torch, Ray or vLLM.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from actors.policy_files.folder import config_folder, policy_folder
from configs.config import Config
from configs.hub import HubName, pin, policy_name, rows_name
from configs.load import load
from orchestrator.commands.paths import split_name, with_inputs
from orchestrator.console.screen import Screen
from tasks.dataset.hub_rows import hub_files
from tasks.registry import Changes, Resolve

CHECKPOINTS = "evaluate.checkpoints"
Named = Callable[[str], HubName | None]
"""Returns the repository that a path names, if it names one."""


def pinned(cfg: Config, record: Path | None = None) -> Config:
    """Return the settings with every name of the Hub pinned to a commit. Fetches no files.

    Args:
        record: the settings of a run that is resumed: a name without a revision keeps the commit it has there.

    Raises:
        ValueError: a name is neither here nor in reach; names the setting.
    """
    before = _pinned_in(record) if record is not None and record.is_file() else {}

    def exact(named: Named) -> Resolve:
        def resolve(setting: str, path: str) -> str:
            name, kept = named(path), before.get(setting)
            if name is None:
                return path
            return str(kept if kept is not None and replace(kept, revision="") == name else pin(name, setting))

        return resolve

    cfg = with_inputs(cfg, exact(policy_name), Changes(rows=exact(rows_name)))
    checkpoints = []
    for item in cfg.evaluate.checkpoints:
        own, path = split_name(item)
        checkpoints.append(f"{own}{'=' * bool(own)}{exact(policy_name)(CHECKPOINTS, path)}")
    return replace(cfg, evaluate=replace(cfg.evaluate, checkpoints=checkpoints))


def fetched(cfg: Config, report: Callable[[str], None], *, weights: bool = True) -> Config:
    """Return the pinned settings, after the files that they name on the Hub are on this machine.

    Args:
        report: called with a line about each repository, with the seconds it took.
        weights: whether the weights of policies are needed.

    Raises:
        ValueError: as `pinned`, or the Hub refuses the files.
    """
    cfg, screen = pinned(cfg), Screen.of(report)

    def policy(setting: str, path: str) -> str:
        if policy_name(path) is not None:
            with screen.phase(f"{setting}: fetching {path}", f"{setting}: found {path}"):
                (policy_folder if weights else config_folder)(path, setting)
        return path

    def rows(setting: str, path: str) -> str:
        name = rows_name(path)
        if name is not None:
            with screen.phase(f"{setting}: fetching {path}", f"{setting}: found {path}"):
                hub_files(name, setting)
        return path

    with_inputs(cfg, policy, Changes(rows=rows))
    for item in cfg.evaluate.checkpoints:
        policy(CHECKPOINTS, split_name(item)[1])
    return cfg


def _pinned_in(record: Path) -> dict[str, HubName]:
    """Return the names of the Hub in the settings of a run, by setting."""
    found: dict[str, HubName] = {}

    def note(named: Named) -> Resolve:
        def noted(setting: str, path: str) -> str:
            name = named(path)
            if name is not None:
                found[setting] = name
            return path

        return noted

    with_inputs(load([], str(record)), note(policy_name), Changes(rows=note(rows_name)))
    return found
