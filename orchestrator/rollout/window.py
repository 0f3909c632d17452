"""The window: the prompts that are being generated, graded or trained on, first in, first out."""

from collections import deque
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


class Window:
    """Holds at most `slots` prompts between admission and release; groups leave in the order of their prompts.

    slots = (lag + 1) * groups_per_step, and slots are released only after new weights are published. Then no group is
    more than `lag` steps old when it is trained on.
    """

    def __init__(self, slots: int, position: int) -> None:
        self.slots = slots
        self.position = position
        """Next position of the train stream: neither admitted nor skipped."""
        self._queue: deque[Slot] = deque()
        """Admitted slots, oldest first."""

    @property
    def free(self) -> int:
        """Number of prompts that may be admitted."""
        return self.slots - len(self._queue)

    @property
    def resume_position(self) -> int:
        """Position from which a resumed run continues: the oldest slot's, so that no group is missed or used twice."""
        return self._queue[0].position if self._queue else self.position

    @property
    def with_experience(self) -> set[str]:
        """Ids of the prompts whose groups have experience."""
        return {slot.experience[0].prompt_id for slot in self._queue if slot.experience}

    @property
    def in_flight(self) -> int:
        """Number of slots whose group is not complete."""
        return sum(slot.group is None for slot in self._queue)

    def admit(self, position: int, experience: tuple[Trajectory, ...] = ()) -> Slot:
        """Add the prompt at `position`, or in its place one with `experience`, and return its slot."""
        assert self.free > 0, "the window is full"
        assert position >= self.position, f"positions only grow: {position} after {self.position}"
        self.position = position + 1
        self._queue.append(Slot(position, experience))
        return self._queue[-1]

    def skip(self, position: int) -> None:
        """Pass over the prompt at the next position, which cannot be used."""
        assert position == self.position, f"{position} is not the next position {self.position}"
        self.position += 1

    def drop(self, slot: Slot) -> None:
        """Remove a slot whose group was not taken; another prompt may be admitted in its place."""
        assert not slot.taken, "the group is being trained on"
        self._queue.remove(slot)

    def ready(self, count: int) -> bool:
        """Return whether the `count` oldest groups that were not taken are all complete."""
        waiting = [slot for slot in self._queue if not slot.taken][:count]
        return len(waiting) == count and all(slot.group is not None for slot in waiting)

    def take(self, count: int) -> list[Group]:
        """Mark the `count` oldest groups as taken and return them; call it when they are `ready`."""
        assert self.ready(count), f"the {count} oldest groups are not complete"
        groups = []
        for slot in [slot for slot in self._queue if not slot.taken][:count]:
            slot.taken = True
            assert slot.group is not None
            groups.append(slot.group)
        return groups

    def release(self, groups: list[Group]) -> None:
        """Remove the slots of groups that were taken, oldest first."""
        for group in groups:
            assert self._queue and self._queue[0].taken, "only groups that were taken are released"
            assert self._queue[0].group is group, "groups are released in the order they were taken"
            self._queue.popleft()
