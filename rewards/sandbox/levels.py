"""Which level of isolation holds on this machine, and the demand that one does."""

import functools
from dataclasses import dataclass

from configs.checks import require as demand
from rewards.sandbox.box import BoxFailed, Zygote


@dataclass(frozen=True, kw_only=True)
class Available:
    """The highest level that holds here, tried in a real box; 0 where no box can be made."""

    level: int
    refused: dict[int, str]
    """Why each higher level does not hold."""

    def words(self) -> str:
        """Why not higher, for a reader; empty at the highest level."""
        return "; ".join(f"level {level}: {why}" for level, why in self.refused.items())


@functools.cache
def available() -> Available:
    """Try the levels from the highest down, once in this process; a fraction of a second for each that is tried."""
    try:
        with Zygote() as zygote:
            return Available(level=zygote.level, refused=zygote.refused)
    except BoxFailed as failure:
        return Available(level=0, refused={1: str(failure)})


def require(level: int) -> None:
    """Refuse to go on where `level` does not hold. Raises ValueError that says which level does, and why no higher."""
    here = available()
    reasons = f" ({here.words()})" if here.refused else ""
    demand(
        level <= here.level,
        "sandbox.require",
        f"must be at most {here.level}, the level that holds here{reasons}",
        level,
    )
