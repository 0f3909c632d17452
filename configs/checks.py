"""How a setting is refused."""


def require(ok: bool, name: str, rule: str, value: object) -> None:
    """Raise ValueError naming field, rule and the value got, unless `ok`."""
    if not ok:
        raise ValueError(f"{name}: {rule}, got {value!r}")
