"""Write `docs/methods/table.md`: the settings of every method preset, one table per slot of the objective."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from configs.explain import value_words
from configs.load import presets
from configs.objective import ObjectiveConfig
from configs.references import ReferenceConfig
from configs.terms import TermConfig

PAPER = re.compile(r"arXiv:(\d{4}\.\d{5})")
HEADER = """# Settings of every preset, by slot

Use this page to compare presets. There is one table for each slot of the objective; it lists only the presets that
change the default of that slot. [The index](index.md) describes the methods, and `breadth show-config --explain KEY`
describes a setting.

The tables are made from `configs/methods/*.yaml` by `python -m orchestrator.documentation.method_table`; a test fails
when they differ. `${KEY}` stands for the value of another setting.
"""
DEFAULT = ObjectiveConfig()
GATES = ("gates", "covariance", "entropy_bonus", "mismatch")
TERM_COLUMNS = ("name", "anchor", "route", "wiring", "estimator")
SHOWN = ("objective.advantage", "objective.pass_k", "objective.overlong", "objective.target", "objective.pairs",
         "objective.flow", "objective.critic",
         "objective.ratio", "objective.clip", "objective.terms", "objective.reduction", "objective.constant_length",
         "references",
         *(f"objective.{key}" for key in GATES))  # fmt: skip
"""Settings that a table of their own shows; `_other` shows all others."""


@dataclass(frozen=True)
class Slot:
    """One table of the page."""

    title: str
    default: str
    """Sentence about the presets that are not in the table: their value of the slot."""
    head: tuple[str, ...]
    """Columns after the preset's own."""
    rows: Callable[[dict[str, Any]], list[list[str]]]
    """Cells of the rows of one preset, from its YAML; none: the preset has the default."""


def page() -> str:
    """Return the whole page."""
    written = {name: _read(name) for name in presets("method")}
    return HEADER + "".join(_table(slot, written) for slot in SLOTS) + _papers()


def _read(name: str) -> dict[str, Any]:
    """Return the settings that a preset changes, with `${KEY}` as it is written."""
    text = (files("configs") / "methods" / f"{name}.yaml").read_text()
    read: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return {"objective": {}, **read}


def changed(name: str) -> list[str]:
    """Return the settings that a preset changes, each as `key=value`."""
    written = _read(name)
    return [f"{key}={value_words(value)}" for key, value in leaves(written) if (key, value) != ("objective", {})]


