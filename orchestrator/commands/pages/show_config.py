"""`breadth show-config`: print the resolved settings and what they mean, without starting anything."""

import argparse
import asyncio
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from actors.policy_files.folder import check_policy_folder, config_folder
from configs.checks import nearest, require
from configs.config import Config
from configs.explain import NAME, agree, explain, settings, value_words
from configs.extraction import STRICT
from configs.extraction import describe as describe_mode
from configs.hub import policy_name
from configs.load import committed_settings, presets, to_yaml
from configs.sets import set_names
from objectives.advantage.words import describe_no_terms
from objectives.wording import (
    describe,
    describe_coefficient,
    describe_experience,
    describe_mixture,
    describe_policy_gradient,
    describe_replay,
)
from orchestrator.commands.hub import fetched
from orchestrator.commands.options import config
from orchestrator.documentation.method_table import leaves
from orchestrator.engine import chosen_engine, with_engine
from orchestrator.placement import needed_roles, reservations
from orchestrator.preflight.given import report_changed_method
from orchestrator.preflight.ineffective import report_ineffective
from orchestrator.preflight.machine import check_machine
from orchestrator.preflight.named import check_training
from tasks.registry import task_of

OPTIONS = "task.options."
"""Beginning of the keys of a task's options, which the task declares and not `Config`."""


def plan(cfg: Config) -> dict[str, str]:
    """Return what follows from the settings, as lines by name: sizes, staleness, gradients and placement."""
    reserved = reservations(cfg, needed_roles(cfg)) if cfg.placement.kind == "ray" else []
    lines = _sizes(cfg)
    committed = committed_settings(cfg.policy.path, cfg.method)
    if committed:
        tuned = ", ".join(f"{key}={value_words(value)}" for key, value in leaves(committed))
        lines["defaults of this committed policy"] = tuned
    for name, term in cfg.objective.terms.items():
        in_pairs = cfg.objective.pairs.term_on if name == cfg.objective.pair_term else ""
        informed = cfg.reads_feedback(term.anchor)
        lines[f"term {name}"] = describe(
            term, right_only=cfg.rehearsal.right_only, in_pairs=in_pairs, informed=informed
        )
        lines[f"coefficient of {name}"] = describe_coefficient(term.coefficient, cfg.steps)
    if cfg.objective.rehearses:
        lines["stored answers"] = _stored_answers(cfg)
    if cfg.objective.replays:
        lines["replay"] = describe_replay(cfg.objective)
    if cfg.objective.has_experience:
        lines["experience"] = describe_experience(cfg.objective)
    if not cfg.objective.terms:
        lines["terms"] = describe_no_terms(cfg.objective)
    graders = cfg.placement.graders
    lines["grading"] = (
        f"{graders} x {cfg.grader.workers or 'as many as needed'} worker processes, each answer within "
        f"{cfg.grader.timeout_s:g} s; queries and programs run at isolation level {cfg.sandbox.require} at least"
    )
    modes = {"": cfg.task.extraction, "; held-out answers: ": cfg.monitor.extraction}
    if any(mode not in ("", STRICT) for mode in modes.values()):
        lines["final answer"] = "".join(f"{of}{describe_mode(mode)}" for of, mode in modes.items() if mode)
    lines["generation"] = "{} engine: {}".format(*chosen_engine(cfg))
    for role in dict.fromkeys(reservation.role for reservation in reserved):
        mine = [reservation for reservation in reserved if reservation.role == role]
        lines[f"placement: {role}"] = f"{len(mine)} x ({mine[0].cpus:g} CPU, {mine[0].gpus:g} GPU)"
    if reserved:
        lines["placement: in all"] = (
            f"{sum(b.cpus for b in reserved):g} CPU, {sum(b.gpus for b in reserved):g} GPU ({cfg.placement.mode})"
        )
    else:
        lines["placement"] = "every role in this process"
    return lines


