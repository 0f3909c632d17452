"""How a setting is refused."""

import difflib
from collections.abc import Iterable


def require(ok: bool, name: str, rule: str, value: object) -> None:
    """Raise ValueError naming field, rule and the value got, unless `ok`."""
    if not ok:
        raise ValueError(f"{name}: {rule}, got {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The words "(did you mean 'x'?)" with the known name closest to a mistyped one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (did you mean {close[0]!r}?)" if close else ""
