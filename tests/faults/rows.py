"""The faults, one row each: what happens to which process in which phase, and what the run must do."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Expected = Literal["goes on", "stops", "ends", "killed"]
"""`goes on`: the run is done in spite of it, status 0. `stops`: it stops with a checkpoint, status 0. `ends`: status 1
and a message. `killed`: the driver is gone. After all but the first, a resumed run must be complete."""
PHASES = ("generating", "grading", "scoring", "updating", "publishing", "recording", "checkpointing", "evaluating")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault."""

    action: str
    """A signal, or an action of `program.py`."""
    phase: str
    expected: Expected
    role: str = "driver"
    step: int = 3
    value: float = 0.0
    """Of the action; with a signal, the seconds after which SIGCONT follows (0: none)."""
    message: str = ""
    """Regular expression that the output must match."""
    kind: Literal["in_process", "ray"] = "in_process"
    words: tuple[str, ...] = ()
    """Further settings."""
    environment: tuple[tuple[str, str], ...] = ()
    """Further environment variables."""
    special: str = ""
    """What else is special, for the name."""
    bound_s: float = 120.0
    always: bool = False
    """Whether `make test` runs it too."""

    @property
    def name(self) -> str:
        more = f"-{self.value:g}" if self.value else ""
        special = f"-{self.special}" if self.special else ""
        return f"{self.kind}-{self.role}-{self.action}{more}-{self.phase}{special}"

    @property
    def heals(self) -> bool:
        """Whether the role is started again, so that the run waits for it."""
        return self.expected == "goes on" and self.role in HEALED and self.phase != "ending"

    def arguments(self) -> dict[str, object]:
        """Return the argument of `program.py`."""
        return {
            name: value for name, value in asdict(self).items() if name in ("action", "role", "phase", "step", "value")
        }


HEALED = ("generator", "grader", "reference")
"""Roles that are started again."""
MEASURED = ("monitor.every=3",)
SCORED = ("method=grpo_adaptive_kl",)
"""References score every batch."""
SCORED_FIRST = ("objective.old_policy=learner", "learner.updates_per_batch=2")
"""The learner scores every batch before its updates."""
ANY_ORDER = ("lag=2", "take=any_order", "sampling.max_refills=1")
AHEAD = ("lag=2", "sampling.max_refills=2")
OFFLINE = ("logbook.wandb=offline",)
VLLM = ("generator.engine=vllm",)
SMALL_STORE = (("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", "80000000"),)
NO_SPILLING = (*SMALL_STORE, ("RAY_local_fs_capacity_threshold", "0.0001"))
"""Ray believes that the disk has no room for what does not fit into its object store."""
STOPPING = "stopping after this step, with a checkpoint"
FULL = "File too large|wrote [01] of"
NO_ANSWER = "did not answer within|generated no token for|was not published|no token was generated"
TURNED_OFF = "turned off after TimeoutError"
NO_ROOM = "object store is full, and the disk"
UNEXPECTED = "ended unexpectedly"
DIED = "its process died before|does not answer"
SIGNALS = ("SIGKILL", "SIGSTOP")
USED_WHILE_RECORDING = ("grader", "learner")
"""Roles that are called while a step is recorded."""
DRIVER_PHASES = ("starting", "generating", "updating", "publishing", "checkpointing", "evaluating", "ending")
IN_EVERY_TEST = {
    ("SIGKILL", "generator", "generating", ""),
    ("SIGKILL", "driver", "updating", ""),
    ("SIGSTOP", "raylet", "updating", ""),
}
"""Faults over Ray that `make test` runs too."""


def words(role: str, phase: str) -> tuple[str, ...]:
    """Return the settings with which a run has this phase, and uses this role."""
    if phase == "scoring" and role == "learner":
        return MEASURED + SCORED_FIRST
    return MEASURED + (SCORED if phase == "scoring" or role == "reference" else ())