def comment(name: str) -> list[str]:
    """Return the lines of a preset's opening comment: paper and equations."""
    lines = (files("configs") / "methods" / f"{name}.yaml").read_text().splitlines()
    return [line[2:] for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


def _table(slot: Slot, written: dict[str, dict[str, Any]]) -> str:
    head = ("preset", *slot.head)
    lines = [head, ["---"] * len(head)]
    lines += [(_link(name), *row) for name, preset in written.items() for row in slot.rows(preset)]
    return f"\n## {slot.title}\n\n{slot.default}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _papers() -> str:
    """Return the table of papers."""
    lines = ["\n## Papers\n\n| preset | paper |\n| --- | --- |\n"]
    for name in presets("method"):
        found = PAPER.search((files("configs") / "methods" / f"{name}.yaml").read_text())
        assert found is not None, f"{name}.yaml names no paper"
        lines.append(f"| {_link(name)} | [arXiv:{found[1]}](https://arxiv.org/abs/{found[1]}) |\n")
    return "".join(lines)


def _link(preset: str) -> str:
    return f"[`{preset}`]({preset}.md)"


def _advantage(preset: dict[str, Any]) -> list[list[str]]:
    objective = preset["objective"]
    further = _settings(
        {key: objective[key] for key in ("pass_k", "overlong", "target", "pairs", "flow", "critic") if key in objective}
    )
    return (
        [[f"`{objective.get('advantage', DEFAULT.advantage)}`", further]] if "advantage" in objective or further else []
    )


def _ratio(preset: dict[str, Any]) -> list[list[str]]:
    objective = preset["objective"]
    changed = {"ratio", "clip"} & objective.keys()
    clip = "-" if objective.get("ratio") == "none" else _settings(objective.get("clip", {})) or "default"
    return [[f"`{objective.get('ratio', DEFAULT.ratio)}`", clip]] if changed else []


def _gates(preset: dict[str, Any]) -> list[list[str]]:
    settings = _settings({key: preset["objective"][key] for key in GATES if key in preset["objective"]})
    return [[settings]] if settings else []


def _terms(preset: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, term in preset["objective"].get("terms", {}).items():
        columns = [f"`{term.get(key, getattr(TermConfig, key, ''))}`" for key in TERM_COLUMNS]
        further = {key: value for key, value in term.items() if key not in (*TERM_COLUMNS, "coefficient")}
        rows.append([f"`{name}`", *columns, _settings(further)])
    return rows


def _coefficients(preset: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, term in preset["objective"].get("terms", {}).items():
        settings = term["coefficient"]
        rows.append([f"`{name}`", f"`{settings.get('kind', 'constant')}`", _settings(settings, leave_out=("kind",))])
    return rows


def _references(preset: dict[str, Any]) -> list[list[str]]:
    rows = preset.get("references", {}).items()
    return [
        [f"`{name}`", f"`{row.get('update', ReferenceConfig.update)}`", _settings(row, ("update",))]
        for name, row in rows
    ]


def _reduction(preset: dict[str, Any]) -> list[list[str]]:
    objective = preset["objective"]
    further = _settings({key: objective[key] for key in ("constant_length",) if key in objective})
    return [[f"`{objective['reduction']}`", further]] if "reduction" in objective else []


def _other(preset: dict[str, Any]) -> list[list[str]]:
    found = [(key, value) for key, value in leaves(preset) if not key.startswith(SHOWN)]
    return [[", ".join(f"`{key}={_plain(value)}`" for key, value in found)]] if found else []


def _settings(section: dict[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """Return the settings of a section as `key=value`, separated by commas."""
    found = [(key, value) for key, value in leaves(section) if key not in leave_out]
    return ", ".join(f"`{key}={_plain(value)}`" for key, value in found)


def leaves(section: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the full key and the value of every plain setting of a section."""
    found: list[tuple[str, Any]] = []
    for key, value in section.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
    return found


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)


SLOTS = (
    Slot(
        "Advantage",
        f"Default: `objective.advantage={DEFAULT.advantage}`, without a penalty on long answers.",
        ("advantage", "further settings under `objective`"),
        _advantage,
    ),
    Slot(
        "Ratio and clip",
        f"Default: `objective.ratio={DEFAULT.ratio}` with `objective.clip.kind={DEFAULT.clip.kind}`, "
        f"`low={DEFAULT.clip.low:g}`, `high={DEFAULT.clip.high:g}` and no dual clip.",
        ("ratio", "settings under `objective.clip`"),
        _ratio,
    ),
    Slot(
        "Gates and entropy bonus",
        "Default: no gate, no entropy bonus and no correction of the engine's mismatch.",
        ("settings under `objective`",),
        _gates,
    ),
    Slot(
        "Divergence terms",
        "Default: no term. Each row is one term, `objective.terms.NAME`.",
        ("term", "divergence", "anchor", "route", "wiring", "estimator", "further settings of the term"),
        _terms,
    ),
    Slot(
        "Coefficients",
        "Default: no term, so no coefficient. Each row is one term; settings are under "
        "`objective.terms.NAME.coefficient`.",
        ("term", "kind", "settings"),
        _coefficients,
    ),
    Slot(
        "References",
        "Default: no reference besides the starting policy. A reference without `path` or `soup` is the starting "
        "policy too.",
        ("reference", "update", "settings under `references.NAME`"),
        _references,
    ),
    Slot(
        "Reduction",
        f"Default: `objective.reduction={DEFAULT.reduction}`.",
        ("reduction", "further settings under `objective`"),
        _reduction,
    ),
    Slot(
        "Settings outside these slots",
        "Default: replay, experience, RECAP and dynamic sampling are off; one update per batch.",
        ("settings",),
        _other,
    ),
)


def main() -> None:
    """Write the page."""
    path = files("configs") / ".." / "docs" / "methods" / "table.md"
    path.write_text(page())  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
