"""The processes of a run, an evaluation or a presampling that can be started again, and what each role needs for it."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from actors.contracts import Generator
from actors.local import LocalGenerator
from actors.presence import Presence
from actors.remote import Handle, RemoteGrader
from actors.remote_reference import RemoteReference
from orchestrator.cluster import Roles
from orchestrator.recovery import stacks
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.supervision.member import Member
from orchestrator.supervision.supervisor import Supervisor


class Publisher(Protocol):
    """What publishes weights to the generators: the learner, or `without_learner.PolicyFiles`."""

    receivers: Presence[Generator]

    async def join(self, generator: Generator) -> None:
        """Give a generator that was started again the weights that the others serve."""
        ...


def supervised(
    roles: Roles,
    rollouts: Rollouts,
    publisher: Publisher,
    verifiers: Sequence[str],
    folder: Path,
    report: Callable[[str, str], None],
) -> Supervisor:
    """Return the supervisor of these roles, to which all of them report what is lost.

    Args:
        publisher: it must know its receivers, all generators.
        verifiers: those whose canaries a grader judges when it was started again.
        folder: the stacks of processes that are silent are written there, in `stacks/TIME`.
        report: called with the title and the text of each event.
    """
    place = roles.cfg.placement
    members = [
        _generator(roles, rollouts, publisher, generator)
        for generator in roles.generators
        if isinstance(generator, Handle | LocalGenerator)
    ]
    if place.kind == "ray":
        graders = [one for one in roles.graders if isinstance(one, RemoteGrader)]
        fail = partial(_fail, rollouts, rollouts.graders)
        members += [_in_turn("grader", one, rollouts.graders, partial(one.prove, verifiers), fail) for one in graders]
    pool = roles.reference_actors
    if pool is not None:
        members += _references(pool, partial(_fail, rollouts, pool.presence))
    supervisor = Supervisor(place, members, roles.ranks, report, partial(_dump, roles, folder))
    rollouts.lost = publisher.receivers.lost = rollouts.graders.lost = supervisor.lost
    if pool is not None:
        pool.presence.lost = supervisor.lost
    if roles.turns is not None:
        roles.turns.lost = supervisor.lost
    roles.recovered = supervisor.metrics
    return supervisor


def supervised_references(roles: Roles, folder: Path, report: Callable[[str, str], None]) -> Supervisor:
    """Return the supervisor of reference actors that run without other roles. If too few are left, their calls fail.

    Args:
        folder, report: as for `supervised`.
    """
    pool = roles.reference_actors
    members = [] if pool is None else _references(pool, pool.presence.fail)
    supervisor = Supervisor(roles.cfg.placement, members, (), report, partial(_dump, roles, folder))
    if pool is not None:
        pool.presence.lost = supervisor.lost
    return supervisor


async def _dump(roles: Roles, folder: Path, silent: int | None) -> str:
    """Write the stacks of all processes, and return a line that says where."""
    return await stacks.dump(folder, roles.handles, ended=() if silent is None else (silent,))


def _generator(roles: Roles, rollouts: Rollouts, publisher: Publisher, generator: Generator) -> Member:
    def leave() -> None:
        publisher.receivers.leave(generator)
        rollouts.leave(generator)

    process: Any = generator
    return Member(
        role="generator",
        process=process,
        leave=leave,
        leave_out=partial(rollouts.leave_out, generator),
        prepare=partial(publisher.join, generator),
        enter=partial(rollouts.enter, generator),
        fail=rollouts.fail,
        least=roles.cfg.placement.min_generators,
        turn=nullcontext if roles.turns is None else partial(roles.turns.starting, process),
    )


def _references(pool: RemoteReference, fail: Callable[[Exception], None]) -> list[Member]:
    return [_in_turn("reference", one, pool.presence, partial(pool.restore, one), fail) for one in pool.handles]


def _in_turn(
    role: Literal["grader", "reference"],
    process: Any,
    presence: Presence[Any],
    prepare: Callable[[], Awaitable[object]],
    fail: Callable[[Exception], None],
) -> Member:
    """Return a member of a role whose processes are used in turn."""
    return Member(
        role=role,
        process=process,
        leave=partial(presence.leave, process),
        leave_out=lambda: None,  # the calls that it lost are made again to the others
        prepare=prepare,
        enter=partial(presence.enter, process),
        fail=fail,
    )


def _fail(rollouts: Rollouts, presence: Presence, error: Exception) -> None:
    """Fail what waits for a process of this role, and all groups."""
    presence.fail(error)
    rollouts.fail(error)
