"""Start roles again that were lost, and record what happened."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from actors.background import Background
from actors.presence import LOSSES
from configs.placement import PlacementConfig
from orchestrator.recovery.stacks import stalled
from orchestrator.supervision.budget import Budget
from orchestrator.supervision.heartbeats import listen
from orchestrator.supervision.member import Member, Process


class Supervisor:
    """Watches the processes of a run, and starts those of generators, graders and references again.

    A process is lost when a call to it says so (`lost`), or when it does not answer its heartbeats. It then leaves at
    once. It is started again, at most `placement.restarts` times within `placement.restart_window_s`; a start that
    fails counts too. While Ray has no room for it, or after its last restart, the run goes on without it, as long as
    enough of its role are left. Use as an async context manager.

    Args:
        members: the processes that can be started again.
        others: learner ranks. One that is silent ends the run.
        alert: called with the title and the text of what the user has to know. `note`, at first the same, is called
            with those of good news.
        dump: called with the process id of a member that is silent, before it is ended. Writes the stacks of all
            processes, in a bounded time, and returns a line that says where. Raises OSError if it cannot.
        clock: in seconds.
    """

    def __init__(
        self,
        place: PlacementConfig,
        members: Sequence[Member],
        others: Sequence[Any],
        alert: Callable[[str, str], None],
        dump: Callable[[int | None], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place, self.members, self.others, self._clock = place, list(members), others, clock
        self.alert = self.note = alert
        self._dump = dump
        self._budgets = {
            member: Budget(place.restarts, place.restart_window_s, place.restart_delay_s, clock) for member in members
        }
        self._restarts = dict.fromkeys((member.role for member in members), 0)
        self._seconds: dict[str, float] = dict.fromkeys(self._restarts, 0.0)
        self._background = Background()
        self._listening: dict[Member, asyncio.Task[None]] = {}
        """Those that ask the members that are present for heartbeats."""

    async def __aenter__(self) -> "Supervisor":
        for member in self.members:
            self._listen(member)
        for other in self.others:
            self._background.start(
                listen(other, self.place.heartbeat_s, partial(_give_up, other), self.place.start_timeout_s)
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._background.end()

    def _listen(self, member: Member) -> None:
        lost = partial(self._silent, member.process)
        work = listen(member.process, self.place.heartbeat_s, lost, self.place.start_timeout_s)
        self._listening[member] = self._background.start(work)

    def _silent(self, process: Process, error: Exception) -> None:
        if not self.lost(process, error):
            _give_up(process, error)

    def lost(self, process: object, error: Exception) -> bool:
        """Note that a process was lost, unless it is known. Return False if it is none that can be started again."""
        member = next((member for member in self.members if member.process is process), None)
        if member is None or not self.place.restarts:
            return False
        if member.state == "present":
            member.state = "absent"
            self._listening[member].cancel()
            member.process.give_up(str(error))
            member.leave()
            self._background.start(self._recover(member, error))
        return True

    def metrics(self) -> dict[str, float]:
        """Return restarts since the start of the run, the seconds that they took in all, and how many are left out."""
        found: dict[str, float] = {}
        for role, count in self._restarts.items():
            away = sum(member.role == role and member.state != "present" for member in self.members)
            found |= {f"restarts/{role}": count, f"restarts/{role}/seconds": self._seconds[role]}
            found[f"restarts/{role}/absent"] = away
        return found

    async def _recover(self, member: Member, error: Exception) -> None:
        began = self._clock()
        try:
            while True:
                delay_s = self._budgets[member].take()
                if delay_s is None:
                    used = f"placement.restarts={self.place.restarts} within {self.place.restart_window_s:.0f} s"
                    self._leave_out(member, f"{used} are used up; the last error: {error}")
                    return
                self.alert(f"{member.name} was lost", f"{error}; it is started again after {delay_s:.0f} s")
                if stalled(error):
                    await self._write_stacks(member)
                await asyncio.sleep(delay_s)
                try:
                    await self._start_again(member)
                    break
                except NotEnough:
                    raise
                except (RuntimeError, *LOSSES) as failed:
                    error = failed
        except Exception as failed:  # a run that cannot go on must end, whatever the reason is
            member.fail(failed)
            return
        member.state = "present"
        member.enter()
        self._listen(member)
        seconds = self._clock() - began
        self._restarts[member.role] += 1
        self._seconds[member.role] += seconds
        self.note(f"{member.name} is back", f"after {seconds:.1f} s")

    async def _write_stacks(self, member: Member) -> None:
        """Write what all processes are doing while the silent one still is."""
        with contextlib.suppress(OSError):  # a full disk, or a machine that is too busy
            self.alert(member.name, await self._dump(member.process.local_pid))

    async def _start_again(self, member: Member) -> None:
        placing = asyncio.ensure_future(member.process.restart())
        try:
            await asyncio.wait([placing], timeout=self.place.start_timeout_s)
            if not placing.done():
                self._leave_out(member, f"Ray has had no room for it for {self.place.start_timeout_s:.0f} s")
            await placing
        finally:
            placing.cancel()
        async with member.turn():
            await member.process.rebuilt(self.place.start_timeout_s)
        await member.prepare()

    def _leave_out(self, member: Member, reason: str) -> None:
        """Go on without a member. Raise RuntimeError if too few of its role are left."""
        member.state = "left_out"
        left = sum(other.role == member.role and other.state != "left_out" for other in self.members)
        if left < member.least:
            rule = "placement.min_generators" if member.role == "generator" else "placement.start_timeout_s"
            raise NotEnough(
                f"{member.name} was lost and cannot be started again: {reason}. {left} {member.role}s are left, and "
                f"at least {member.least} must be ({rule}); mend the cause, then resume the run or give the "
                "command again"
            )
        member.leave_out()
        self.alert(f"{member.name} is left out", f"{reason}; the run goes on with {left}")


def _give_up(process: Any, error: Exception) -> None:
    """Have the calls to a process that is not started again raise, which ends the run."""
    process.give_up(str(error))


class NotEnough(RuntimeError):
    """Too few processes of a role are left for the run to go on."""
