"""The sandbox: the isolation required for answers that are run as programs or queries."""

from dataclasses import dataclass

from configs.checks import require as require_that


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Isolation of untrusted programs and queries; `rewards/sandbox/box.py` lists what each level stops."""

    require: int = 2
    """Lowest isolation level at which answers may run. 3: namespaces, seccomp and Landlock; 2: seccomp and Landlock; 1:
    resource limits only; 0: whatever the machine offers. SQL queries run at level 2 even where 3 is required. A run
    that cannot reach the level is refused at start."""

    def __post_init__(self) -> None:
        require_that(0 <= self.require <= 3, "require", "must be between 0 and 3", self.require)
