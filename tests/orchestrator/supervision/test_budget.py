"""The restarts of one process: bounded within a window, each after a longer wait."""

from orchestrator.supervision.budget import LONGEST_DELAY_S, Budget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_restarts_within_the_window_are_bounded_and_each_waits_twice_as_long() -> None:
    clock = Clock()
    budget = Budget(3, 100.0, 1.0, clock)
    assert [budget.take() for _ in range(5)] == [1.0, 2.0, 4.0, None, None]


def test_a_restart_counts_no_more_when_the_window_has_passed_since() -> None:
    clock = Clock()
    budget = Budget(2, 100.0, 1.0, clock)
    assert budget.take() == 1.0
    clock.now = 60.0
    assert budget.take() == 2.0
    clock.now = 99.0
    assert budget.take() is None
    clock.now = 100.0
    assert budget.take() == 2.0, "the restart at 60 s is within the window, that at 0 s is not"
    clock.now = 159.0
    assert budget.take() is None


def test_no_wait_is_longer_than_the_longest() -> None:
    budget = Budget(20, 1e6, 1.0, Clock())
    assert [budget.take() for _ in range(10)][-1] == LONGEST_DELAY_S
