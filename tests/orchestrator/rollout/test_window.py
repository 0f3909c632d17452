"""The window in every order of events: FIFO, no group lost or used twice, staleness at most the lag."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.rollout.window import Slot, Window
from trajectories.trajectory import Group, Prompt


def group(position: int) -> Group:
    return Group(prompt=Prompt(id=str(position), position=position, text="", verifier="", problem={}))


@settings(max_examples=200, deadline=None)
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
    assert seen == [p for p in range(seen[-1] + 1) if p not in skipped]
    assert window.resume_position > seen[-1]


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
