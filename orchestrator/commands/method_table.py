"""The table of all presets and their slots, made from the configs: `docs/methods/table.md` is what this writes."""

import re
from dataclasses import fields
from importlib.resources import files

from configs.coefficient import CoefficientConfig
from configs.config import Config
from configs.load import load, presets
from configs.objective import GatesConfig, MismatchConfig, ObjectiveConfig
from configs.term_weights import TermWeightsConfig
from configs.terms import TermConfig

PAPER = re.compile(r"arXiv:(\d{4}\.\d{5})")
HEADER = """# Every preset and its slots

Made from `configs/methods/*.yaml`; what a cell leaves out has its default. A test holds this page to the configs;
`python -m orchestrator.commands.method_table` writes it. What the choices mean is in [the index](index.md).

| preset | paper | advantage | ratio and clip | gates | divergence terms | coefficient | references | reduction |
|---|---|---|---|---|---|---|---|---|
"""


def table() -> str:
    """The page, whole."""
    return HEADER + "".join(f"| {' | '.join(_row(name))} |\n" for name in presets("method"))


def _row(name: str) -> list[str]:
    text = (files("configs") / "methods" / f"{name}.yaml").read_text()
    paper = PAPER.search(text)
    assert paper is not None, f"{name}.yaml names no paper"
    cfg = load([f"method={name}"])
    objective, terms = cfg.objective, list(cfg.objective.terms.items())
    return [
        f"[`{name}`]({name}.md)",
        f"[{paper[1]}](https://arxiv.org/abs/{paper[1]})",
        _advantage(cfg),
        _ratio(objective),
        _gates(objective),
        "; ".join([*(_term(term) for _, term in terms), *_replay(objective)]) or "none",
        "; ".join([*(_coefficient(term.coefficient) for _, term in terms), *_recap(objective)]),
        "; ".join(f"{key}: {_changed(reference)}" for key, reference in cfg.references.items()),
        objective.reduction,
    ]


def _advantage(cfg: Config) -> str:
    words: list[str] = [cfg.objective.advantage]
    if cfg.objective.advantage == "target":
        words.append(f"{cfg.objective.target.kind}, {cfg.objective.target.divergence}")
    words += ["overlong punished"] if cfg.objective.overlong.limit else []
    words += [f"dynamic sampling, {cfg.sampling.max_refills} refills"] if cfg.sampling.max_refills else []
    return ", ".join(words)


def _ratio(objective: ObjectiveConfig) -> str:
    if objective.ratio == "none":
        return "none"
    clip = objective.clip
    if clip.kind == "none":
        return f"{objective.ratio}, not clipped"
    if clip.kind == "kl3":
        return f"{objective.ratio}, kl3 {clip.delta:g}"
    dual = f", dual {clip.dual:g}" if clip.dual else ""
    return f"{objective.ratio}, {clip.kind} {clip.low:g} / {clip.high:g}{dual}"


def _gates(objective: ObjectiveConfig) -> str:
    words = [_changed(objective.gates)] if objective.gates != GatesConfig() else []
    words += [f"mismatch {_changed(objective.mismatch)}"] if objective.mismatch != MismatchConfig() else []
    words += [f"entropy bonus {objective.entropy_bonus:g}"] if objective.entropy_bonus else []
    return ", ".join(words)


def _term(term: TermConfig) -> str:
    words = [term.name, f"to {term.anchor}", f"on {term.route}"]
    words += [term.wiring, term.estimator, *(["normalised"] if term.normalised else [])]
    words += ["whole answers"] if term.level == "sequence" else []
    words += ["root"] if term.root else []
    words += ["to go"] if term.horizon == "to_go" else []
    words += [f"reweighted by {term.reweight} from {term.reweight_floor:g}"] if term.reweights else []
    words += [_changed(term.weights)] if term.weights != TermWeightsConfig() else []
    return ", ".join(words)


def _replay(objective: ObjectiveConfig) -> list[str]:
    return ["negative log-likelihood, replayed right answers"] if objective.replays else []


def _recap(objective: ObjectiveConfig) -> list[str]:
    recap = f", recap {_changed(objective.recap)}" if objective.recap.window else ""
    return [f"{objective.replay_weight:g}{recap}"] if objective.replays else []


def _coefficient(coefficient: CoefficientConfig) -> str:
    if coefficient.scheduled:
        return f"{coefficient.kind} {coefficient.value:g} to {coefficient.final:g}"
    if coefficient.kind == "complement":
        return f"1 minus that of {coefficient.of}"
    return f"{coefficient.value:g}" + ("" if coefficient.kind == "constant" else f", {coefficient.kind}")


def _changed(config: object) -> str:
    """The fields of a config that differ from their defaults."""
    default = type(config)()
    changed = [f for f in fields(config) if getattr(config, f.name) != getattr(default, f.name)]  # type: ignore[arg-type]
    return ", ".join(f"{f.name} {_plain(getattr(config, f.name))}" for f in changed) or "as it starts"


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    page = files("configs") / ".." / "docs" / "methods" / "table.md"
    page.write_text(table())  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