def _sizes(cfg: Config) -> dict[str, str]:
    """Return what a step consists of, how many there are, and the policy gradient."""
    explored = cfg.groups_per_step * cfg.sampling.group_size
    rehearsed = cfg.rehearsal.batch if cfg.objective.rehearses else 0
    replayed = cfg.replay.batch if cfg.objective.replays else 0
    imitated = cfg.groups_per_step if cfg.objective.imitates else 0
    longest = cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens
    return {
        "trajectories per step": f"{cfg.groups_per_step} prompts x {cfg.sampling.group_size} answers = "
        f"{explored} explored"
        + (f", of which up to {cfg.groups_with_experience} are experience" if cfg.groups_with_experience else "")
        + (f", and {rehearsed} rehearsed" if rehearsed else "")
        + (f", and {replayed} replayed" if replayed else "")
        + (f", and {imitated} imitated" if imitated else ""),
        "tokens per step": f"at most {explored} x {cfg.sampling.max_new_tokens} = "
        f"{explored * cfg.sampling.max_new_tokens:,} generated; "
        f"{(explored + rehearsed + replayed + imitated) * longest:,} trained on",
        "optimizer updates": _updates(cfg),
        "staleness": f"at most {cfg.lag} steps; window of {cfg.window_slots // cfg.groups_per_step} x "
        f"{cfg.groups_per_step} = {cfg.window_slots} prompts",
        **({"sampling": describe_mixture(cfg.sampling)} if cfg.sampling.mixed_with else {}),
        "policy gradient": describe_policy_gradient(cfg.objective),
    }


def _updates(cfg: Config) -> str:
    if cfg.learner.extragradient:
        return (
            f"{cfg.steps} steps in pairs = {cfg.steps // 2}: one looks ahead; the next, from the weights before it, "
            "goes by the gradient at the look-ahead"
        )
    return f"{cfg.steps} steps x {cfg.learner.updates_per_batch} = {cfg.steps * cfg.learner.updates_per_batch}"


def _stored_answers(cfg: Config) -> str:
    """Return where the rehearsed answers come from, and how many answers are generated for them."""
    if cfg.rehearsal.path:
        return f"read from {cfg.rehearsal.path}"
    prompts, answers = cfg.rehearsal.prompts, cfg.rehearsal.answers
    stored = {
        "one_fresh": ", and one more for each mastered prompt, which is stored if it is right",
        "all_correct": "; the right ones of each mastered prompt are stored",
        "all": "; all are stored",
    }
    return (
        f"presampled before the first step: at most {prompts:,} prompts x {answers} answers = {prompts * answers:,} "
        f"generated{stored[cfg.rehearsal.keep]}"
    )


def check_inputs(cfg: Config, report: Callable[[str], None]) -> None:
    """Check the settings against data and policy, as `breadth train` does before it starts a role.

    What this machine lacks is reported only: the run may be planned here for a cluster. So is a policy without weights
    or tokenizer, whose config.json is enough for the memory plan.
    """
    cfg = with_engine(cfg)
    try:
        check_machine(cfg)
    except ValueError as error:
        report(f"this machine: {error}")
    cfg = fetched(cfg, report, weights=False)
    incomplete = _incomplete(cfg)
    if not incomplete:
        check_training(cfg)
    # What follows loads torch, which takes seconds, so it is imported after the settings have been printed.
    importlib.import_module("orchestrator.preflight.layout").check_layout(cfg)
    if cfg.placement.device == "gpu":
        importlib.import_module("orchestrator.preflight.memory").check_memory(cfg, report)
    if incomplete:
        report(incomplete)
        return
    check = importlib.import_module("orchestrator.preflight.check")
    asyncio.run(check.check_run(cfg, report))
    importlib.import_module("orchestrator.stored.answers").load_stored(cfg, Path(cfg.runs) / cfg.name)
    report(f"task {cfg.task.name} and policy {cfg.policy.path} are usable")


