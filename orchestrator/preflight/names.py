"""Resolve every name that a setting refers to: measured values, references, tasks and verifiers."""

from collections.abc import Iterator, Sequence
from typing import Any

from configs.checks import nearest, require
from configs.config import Config
from configs.monitor import parse_stop_rule
from orchestrator.placement import MAIN, scoring_references
from orchestrator.watch.monitor import measured_names
from rewards.registry import check as check_verifier
from trajectories.trajectory import Prompt


def check_names(cfg: Config, heldout: Sequence[Prompt]) -> None:
    """Check the names in `checkpoint`, `monitor`, `references`, `replay` and `task`.

    Names inside the objective are checked by the settings themselves, `task.verifier` by `named.check_task`.

    Args:
        heldout: the held-out prompts; empty if nothing is measured.

    Raises:
        ValueError: a setting names something that does not exist or that the run never uses.
    """
    _check_measured_values(cfg, heldout)
    used = {*(term.anchor for term in cfg.objective.terms.values()), *cfg.objective.anchors}
    for name in cfg.references:
        rule = (
            "must be the anchor of a term, objective.terms.NAME.anchor, or of pairs, or be left out; the anchors are "
        )
        require(name in used, f"references.{name}", rule + (", ".join(sorted(used)) or "none"), name)
    rule = "must be left out while objective.replay_weight is 0: nothing is replayed"
    require(not cfg.replay.task or cfg.objective.replays, "replay.task", rule, cfg.replay.task)
    for setting, verifier in _verifiers_in(cfg.task.options, "task.options"):
        check_verifier(verifier, setting)


def _check_measured_values(cfg: Config, heldout: Sequence[Prompt]) -> None:
    """Check that `checkpoint.best_metric` and every rule of `monitor.stop_if` name a value that is measured."""
    best, rules = cfg.checkpoint.best_metric, cfg.monitor.stop_if
    if not heldout:
        rule = "must be left out with monitor.every=0: nothing is measured"
        require(best in ("", type(cfg.checkpoint).best_metric), "checkpoint.best_metric", rule, best)
        require(not rules, "monitor.stop_if", rule, list(rules))
        return
    scored = MAIN in scoring_references(cfg) and cfg.measures_as_trained
    known = measured_names(cfg, [prompt.id for prompt in heldout], scored=scored)
    named = [("checkpoint.best_metric", best)] if best else []
    for setting, name in [*named, *(("monitor.stop_if", parse_stop_rule(rule)[0]) for rule in rules)]:
        rule = f"must name a measured value, one of {', '.join(known)}{nearest(name, known)}"
        require(name in known, setting, rule, name)


def _verifiers_in(options: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every setting of a task's options that names a verifier, and the name."""
    if isinstance(options, dict):
        if isinstance(options.get("verifier"), str) and options["verifier"]:
            yield f"{path}.verifier", options["verifier"]
        for name in ("domains", "options"):
            yield from _verifiers_in(options.get(name), f"{path}.{name}")
    elif isinstance(options, list):
        for index, one in enumerate(options):
            yield from _verifiers_in(one, f"{path}[{index}]")
