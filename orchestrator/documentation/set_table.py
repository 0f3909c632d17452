"""The table of known sets in docs/datasets.md, which a test compares with `configs/sets/`."""

from configs.sets import KnownSet, known_set, set_names

HEAD = ("| `task=` | what it holds | train rows | held-out rows | verifier | license |", f"|{' --- |' * 6}")


def table() -> str:
    """Return the table: one row per set, those for training first, without a newline at the end."""
    named = sorted(((name, known_set(name)) for name in set_names()), key=lambda item: (not item[1].trains, item[0]))
    return "\n".join([*HEAD, *(_row(name, known) for name, known in named)])


def _row(name: str, known: KnownSet) -> str:
    train = _rows(known, "path", "rows") if known.trains else "none: evaluation only"
    held = _rows(known, "heldout_path", "heldout_rows") if "heldout_path" in known.options else "a fraction"
    cells = [f"`{name}`", known.about, train, held, f"`{known.options['verifier']}`", known.license]
    return f"| {' | '.join(cells)} |"


def _rows(known: KnownSet, path: str, number: str) -> str:
    return f"{known.options[number]:,}, `{known.options[path]}`"
