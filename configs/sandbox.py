"""The sandbox: the isolation demanded for untrusted answers."""

from dataclasses import dataclass

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    require: int = 2
    """Least isolation under which answers are run: 3 namespaces, seccomp and Landlock, 2 seccomp and Landlock, 1 limits
    only, 0 whatever there is. Queries, which are no programs, run at 2 where 3 is demanded. A run that cannot have it
    is refused."""

    def __post_init__(self) -> None:
        require(0 <= self.require <= 3, "sandbox.require", "must be between 0 and 3", self.require)
