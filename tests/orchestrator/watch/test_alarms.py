"""Alarms: each is raised when its condition begins, and not again before it has ended."""

import math
from pathlib import Path

from logbook_runs import events, open_logbook

from orchestrator.watch.alarms import Alarms


def titles(alarms: Alarms, *steps: dict[str, float]) -> list[list[str]]:
    return [[title for title, _ in alarms.observe(values)] for values in steps]


def step(**values: float) -> dict[str, float]:
    return {"reward": 0.5, "reward_std": 0.1, "truncated": 0.0, **values}


def test_rewards_of_0_in_five_steps_are_reported_once_until_one_is_rewarded() -> None:
    silent = step(reward=0.0, reward_std=0.0)
    found = titles(Alarms(), *[silent] * 7, step(), *[silent] * 5)
    assert [i for i, names in enumerate(found) if names == ["all rewards are 0"]] == [4, 12]
    assert sum(map(len, found)) == 2


def test_rewards_whose_mean_is_0_but_which_differ_are_no_alarm() -> None:
    assert titles(Alarms(), *[step(reward=0.0, reward_std=1.0)] * 7) == [[]] * 7


def test_steps_of_which_nothing_was_graded_have_no_reward_and_count_as_none() -> None:
    assert titles(Alarms(), *[{"truncated": 0.0, "masked": 8.0}] * 5)[-1] == ["all rewards are 0"]


def test_mostly_truncated_answers_in_three_steps_are_reported() -> None:
    found = titles(Alarms(), step(truncated=0.9), step(truncated=0.2), *[step(truncated=0.6)] * 4)
    assert found == [[], [], [], [], ["most answers are truncated"], []]


def test_an_entropy_below_a_tenth_of_the_first_steps_is_reported() -> None:
    found = titles(Alarms(), *[{"entropy": 1.0}] * 5, {"entropy": 0.11}, {"entropy": math.nan}, {"entropy": 0.09})
    assert found == [[]] * 7 + [["entropy collapsed"]]


def measured(retention: float, high: float, change: float, change_high: float) -> dict[str, float]:
    return {
        "heldout/entropy": 1.0,
        "heldout/retention": retention,
        "heldout/retention/high": high,
        "heldout/change/pass@1": 0.1,
        "heldout/change/pass@1/low": 0.0,
        "heldout/change/pass@1/high": 0.2,
        "heldout/change/pass@16": change,
        "heldout/change/pass@16/low": change - 0.1,
        "heldout/change/pass@16/high": change_high,
    }


def test_lost_solutions_are_reported_only_where_the_whole_interval_shows_them() -> None:
    alarms = Alarms()
    found = titles(
        alarms,
        measured(1.0, 1.0, 0.0, 0.0),
        measured(0.85, 0.95, -0.1, 0.01),
        measured(0.7, 0.8, -0.2, -0.05),
        measured(0.6, 0.7, -0.3, -0.2),
        measured(math.nan, math.nan, math.nan, math.nan),
        measured(0.6, 0.7, 0.0, 0.2),
    )
    assert found == [[], [], ["retention fell", "Pass@k fell"], [], [], ["retention fell"]]
    [(_, text)] = Alarms().observe(measured(1.0, 1.0, -0.2, -0.05))
    assert text == "Pass@16 changed by -0.200 (-0.300 to -0.050) since the base: solutions are lost"


def test_the_logbook_writes_alarms_as_events(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path)
    for number in range(1, 8):
        logbook.write(number, step(reward=0.0, reward_std=0.0))
    logbook.close()
    [event] = events(tmp_path)
    assert event["level"] == "alert" and event["title"] == "all rewards are 0"


def test_a_resumed_run_raises_again_only_the_alarms_that_had_ended(tmp_path: Path) -> None:
    lost, kept = measured(0.6, 0.7, 0.0, 0.2), measured(0.95, 0.97, 0.0, 0.2)
    logbook = open_logbook(tmp_path)
    logbook.write(1, step(entropy=math.nan))
    logbook.write(1, lost)
    logbook.close()
    for number, values in ((2, lost), (3, kept), (4, lost)):
        logbook = open_logbook(tmp_path, resume_step=number - 1)
        logbook.write(number, values)
        logbook.close()
    assert [event["title"] for event in events(tmp_path)] == ["retention fell"] * 2
    assert "null" in (tmp_path / "metrics.jsonl").read_text(), "a value that is none is read back as none"
