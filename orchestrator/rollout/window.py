"""The window: which prompts are in the pipeline. Strict FIFO by prompt, so staleness is bounded by construction."""

from collections import deque
from dataclasses import dataclass

from trajectories.trajectory import Group


@dataclass(slots=True, eq=False)
class Slot:
    """One prompt in the pipeline, from the moment it is admitted until its group is released."""

    position: int
    """Of its prompt in the train stream."""
    group: Group | None = None
    taken: bool = False


class Window:
    """At most `slots` prompts between admission and release; groups leave in the order their prompts came.

    With `slots = (lag + 1) * groups_per_step`, and slots opening only after new weights are published, no group is
    more than `lag` steps old when it is trained on.
    """

    def __init__(self, slots: int, position: int) -> None:
        self.slots = slots
        self.position = position
        """The next position of the train stream that was not looked at yet."""
        self._line: deque[Slot] = deque()

    @property
    def free(self) -> int:
        return self.slots - len(self._line)

    @property
    def resume_position(self) -> int:
        """Where the train stream continues if everything in the pipeline is lost: no group is used twice or missed."""
        return self._line[0].position if self._line else self.position

    @property
    def in_flight(self) -> int:
        """Slots whose group is not complete."""
        return sum(slot.group is None for slot in self._line)

    def admit(self, position: int) -> Slot:
        assert self.free > 0, "the window is full"
        assert position >= self.position, f"positions only grow: {position} after {self.position}"
        self.position = position + 1
        self._line.append(Slot(position))
        return self._line[-1]

    def skip(self, position: int) -> None:
        """Pass over a prompt that cannot be used."""
        assert position == self.position, f"{position} is not the next position {self.position}"
        self.position += 1

    def drop(self, slot: Slot) -> None:
        """Give up a group that was not taken; its slot is free for another prompt."""
        assert not slot.taken, "the group is being trained on"
        self._line.remove(slot)

    def ready(self, count: int) -> bool:
        """Whether the `count` oldest groups that were not taken yet are all complete."""
        waiting = [slot for slot in self._line if not slot.taken][:count]
        return len(waiting) == count and all(slot.group is not None for slot in waiting)

    def take(self, count: int) -> list[Group]:
        assert self.ready(count), f"the {count} oldest groups are not complete"
        groups = []
        for slot in [slot for slot in self._line if not slot.taken][:count]:
            slot.taken = True
            assert slot.group is not None
            groups.append(slot.group)
        return groups

    def release(self, groups: list[Group]) -> None:
        """Free the slots of groups that were taken, oldest first."""
        for group in groups:
            assert self._line and self._line[0].taken, "only groups that were taken are released"
            assert self._line[0].group is group, "groups are released in the order they were taken"
            self._line.popleft()