def _incomplete(cfg: Config) -> str:
    """Return what the policy of a run on GPUs lacks if it has a config.json; empty if it lacks nothing."""
    if policy_name(cfg.policy.path) is not None:
        if not any(config_folder(cfg.policy.path).glob("*.safetensors")):
            return f"policy.path: the weights of {cfg.policy.path} are not on this machine, so nothing else is checked"
    elif cfg.placement.device == "gpu" and (Path(cfg.policy.path) / "config.json").is_file():
        try:
            check_policy_folder(cfg.policy.path)
        except ValueError as error:
            return f"{error}; `breadth train` refuses it, and nothing else is checked"
    return ""


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the settings as YAML and the derived plan as comments, or with `--explain` what settings mean.

    Then check them against data and policy, unless `--offline` is given.
    """
    key = options.explain
    if key and "=" in key:  # `--explain method=dph_f`: argparse gives the first override to the option
        options.overrides, key = [key, *options.overrides], ""
    cfg = config(options)
    out = Console(highlight=False)
    if key is not None:
        for line in explanation(cfg, key):
            out.print(escape(line), soft_wrap=True)
        return
    out.print(escape(to_yaml(cfg)), soft_wrap=True)
    for name, line in plan(cfg).items():
        out.print(f"# {name}: {escape(line)}", soft_wrap=True)
    out.print(f"# methods: {', '.join(presets('method'))}\n# scales: {', '.join(presets('scale'))}", soft_wrap=True)
    out.print(f"# sets: {', '.join(set_names())}", soft_wrap=True)
    for report in (report_changed_method, report_ineffective):
        report(cfg, lambda line: out.print(f"# {escape(line)}", soft_wrap=True))
    if not options.offline:
        check_inputs(cfg, lambda text: out.print(escape(_comment(f"checked: {text}")), soft_wrap=True))


def _comment(text: str) -> str:
    """Return the text as comments of a YAML file, so that the whole output can be one."""
    return "\n".join(f"# {line}" for line in text.splitlines())


def explanation(cfg: Config, key: str) -> Iterator[str]:
    """Yield two lines for each setting of `key` (of all, if it is empty): its value, and its meaning."""
    if key.startswith(OPTIONS):
        yield from _task_options(cfg, key)
        return
    for setting in explain(key) if key else settings():
        default = f", default {setting.default}" if setting.default else ""
        values = [(name, v) for name, v in _values(cfg, setting.key.split("."), "") if not key or agree(key, name)]
        for name, value in values:
            yield f"{name} = {value_words(value)}  ({setting.type}{default})"
        if not values:  # A section of the user's own names that the settings do not have.
            yield f"{setting.key}  ({setting.type}{default})"
        yield f"    {setting.meaning}"


def _task_options(cfg: Config, key: str) -> Iterator[str]:
    """Yield the two lines of one option of the run's task, `task.options.NAME`."""
    name = cfg.task.name
    options = {setting.key: setting for setting in settings(task_of(name)[0], OPTIONS)}
    require(key in options, key, f"must be an option of task {name}{nearest(key, options)}", key)
    setting = options[key]
    given = cfg.task.options.get(key.removeprefix(OPTIONS))
    value = setting.default if given is None else value_words(given)
    yield f"{key} = {value}  ({setting.type}{f', default {setting.default}' if setting.default else ''})"
    yield f"    {setting.meaning}"


def _values(node: Any, keys: Sequence[str], path: str) -> Iterator[tuple[str, Any]]:
    """Yield key and value of a setting: one for every name where the key has NAME."""
    if not keys:
        yield path, node
    elif keys[0] == NAME:
        for name, inner in node.items():
            yield from _values(inner, keys[1:], f"{path}.{name}")
    else:
        yield from _values(getattr(node, keys[0]), keys[1:], f"{path}.{keys[0]}".lstrip("."))
