"""When references are updated, and with which mixing weights."""

from fractions import Fraction

import pytest

from configs.references import ReferenceConfig
from orchestrator.references import ReferenceSchedule


def weights_after(reference: ReferenceConfig, *steps: int) -> dict[int, float]:
    """Return the mixing weight after each of these steps that updates the reference."""
    schedule = ReferenceSchedule({"slow": reference}, {})
    updates = {step: schedule.after(step, {}) for step in steps}
    return {step: update["slow"] for step, update in updates.items() if update}


def test_a_periodic_reference_has_its_mixing_weight_at_every_interval() -> None:
    periodic = ReferenceConfig(update="periodic", every=3, mixing_weight=0.4)
    assert weights_after(periodic, *range(1, 10)) == {3: 0.4, 6: 0.4, 9: 0.4}


def test_the_weight_of_an_average_falls_as_1_over_n_plus_1_until_the_number_of_iterates() -> None:
    average = ReferenceConfig(update="average", every=2, iterates=4)
    assert weights_after(average, *range(1, 13)) == {2: 1 / 2, 4: 1 / 3, 6: 1 / 4, 8: 1 / 4, 10: 1 / 4, 12: 1 / 4}


def test_an_average_of_one_iterate_copies_the_policy() -> None:
    assert weights_after(ReferenceConfig(update="average", iterates=1), 1, 2, 3) == {1: 1.0, 2: 1.0, 3: 1.0}


def test_iterates_enter_with_equal_weights_and_later_ones_exponentially() -> None:
    average = ReferenceConfig(update="average", iterates=4)
    shares = [Fraction(1)]  # Weight of each iterate in the reference, the start first.
    after = {}
    for step, weight in weights_after(average, *range(1, 6)).items():
        new = Fraction(weight).limit_denominator(100)
        shares = [share * (1 - new) for share in shares] + [new]
        after[step] = shares
    assert after[3] == [Fraction(1, 4)] * 4
    # 3/4 of the weights before, and 1/4 for the newest: 3/16 (4 times), 1/4; then 9/64 (4 times), 3/16, 1/4.
    assert after[4] == [Fraction(3, 16)] * 4 + [Fraction(1, 4)]
    assert after[5] == [Fraction(9, 64)] * 4 + [Fraction(3, 16), Fraction(1, 4)]


@pytest.mark.parametrize("resumed_at", [1, 2, 5, 8])
def test_a_resumed_schedule_goes_on_with_the_weights_of_one_that_was_not_ended(resumed_at: int) -> None:
    average = ReferenceConfig(update="average", every=2, iterates=4)
    first = ReferenceSchedule({"slow": average}, {})
    updates = [first.after(step, {"kl_slow": 0.1}) for step in range(1, resumed_at + 1)]
    second = ReferenceSchedule({"slow": average}, dict(first.drift))
    updates += [second.after(step, {"kl_slow": 0.1}) for step in range(resumed_at + 1, 13)]
    whole = ReferenceSchedule({"slow": average}, {})
    assert updates == [whole.after(step, {"kl_slow": 0.1}) for step in range(1, 13)]
    assert second.drift == whole.drift
