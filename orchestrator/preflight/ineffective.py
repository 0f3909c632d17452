"""Report settings that were given but have no effect, because another setting leaves out what they belong to."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from configs.coefficient import CoefficientConfig
from configs.config import Config
from configs.divergences import DIVERGENCES
from configs.explain import value_words
from configs.objective import AIM_AT_PASS_K, ObjectiveConfig
from configs.pairs import PairsConfig
from configs.terms import TermConfig
from orchestrator.preflight.given import given_settings

Rule = tuple[str, bool, str]
"""A setting or section, whether it has an effect, and the setting that decides this."""


def report_ineffective(cfg: Config, report: Callable[[str], None]) -> None:
    """Call `report` with a line for each setting that differs from its presets and has no effect."""
    given = given_settings(cfg)
    for prefix, effective, why in _rules(cfg):
        for key, value in given.items():
            if not effective and (key == prefix or key.startswith(f"{prefix}.")):
                report(f"{key}={value_words(value)} has no effect: {why}")


def _rules(cfg: Config) -> Iterator[Rule]:
    """Yield what has an effect under these settings, and what has none."""
    place, on_gpu, vllm = cfg.placement, cfg.placement.device == "gpu", cfg.generator.engine != "transformers"
    yield "replay", cfg.objective.replays, "objective.replay_weight is 0"
    for name in ("batch", "prompts", "answers", "threshold", "explore", "keep"):
        yield f"rehearsal.{name}", cfg.objective.rehearses, "no term has route=rehearse"
    yield "rehearsal.threshold", cfg.rehearsal.right_only, "rehearsal.keep is all"
    for name in ("answers", "ks", "extraction", "frontier", "kl_to_base"):
        yield f"monitor.{name}", cfg.monitor.every > 0, "monitor.every is 0"
    sampled = replace(cfg.evaluate, kl_to_base=True).scored(cfg.sampling) is not None
    yield "evaluate.kl_to_base", sampled, "the first sampling of breadth evaluate is greedy or truncated"
    with_project = cfg.logbook.wandb != "disabled" or cfg.logbook.mlflow or cfg.logbook.trackio
    yield "logbook.wandb_project", with_project, "logbook.wandb is disabled"
    yield "logbook.wandb_artifacts", cfg.logbook.wandb != "disabled", "logbook.wandb is disabled"
    yield "logbook.trajectories", cfg.logbook.trajectories_every > 0, "logbook.trajectories_every is 0"
    yield "sampling.mixture", bool(cfg.sampling.mixed_with), "sampling.mixed_with is empty"
    yield "generator.kv_cache_bytes", vllm and not on_gpu, "it is for generator.engine=vllm on a CPU"
    yield "generator.memory_fraction", vllm and on_gpu, "it is for generator.engine=vllm on a GPU"
    yield "placement.mode", on_gpu, "placement.device is cpu"
    for role in ("generator", "learner", "grader", "reference"):
        yield f"placement.cpus_per_{role}", place.kind == "ray", "placement.kind is in_process"
    for role in ("generator", "learner", "reference"):
        yield f"placement.threads_per_{role}", not on_gpu, "placement.device is gpu"
        yield f"placement.threads_per_{role}", place.kind == "ray", "placement.kind is in_process"
    for name, reference in cfg.references.items():
        path, why = f"references.{name}", f"references.{name}.update is {reference.update}"
        yield f"{path}.every", reference.update in ("periodic", "average"), why
        yield f"{path}.iterates", reference.update == "average", why
        yield f"{path}.threshold", reference.update == "kl", why
        yield f"{path}.mixing_weight", reference.update in ("periodic", "kl"), why
    yield from _objective_rules(cfg.objective)
    for name, term in cfg.objective.terms.items():
        yield from _term_rules(f"objective.terms.{name}", term)


def _objective_rules(objective: ObjectiveConfig) -> Iterator[Rule]:
    advantage = objective.advantage
    why = f"objective.advantage is {advantage}"
    yield "objective.critic", advantage in ("critic", "flow"), why
    for name in ("reads", "heads", "softness", "huber", "clip", "coefficient"):
        yield f"objective.critic.{name}", advantage != "flow", why
    yield "objective.flow", advantage == "flow", why
    # These read the advantage before the learner's loss, which computes that of flow balance.
    for name in ("gates.conflict_tokens", "gates.long_failures", "covariance"):
        yield f"objective.{name}", advantage != "flow", why
    yield "objective.recap", advantage != "flow" or objective.replays, why
    yield "objective.target", advantage == "target", why
    for name, kind in (("beta", "tilt"), ("moment", "moment")):
        effective = advantage != "target" or objective.target.kind == kind
        yield f"objective.target.{name}", effective, f"objective.target.kind is {objective.target.kind}"
    yield "objective.pairs", advantage == "pairs", why
    if advantage == "pairs":
        yield from _pair_rules(objective.pairs)
    for name in ("k", "schedule", "final_k", "over"):
        yield f"objective.pass_k.{name}", advantage in AIM_AT_PASS_K, why
    yield "objective.pass_k.right_weight", advantage == "weighted_sign", why
    yield "objective.pass_k.rank_penalty", advantage == "unlikely_zscore", why
    yield "objective.pass_k.uniformity", advantage == "uniform_zscore", why
    for name in ("fraction", "penalty"):
        yield f"objective.overlong.{name}", objective.overlong.limit > 0, "objective.overlong.limit is 0"
    kind = objective.clip.kind
    clips, why = objective.ratio != "none", f"objective.clip.kind is {kind}"
    yield "objective.clip", clips, "objective.ratio is none"
    yield "objective.clip.low", not clips or kind in ("ratio", "cispo", "gmpo"), why
    yield "objective.clip.high", not clips or kind in ("ratio", "cispo", "dppo", "gmpo"), why
    yield "objective.clip.delta", not clips or kind in ("kl3", "dppo"), why
    for name in ("temperature_positive", "temperature_negative"):
        yield f"objective.clip.{name}", not clips or kind == "sapo", why
    covariance = objective.covariance.kind
    why = f"objective.covariance.kind is {covariance}"
    yield "objective.covariance.fraction", covariance != "none", why
    for name in ("low", "high"):
        yield f"objective.covariance.{name}", covariance == "clip", why
    yield "objective.covariance.penalty", covariance == "kl", why
    for name in ("low", "high"):
        yield f"objective.mismatch.{name}", objective.mismatch.kind != "none", "objective.mismatch.kind is none"
    for name in ("beta", "start", "questions", "answers"):
        why = "objective.experience.fraction is 0"
        yield f"objective.experience.{name}", objective.has_experience, why
    for name in ("temperature", "orientation"):
        yield f"objective.recap.{name}", objective.recap.window > 0, "objective.recap.window is 0"
    constant = objective.reduction == "constant"
    yield "objective.constant_length", constant, f"objective.reduction is {objective.reduction}"


def _pair_rules(pairs: PairsConfig) -> Iterator[Rule]:
    yield "objective.pairs.right_weight", not pairs.compares, f"objective.pairs.loss is {pairs.loss}"
    for name in ("mask_learning_rate", "mask_l1"):
        yield f"objective.pairs.{name}", pairs.mask == "learned", f"objective.pairs.mask is {pairs.mask}"
    yield "objective.overlong.limit", pairs.winners != "solution", "objective.pairs.winners is solution"
    yield "objective.pairs.term_on", bool(pairs.term), "objective.pairs.term is empty"
    yield "objective.pairs.mixture", bool(pairs.mixed_with), "objective.pairs.mixed_with is empty"
    family = bool(DIVERGENCES[pairs.divergence].alpha)
    yield "objective.pairs.alpha", family, f"{pairs.divergence} has no parameter"


def _term_rules(path: str, term: TermConfig) -> Iterator[Rule]:
    yield f"{path}.alpha", bool(DIVERGENCES[term.name].alpha), f"{term.name} has no parameter"
    yield f"{path}.reweight_floor", term.reweights, f"{path}.reweight is none"
    transports = term.name in ("wasserstein", "batch_sinkhorn")
    yield f"{path}.transport", transports, f"{term.name} transports nothing"
    yield f"{path}.transport.neighbours", term.name != "batch_sinkhorn", "it is for wasserstein"
    yield f"{path}.weights.keep", term.weights.importance != "none", f"{path}.weights.importance is none"
    for name in ("certainty", "certainty_temperature"):
        yield f"{path}.weights.{name}", term.weights.certainty_power > 0, f"{path}.weights.certainty_power is 0"
    yield from _coefficient_rules(f"{path}.coefficient", term.coefficient)


def _coefficient_rules(path: str, coefficient: CoefficientConfig) -> Iterator[Rule]:
    kind = coefficient.kind
    why = f"{path}.kind is {kind}"
    yield f"{path}.value", kind != "complement", why
    yield f"{path}.final", coefficient.scheduled, why
    yield f"{path}.over", coefficient.scheduled or kind == "adaptive_fraction", why
    for name in ("target", "horizon"):
        yield f"{path}.{name}", kind == "adaptive", why
    yield f"{path}.smoothing", kind == "safe", why
