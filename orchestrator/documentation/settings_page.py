"""Generate docs/settings.md from the dataclasses: `python -m orchestrator.documentation.settings_page` writes it."""

from importlib.resources import files

from configs.explain import Setting, sections, settings
from tasks.registry import TASKS

HEADER = """# All settings

Generated from `configs/` by `python -m orchestrator.documentation.settings_page`; a test holds this page to the code.

A setting is given as `key=value` on the command line, or in a YAML file (`--config FILE`). Later layers win: defaults,
then the method preset, the scale preset, the settings of a committed policy, the file, the command line. `breadth
show-config` prints the resolved values, and `breadth show-config --explain KEY` prints the meaning of one setting or
section. NAME is a name of your own: a preset with one divergence term calls it `divergence`, so its coefficient is
`objective.terms.divergence.coefficient.value`. The names of TRL, verl and OpenRLHF are on [a page of their
own](coming_from.md#settings).
"""
TABLE = """
| setting | type or values | default | meaning |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page: one table per section, then one per task for its options."""
    rows = list(settings())
    parts = [HEADER]
    for key, meaning in sections():
        mine = [row for row in rows if row.section == key]
        title = f"`{key}`" if key else "The run"
        parts.append(f"\n## {title}\n\n{meaning}\n")
        if mine:
            parts.append(TABLE + "".join(_row(row) for row in mine))
    parts.append("\n## `task.options`\n\nThe options depend on `task.name`.\n")
    for name, (schema, _) in TASKS.items():
        parts.append(f"\n### `task.name={name}`\n" + TABLE + "".join(_row(row) for row in settings(schema)))
    return "".join(parts)


def _row(setting: Setting) -> str:
    name = setting.key.rpartition(".")[2]
    cells = [f"`{name}`", setting.type, f"`{setting.default}`" if setting.default else "", setting.meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> None:
    """Write docs/settings.md."""
    path = files("configs") / ".." / "docs" / "settings.md"
    path.write_text(page())  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
