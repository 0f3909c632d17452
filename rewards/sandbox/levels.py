"""Find the highest isolation level that works on this machine, and refuse to run below a required level."""

import functools
from dataclasses import dataclass

from configs.checks import require as require_setting
from rewards.sandbox.box import BoxFailed, Zygote


@dataclass(frozen=True, kw_only=True)
class Available:
    """The highest isolation level that works here, tested in a real box."""

    level: int
    """1 to 3, or 0 if no box can be made."""
    refused: dict[int, str]
    """The reason why each higher level does not work."""

    def reasons(self) -> str:
        """Return the reasons as one line; empty at the highest level."""
        return "; ".join(f"level {level}: {why}" for level, why in self.refused.items())


@functools.cache
def available() -> Available:
    """Test the levels from the highest down, once per process. Each tested level takes a fraction of a second."""
    try:
        with Zygote() as zygote:
            return Available(level=zygote.level, refused=zygote.refused)
    except BoxFailed as failure:
        return Available(level=0, refused={1: str(failure)})


def require(level: int) -> None:
    """Check that isolation level `level` works here.

    Raises:
        ValueError: it does not. The message names the highest level that works, and why no higher level does.
    """
    here = available()
    reasons = f" ({here.reasons()})" if here.refused else ""
    require_setting(
        level <= here.level,
        "sandbox.require",
        f"must be at most {here.level}, the highest isolation level that works here{reasons}",
        level,
    )
