"""The window in every order of events: no group lost or used twice, staleness at most the lag, exact resume."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.rollout.window import Slot, Window
from trajectories.trajectory import Group, Prompt


def group(position: int) -> Group:
    return Group(prompt=Prompt(id=str(position), position=position, text="", verifier="", problem={}))


@settings(max_examples=100, deadline=None)
@given(lag=st.integers(0, 3), per_step=st.integers(1, 4), steps=st.integers(1, 8), data=st.data())
def test_groups_leave_in_order_once_each_and_never_older_than_the_lag(
    lag: int, per_step: int, steps: int, data: st.DataObject
) -> None:
    window = Window((lag + 1) * per_step, position=0)
    in_flight: dict[int, Slot] = {}
    admitted_at: dict[int, int] = {}
    seen: list[int] = []
    skipped: set[int] = set()
    for version in range(steps):
        while window.free:
            if data.draw(st.booleans()) and len(skipped) < 20:
                skipped.add(window.position)
                window.skip(window.position)
                continue
            position = window.position
            in_flight[position] = window.admit(position)
            admitted_at[position] = version
        while not window.ready(per_step):
            position = data.draw(st.sampled_from(sorted(in_flight)))
            in_flight.pop(position).group = group(position)
        taken = window.take(per_step)
        assert all(version - admitted_at[g.prompt.position] <= lag for g in taken)
        seen += [g.prompt.position for g in taken]
        assert window.resume_position == taken[0].prompt.position
        window.release(taken)
        assert window.trained == []
    assert seen == [p for p in range(seen[-1] + 1) if p not in skipped]
    assert window.resume_position > seen[-1]


class AnyOrderRun:
    """A run whose groups complete, are dropped and are skipped in an order that hypothesis draws."""

    def __init__(self, lag: int, per_step: int, data: st.DataObject) -> None:
        self.lag, self.per_step, self.data = lag, per_step, data
        self.seen: list[int] = []
        """Positions that were trained on, in order."""
        self.gone: set[int] = set()
        """Positions that were skipped or dropped."""
        self.begin(0, [])

    def begin(self, position: int, trained: list[int]) -> None:
        """Begin, or go on from a checkpoint, with an empty window."""
        self.window = Window(self.lag * self.per_step, position, self.lag, trained)
        self.in_flight: dict[int, tuple[Slot, int]] = {}
        self.version = 0

    def fill(self) -> None:
        while self.window.free:
            position = self.window.position
            assert position not in self.seen
            if position in self.gone or (len(self.gone) < 20 and self.data.draw(st.integers(0, 4)) == 0):
                self.gone.add(position)
                self.window.skip(position)
            else:
                self.in_flight[position] = (self.window.admit(position), self.version)

    def complete(self) -> None:
        """Complete one group, or drop it and admit another one at once."""
        position = self.data.draw(st.sampled_from(sorted(p for p, (s, _) in self.in_flight.items() if not s.group)))
        slot, _ = self.in_flight[position]
        if len(self.gone) < 20 and self.data.draw(st.integers(0, 4)) == 0:
            self.gone.add(position)
            self.window.drop(slot)
            del self.in_flight[position]
            self.fill()
        else:
            slot.group = group(position)

    def step(self) -> None:
        self.fill()
        while not self.window.ready(self.per_step):
            self.complete()
        taken = self.window.take(self.per_step)
        for _ in range(self.data.draw(st.integers(0, 3))):  # while the learner works
            if any(slot.group is None for slot, _ in self.in_flight.values()):
                self.complete()
        for g in taken:
            _, admitted = self.in_flight.pop(g.prompt.position)
            assert self.version - admitted <= self.lag
            self.seen.append(g.prompt.position)
        self.window.release(taken)
        self.version += 1


@settings(max_examples=150, deadline=None)
@given(lag=st.integers(2, 4), per_step=st.integers(1, 4), data=st.data())
def test_in_any_order_groups_leave_once_each_never_older_than_the_lag_and_resume_is_exact(
    lag: int, per_step: int, data: st.DataObject
) -> None:
    run = AnyOrderRun(lag, per_step, data)
    for _ in range(8):
        run.step()
        if data.draw(st.booleans()):  # the run is killed, and goes on from the checkpoint of this step
            position, trained = run.window.resume_position, run.window.trained
            used = set(run.seen) | run.gone
            assert set(run.seen) == {p for p in range(position) if p not in run.gone} | set(trained)
            run.begin(position, trained)
            run.fill()
            assert not set(run.in_flight) & used
    assert len(run.seen) == len(set(run.seen)) == 8 * per_step
    oldest = run.window.resume_position
    assert {p for p in range(oldest) if p not in run.gone} <= set(run.seen), "no position is lost"


def test_in_any_order_a_slow_group_is_passed_until_it_would_become_older_than_the_lag() -> None:
    window = Window(4, position=0, lag=2)
    taken = []
    for _ in range(3):
        while window.free:
            slot = window.admit(window.position)
            if slot.position > 0:
                slot.group = group(slot.position)
            else:
                slow = slot
        if not window.ready(2):
            break
        groups = window.take(2)
        taken += [g.prompt.position for g in groups]
        window.release(groups)
    assert taken == [1, 2, 3, 4], "two steps without it, although the window is always full"
    assert (window.resume_position, window.trained) == (0, [1, 2, 3, 4])
    slow.group = group(0)
    assert [g.prompt.position for g in window.take(2)] == [0, 5]


def test_in_any_order_no_more_slow_groups_are_passed_than_later_steps_can_take() -> None:
    window = Window(4, position=0, lag=2)
    slots = [window.admit(position) for position in range(4)]
    for slot in slots[2:]:
        slot.group = group(slot.position)
    window.release(window.take(2))
    for position in (4, 5):
        window.admit(position).group = group(position)
    slots[0].group = group(0)
    assert window.ready(2), "0 and 4 leave 1 and 5, and 1 is due at the next step"
    window.release(window.take(2))
    for position in (6, 7):
        window.admit(position).group = group(position)
    assert not window.ready(2), "1 is due"


def test_a_full_window_admits_nothing_and_order_of_release_is_checked() -> None:
    window = Window(2, position=5)
    first, second = window.admit(5), window.admit(6)
    with pytest.raises(AssertionError, match="full"):
        window.admit(7)
    second.group = group(6)
    assert not window.ready(1), "the oldest is not complete"
    first.group = group(5)
    taken = window.take(2)
    with pytest.raises(AssertionError, match="order"):
        window.release(taken[::-1])
    window.release(taken)
    assert window.free == 2
    assert window.resume_position == 7
