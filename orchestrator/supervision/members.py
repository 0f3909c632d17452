"""The processes of a training run that can be started again, and what each role needs for it."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from actors.contracts import Generator
from actors.local import LocalGenerator
from actors.presence import Presence
from actors.remote import Handle, RemoteGrader
from configs.config import Config
from orchestrator.cluster import Roles
from orchestrator.recovery import stacks
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.supervision.member import Member
from orchestrator.supervision.supervisor import Supervisor


def supervised(cfg: Config, roles: Roles, rollouts: Rollouts, verifiers: Sequence[str], report: Any) -> Supervisor:
    """Return the supervisor of a run, to which all roles report what is lost. The learner must be connected.

    Args:
        verifiers: those whose canaries a grader judges when it was started again.
        report: called with the title and the text of each event.
    """
    learner: Any = roles.learner
    members = [
        _generator(cfg, roles, rollouts, learner, generator)
        for generator in roles.generators
        if isinstance(generator, Handle | LocalGenerator)
    ]
    pool: Any = roles.reference_actors
    if cfg.placement.kind == "ray":
        graders = [one for one in roles.graders if isinstance(one, RemoteGrader)]
        members += [
            _in_turn("grader", one, rollouts.graders, partial(one.prove, verifiers), rollouts) for one in graders
        ]
        handles = pool.handles if pool is not None else []
        members += [_in_turn("reference", one, pool.presence, partial(pool.restore, one), rollouts) for one in handles]
    run_dir = Path(cfg.runs) / cfg.name

    def dump(silent: int | None) -> str:
        return stacks.dump(run_dir, ended=() if silent is None else (silent,))

    supervisor = Supervisor(cfg.placement, members, roles.ranks, report, dump)
    rollouts.lost = learner.receivers.lost = rollouts.graders.lost = supervisor.lost
    if pool is not None:
        pool.presence.lost = supervisor.lost
    if roles.turns is not None:
        roles.turns.lost = supervisor.lost
    roles.recovered = supervisor.metrics
    return supervisor


def _generator(cfg: Config, roles: Roles, rollouts: Rollouts, learner: Any, generator: Generator) -> Member:
    def leave() -> None:
        learner.receivers.leave(generator)
        rollouts.leave(generator)

    process: Any = generator
    return Member(
        role="generator",
        process=process,
        leave=leave,
        leave_out=partial(rollouts.leave_out, generator),
        prepare=partial(learner.join, generator),
        enter=partial(rollouts.enter, generator),
        fail=rollouts.fail,
        least=cfg.placement.min_generators,
        turn=nullcontext if roles.turns is None else partial(roles.turns.starting, process),
    )


def _in_turn(
    role: Literal["grader", "reference"],
    process: Any,
    presence: Presence[Any],
    prepare: Callable[[], Awaitable[object]],
    rollouts: Rollouts,
) -> Member:
    """Return a member of a role whose processes are used in turn."""
    return Member(
        role=role,
        process=process,
        leave=partial(presence.leave, process),
        leave_out=lambda: None,  # the calls that it lost are made again to the others
        prepare=prepare,
        enter=partial(presence.enter, process),
        fail=partial(_fail, rollouts, presence),
    )


def _fail(rollouts: Rollouts, presence: Presence, error: Exception) -> None:
    """Fail what waits for a process of this role, and all groups."""
    presence.fail(error)
    rollouts.fail(error)
