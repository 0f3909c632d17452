"""Extraction modes: which part of a response is its final answer, for verifiers that compare a final answer."""

import re

from configs.checks import require

STRICT = "strict"
BOXED = "boxed"
LAST_NUMBER = "last_number"
MODES = {
    STRICT: "the last box, else the text after a marker such as `####` or 'the answer is', else a bare answer",
    BOXED: "the last box alone",
    LAST_NUMBER: "the last number",
}
"""What each mode reads. A further one is `tag:NAME`, see `tag`."""
TAG = re.compile(r"tag:([A-Za-z][A-Za-z0-9_-]{0,39})")
UNREADABLE_TAGS = ("think", "s")
"""Elements that are removed from a response before its final answer is searched."""
FIELD = "extraction"
"""Field of a problem that holds the mode. Without it the mode is strict."""
EXTRACTING = ("math",)
"""Verifiers of `rewards/registry.py` that read this field."""
RULE = "must be strict, boxed, last_number or tag:NAME with a NAME such as answer"


def tag(mode: str) -> str:
    """Return NAME of the mode `tag:NAME`, which reads the text in the last element `<NAME>...</NAME>`; else ""."""
    found = TAG.fullmatch(mode)
    return found[1] if found and found[1] not in UNREADABLE_TAGS else ""


def is_mode(value: object) -> bool:
    """Return whether a value is an extraction mode."""
    return isinstance(value, str) and (value in MODES or bool(tag(value)))


def check_mode(mode: str) -> None:
    """Raise ValueError, naming the field `extraction`, unless `mode` is an extraction mode."""
    require(is_mode(mode), FIELD, RULE, mode)


def describe(mode: str) -> str:
    """Return a mode and what it reads: `boxed (the last box alone)`."""
    name = tag(mode)
    return f"{mode} ({f'the text in the last <{name}>...</{name}>' if name else MODES[mode]})"
