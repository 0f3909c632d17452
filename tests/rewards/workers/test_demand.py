"""The number of workers of a user verifier, chosen from its measured calls."""

import pytest

from rewards.workers.demand import LARGE, MOST, Demand


@pytest.mark.parametrize(
    ("cpu", "starved", "workers"),
    [
        (0.05, 0.0, 2),  # computes all the time: one for each core
        (0.025, 0.0, 4),  # half of the time: 2 cores / 0.5
        (0.0101, 0.0, 10),  # 2 / 0.202 = 9.9
        (0.0, 0.0, MOST),  # only waits
        (0.0125, 0.025, 4),  # waited 0.0125 s for something else than a core, as long as it computed
        (0.01, 0.04, 2),  # waited for nothing but a core: more workers would wait too
    ],
)
def test_a_verifier_gets_as_many_workers_as_keep_the_cores_busy(cpu: float, starved: float, workers: int) -> None:
    demand = Demand()
    assert demand.workers(cores=2) == 1, "nothing is known before the first call"
    for _ in range(10):
        demand.add(0.05, cpu, starved, rss=2**26)
    assert demand.workers(cores=2) == workers


def test_many_cores_are_all_used_and_a_large_worker_is_not_multiplied() -> None:
    demand = Demand()
    demand.add(0.05, 0.05, 0.0, rss=2**26)
    assert demand.workers(cores=64) == 64
    demand.add(0.05, 0.05, 0.0, rss=LARGE + 1)
    assert demand.workers(cores=64) == 1


@pytest.mark.parametrize(("seconds", "calls"), [(0.0005, 10), (0.004, 1), (0.05, 1)])
def test_a_batch_has_as_many_calls_as_take_five_milliseconds(seconds: float, calls: int) -> None:
    demand = Demand()
    assert demand.batch() == 1, "nothing is known before the first call"
    demand.add(seconds, seconds / 2, 0.0, rss=2**26)
    assert demand.batch() == calls


def test_a_first_call_may_take_twice_as_long_as_the_longest_one_so_far() -> None:
    demand = Demand()
    assert demand.first_limit_s(300.0) == 300.0
    demand.add_first(20.0)
    demand.add_first(10.0)
    assert demand.first_limit_s(300.0) == 40.0
    assert demand.first_limit_s(30.0) == 30.0
