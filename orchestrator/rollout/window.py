"""The window: the prompts that are being generated, graded or trained on, and the order in which their groups leave."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from trajectories.trajectory import Group, Trajectory


@dataclass(slots=True, eq=False)
class Slot:
    """One prompt in the window, from its admission until its group is released."""

    position: int
    """Position of the prompt in the train stream."""
    experience: tuple[Trajectory, ...] = ()
    """Right answers of earlier steps that join the group."""
    group: Group | None = None
    """The graded group; None until all of its answers are graded."""
    taken: bool = False
    """Whether the group is being trained on."""
    last_step: int = 0
    """Number of releases before the last `take` at which the group is not older than the lag; any order only."""


class Window:
    """Holds at most `slots` prompts between admission and release. It has no clock.

    First in, first out: slots = (lag + 1) * groups_per_step, and slots are released only after new weights are
    published. Then no group is more than `lag` steps old when it is trained on.

    In any order, the oldest complete groups are taken, also before older groups that are not complete. Let a group that
    was admitted before version a + 1 be due at step a + lag. A `take` of P groups is possible only if those that are
    left can all be taken when they are due, P at a time: the k-th of them, from 0 and oldest first, is due in at least
    k // P + 1 steps. So the bound is the same. It needs fewer slots: with (lag + 1) * P, each of the P groups of every
    age is due at a step of its own, which leaves no choice.

    Args:
        slots: number of prompts.
        position: first position of the train stream.
        lag: bound of the staleness in any order; None: first in, first out.
        trained: positions from `position` on that were trained on before the run was resumed.
    """

    def __init__(self, slots: int, position: int, lag: int | None = None, trained: Collection[int] = ()) -> None:
        self.slots, self.lag = slots, lag
        self.position = position
        """Next position of the train stream: neither admitted, skipped nor trained on."""
        self._queue: deque[Slot] = deque()
        """Admitted slots, oldest first."""
        self._passed: list[int] = []
        """Positions that were skipped or dropped since the last `take_passed`."""
        self._trained = set(trained)
        self._releases = 0
        self._pass_trained()

    @property
    def free(self) -> int:
        """Number of prompts that may be admitted."""
        return self.slots - len(self._queue)

    @property
    def resume_position(self) -> int:
        """Position from which a resumed run continues: the oldest slot's, so that no group is missed or used twice."""
        return self._queue[0].position if self._queue else self.position

    @property
    def trained(self) -> list[int]:
        """Positions after `resume_position` that were trained on and released: the ledger of groups in any order."""
        return sorted(position for position in self._trained if position > self.resume_position)

    @property
    def with_experience(self) -> set[str]:
        """Ids of the prompts whose groups have experience."""
        return {slot.experience[0].prompt_id for slot in self._queue if slot.experience}

    @property
    def in_flight(self) -> int:
        """Number of slots whose group is not complete."""
        return sum(slot.group is None for slot in self._queue)

    def progress(self) -> str:
        """Return how many groups are complete, in words. It may be called from another thread."""
        slots = list(self._queue)
        return f"{sum(slot.group is not None for slot in slots)} of {len(slots)} groups are complete"

    def admit(self, position: int, experience: tuple[Trajectory, ...] = ()) -> Slot:
        """Add the prompt at `position`, or in its place one with `experience`, and return its slot."""
        assert self.free > 0, "the window is full"
        assert position == self.position, f"{position} is not the next position {self.position}"
        self.position += 1
        self._pass_trained()
        self._queue.append(Slot(position, experience, last_step=self._releases + (self.lag or 0)))
        return self._queue[-1]

    def skip(self, position: int) -> None:
        """Pass over the prompt at the next position, which cannot be used."""
        assert position == self.position, f"{position} is not the next position {self.position}"
        self._passed.append(position)
        self.position += 1
        self._pass_trained()

    def take_passed(self) -> list[int]:
        """Return the positions that were skipped or dropped since the last call."""
        passed, self._passed = self._passed, []
        return passed

    def _pass_trained(self) -> None:
        while self.position in self._trained:
            self.position += 1

    def drop(self, slot: Slot) -> None:
        """Remove a slot whose group was not taken; another prompt may be admitted in its place."""
        assert not slot.taken, "the group is being trained on"
        self._passed.append(slot.position)
        self._queue.remove(slot)

    def ready(self, count: int) -> bool:
        """Return whether `take` can return `count` groups now."""
        return self._next(count) is not None

    def take(self, count: int) -> list[Group]:
        """Mark `count` groups as taken and return them, oldest first; call it when they are `ready`.

        Every `take` of a run has the same count.
        """
        chosen = self._next(count)
        assert chosen is not None, f"{count} groups that may be taken are not complete"
        groups = []
        for slot in chosen:
            slot.taken = True
            assert slot.group is not None
            groups.append(slot.group)
        return groups

    def _next(self, count: int) -> list[Slot] | None:
        """Return the slots that are taken next; None while one that must be among them is not complete."""
        waiting = [slot for slot in self._queue if not slot.taken]
        if self.lag is None:
            first = waiting[:count]
            return first if len(first) == count and all(slot.group is not None for slot in first) else None
        chosen = [slot for slot in waiting if slot.group is not None][:count]
        if len(chosen) < count:
            return None
        taken = {id(slot) for slot in chosen}
        left = [slot for slot in waiting if id(slot) not in taken]
        steps_left = (slot.last_step - self._releases for slot in left)
        return chosen if all(steps > k // count for k, steps in enumerate(steps_left)) else None

    def release(self, groups: list[Group]) -> None:
        """Remove the slots of groups that were taken, in the order in which they were taken."""
        taken = [slot for slot in self._queue if slot.taken][: len(groups)]
        assert len(taken) == len(groups), "only groups that were taken are released"
        in_order = all(slot.group is group for slot, group in zip(taken, groups, strict=True))
        assert in_order, "groups are released in the order they were taken"
        released = {id(slot) for slot in taken}
        self._queue = deque(slot for slot in self._queue if id(slot) not in released)
        self._releases += 1
        self._trained = {p for p in (*self._trained, *(slot.position for slot in taken)) if p > self.resume_position}