def in_process() -> list[Fault]:
    """Return the faults of a run in one process."""
    signals = [
        *(Fault(action="SIGKILL", phase=phase, expected="killed", words=words("driver", phase)) for phase in PHASES),
        Fault(action="SIGKILL", phase="starting", expected="killed"),
        Fault(action="SIGKILL", phase="ending", expected="killed"),
        Fault(action="SIGKILL", phase="updating", expected="killed", words=ANY_ORDER, step=4, always=True),
        Fault(action="SIGKILL", phase="checkpointing", expected="killed", words=AHEAD, step=5),
        *(
            Fault(
                action="SIGTERM",
                phase=phase,
                expected="stops",
                words=words("driver", phase),
                message=f"(?m)^SIGTERM: {STOPPING}",
            )
            for phase in PHASES
        ),
        Fault(action="SIGINT", phase="generating", expected="stops", message=f"(?m)^SIGINT: {STOPPING}", always=True),
        Fault(action="SIGKILL", role="worker", phase="grading", expected="goes on"),
        Fault(action="SIGKILL", role="worker", phase="updating", expected="goes on"),
        Fault(action="SIGSTOP", role="worker", phase="updating", expected="goes on"),
    ]
    machine = [
        Fault(action="slow_disk", value=0.3, phase="updating", expected="goes on", words=("checkpoint.every=1",)),
        Fault(action="slow_disk", value=1.0, phase="checkpointing", expected="goes on"),
        Fault(action="clock", value=3e7, phase="updating", expected="goes on", words=MEASURED),
        Fault(action="clock", value=-3e7, phase="updating", expected="goes on", words=MEASURED),
        Fault(action="clock", value=-3e7, phase="generating", expected="goes on", words=("lag=1",)),
        Fault(action="full_disk", value=1e5, phase="checkpointing", expected="ends", message=FULL, always=True),
        Fault(action="full_disk", value=1, phase="recording", expected="ends", message=FULL),
    ]
    wandb = [
        Fault(action="SIGKILL", role="wandb", phase="updating", expected="goes on", words=OFFLINE),
        Fault(action="SIGSTOP", role="wandb", phase="updating", value=3, expected="goes on", words=OFFLINE),
        Fault(action="SIGSTOP", role="wandb", phase="updating", expected="goes on", words=OFFLINE),
        # Stopped for good, while the row above is told to continue at the end.
        Fault(action="freeze", role="wandb", phase="updating", expected="goes on", words=OFFLINE, message=TURNED_OFF),
    ]
    return [*signals, *machine, *wandb]


def over_ray() -> list[Fault]:
    """Return the faults of a run whose roles are Ray actors."""
    roles = []
    for role in (*HEALED, "learner"):
        for phase in PHASES:
            if phase == "recording" and role not in USED_WHILE_RECORDING:
                continue
            both = {"role": role, "phase": phase, "words": words(role, phase)}
            if role in HEALED:
                roles += [_ray(action, "goes on", message=f"{role} 0 is back", **both) for action in SIGNALS]
            else:
                scores = phase == "scoring"
                roles += [
                    _ray("SIGKILL", "ends", message="died before score ended" if scores else DIED, **both),
                    _ray("SIGSTOP", "ends", message="score did not answer within" if scores else NO_ANSWER, **both),
                ]
    for role in ("generator", "grader", "learner"):
        roles += [_ray(action, "goes on", role=role, phase="ending") for action in SIGNALS]
    others = [
        _ray(
            "SIGKILL",
            "ends",
            role="generator",
            phase="generating",
            words=("placement.restarts=0",),
            message=DIED,
            special="no_restarts",
        ),
        _ray(
            "SIGKILL",
            "goes on",
            role="generator",
            phase="generating",
            words=(*VLLM, "generator.timeout_s=60"),
            message="generator 0 is back",
            special="vllm",
            bound_s=300.0,
        ),
        _ray("full_store", "goes on", value=3e7, phase="updating", environment=SMALL_STORE, special="spilling"),
        _ray(
            "full_store",
            "ends",
            value=3e7,
            phase="updating",
            environment=NO_SPILLING,
            special="no_room",
            message=NO_ROOM,
        ),
    ]
    machine = [
        _ray("slow_disk", "goes on", role="machine", value=0.3, phase="updating", words=("checkpoint.every=1",)),
        *(
            _ray("clock", "goes on", role="machine", value=value, phase="updating", words=MEASURED + SCORED)
            for value in (3e7, -3e7)
        ),
    ]
    drivers = [_ray("SIGKILL", "killed", phase=phase, words=MEASURED) for phase in DRIVER_PHASES]
    daemons = [
        _ray("SIGKILL", "goes on", role="gcs", phase="updating"),
        # Ray ends the process that waits for its GCS after 60 s.
        _ray("SIGKILL", "ends", role="gcs", phase="ending", message=f"{UNEXPECTED}|Failed to connect to GCS"),
        _ray("SIGSTOP", "goes on", role="gcs", phase="updating"),
        _ray("SIGKILL", "ends", role="raylet", phase="updating", message=UNEXPECTED),
        _ray("SIGSTOP", "ends", role="raylet", phase="updating", message=NO_ANSWER),
        _ray("SIGSTOP", "goes on", role="raylet", phase="ending"),
        _ray("SIGKILL", "ends", role="agent", phase="updating", message=f"{UNEXPECTED}|{DIED}"),
    ]
    return [*roles, *others, *machine, *drivers, *daemons]


def _ray(action: str, expected: Expected, **more: Any) -> Fault:
    always = (action, more.get("role", "driver"), more["phase"], more.get("special", "")) in IN_EVERY_TEST
    return Fault(action=action, expected=expected, kind="ray", always=always, **more)


ROWS = [*in_process(), *over_ray()]
