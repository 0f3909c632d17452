"""What a config means, derived without starting anything: `breadth show-config` prints it."""

from configs.schema import Config
from objectives.divergences import describe
from orchestrator.cluster import bundles


def needed_roles(cfg: Config) -> list[str]:
    """The roles a training run starts."""
    reference = cfg.objective.divergence.needs_reference or (cfg.monitor.every > 0 and cfg.monitor.kl_to_base)
    return ["learner", "generator", "grader", *(["reference"] if reference else [])]


def plan(cfg: Config) -> dict[str, str]:
    """Named lines of the derived plan."""
    explored = cfg.groups_per_step * cfg.sampling.group_size
    rehearsed = cfg.rehearsal.batch if cfg.objective.divergence.rehearses else 0
    longest = cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens
    reserved = bundles(cfg, needed_roles(cfg)) if cfg.placement.kind == "ray" else []
    lines = {
        "trajectories per step": f"{cfg.groups_per_step} prompts x {cfg.sampling.group_size} answers = "
        f"{explored} explored" + (f", and {rehearsed} rehearsed" if rehearsed else ""),
        "tokens per step": f"at most {explored} x {cfg.sampling.max_new_tokens} = "
        f"{explored * cfg.sampling.max_new_tokens:,} generated; {(explored + rehearsed) * longest:,} learned from",
        "optimizer updates": f"{cfg.steps} steps x {cfg.learner.updates_per_batch} = "
        f"{cfg.steps * cfg.learner.updates_per_batch}",
        "staleness": f"at most {cfg.lag} steps; window of ({cfg.lag} + 1) x {cfg.groups_per_step} = "
        f"{(cfg.lag + 1) * cfg.groups_per_step} prompts",
        "importance ratio": _ratio(cfg),
        "divergence": describe(cfg.objective.divergence),
        "coefficient": _coefficient(cfg),
    }
    graders = cfg.placement.graders
    lines["grading"] = (
        f"{graders} x {cfg.grader.workers} answers at a time, each within {cfg.grader.timeout_s:g} s; queries and "
        f"programs run at isolation level {cfg.sandbox.require} at least"
    )
    for role in dict.fromkeys(bundle.role for bundle in reserved):
        mine = [bundle for bundle in reserved if bundle.role == role]
        lines[f"placement: {role}"] = f"{len(mine)} x ({mine[0].cpus:g} CPU, {mine[0].gpus:g} GPU)"
    if reserved:
        lines["placement: in all"] = (
            f"{sum(b.cpus for b in reserved):g} CPU, {sum(b.gpus for b in reserved):g} GPU ({cfg.placement.mode})"
        )
    else:
        lines["placement"] = "every role in this process"
    return lines


def _ratio(cfg: Config) -> str:
    if cfg.objective.ratio == "none":
        return "none: plain policy gradient"
    clip = cfg.objective.clip
    dual = f", dual clip at {clip.dual:g}" if clip.dual else ""
    return f"policy / {cfg.objective.old_policy}, per token, clipped to [{1 - clip.low:g}, {1 + clip.high:g}]{dual}"


def _coefficient(cfg: Config) -> str:
    coefficient = cfg.objective.divergence.coefficient
    if coefficient.kind == "constant":
        return f"{coefficient.value:g}, constant"
    return (
        f"{coefficient.value:g} at first, then towards {coefficient.target:g} nats per trajectory "
        f"over {coefficient.horizon:,} trajectories"
    )
