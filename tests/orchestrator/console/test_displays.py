"""What a run looks like as lines of text, in a terminal of 80 and of 120 columns, and as lines of JSON."""

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from shown_runs import STEP, show_run

from orchestrator.console import lines as lines_module
from orchestrator.console.choice import text_display
from orchestrator.console.display import Phase
from orchestrator.console.json_lines import JsonLines
from orchestrator.console.lines import FIRST_WAIT_S, ROWS, Lines
from orchestrator.console.screen import Screen
from orchestrator.console.terminal import TerminalDisplay


def as_lines(act: Callable[[Screen], None]) -> list[str]:
    """What a screen shows where there is no terminal."""
    out = io.StringIO()
    with Screen(text_display(Console(file=out, force_terminal=False, width=40))) as screen:
        act(screen)
    return out.getvalue().splitlines()


def in_terminal(width: int, act: Callable[[Screen], None]) -> str:
    """Everything that a terminal is sent, without colours, and with a line break where it moves its cursor."""
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=width, height=24, _environ={"TERM": "xterm"})
    with Screen(text_display(terminal)) as screen:
        assert isinstance(screen.displays[0], TerminalDisplay)
        act(screen)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()))


def events(act: Callable[[Screen], None]) -> list[dict[str, Any]]:
    out: list[str] = []
    with Screen(JsonLines(out.append)) as screen:
        act(screen)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    return [json.loads(line, parse_constant=refuse) for line in out]


@pytest.mark.parametrize("lag", [0, 1])
def test_without_a_terminal_each_step_is_one_line_and_a_measurement_stands_below_its_own_step(lag: int) -> None:
    lines = as_lines(lambda screen: show_run(screen, lag=lag))
    assert [line.split()[0] for line in lines[2:-2]] == [
        "step", "1/1000", "2/1000", "3/1000", "4/1000", "4/1000", "ALERT:", "5/1000", "6/1000", "7/1000",
    ]  # fmt: skip
    header, first, measured = lines[2], lines[3], lines[7]
    assert len(header) == len(first) == len(lines[8 + 1]), "columns are stable"
    assert measured.split()[:4] == ["4/1000", "held", "out", "Pass@1"]
    assert sum("held out" in line for line in lines) == 2, "held-out values are shown once, with the step they are of"


def test_the_labels_are_repeated_for_those_who_look_into_the_middle_of_a_log() -> None:
    def act(screen: Screen) -> None:
        screen.show(lambda display: display.run("demo", 1000, 0))
        for step in range(1, 2 * ROWS + 1):
            screen.show(lambda display, step=step: display.step(step, STEP, "0:10:00"))  # type: ignore[misc]

    lines = as_lines(act)
    assert [number for number, line in enumerate(lines) if " reward " in line] == [1, ROWS + 2]


def test_text_in_square_brackets_and_long_lines_are_shown_as_they_are() -> None:
    path = "/a/path/that/is/longer/than/the/forty/columns/of/the/file"
    assert as_lines(lambda screen: screen(f"run directory {path}")) == [f"run directory {path}"]
    shown = as_lines(show_run)
    assert "ALERT: retention fell: retention is [red]0.91[/red], see docs/metrics.md" in shown


def test_the_end_of_a_run_repeats_its_last_measurement() -> None:
    *_, ended, last = as_lines(show_run)
    assert re.fullmatch(r"demo ended at step 7/1000 after 0:00:0\d", ended)
    assert last.startswith("last measured: Pass@1 0.400 (+0.100)  Pass@64 0.900 (-0.080)")


@pytest.mark.parametrize("width", [80, 120])
def test_in_a_terminal_steps_stay_as_lines_that_fit_and_progress_is_shown_below(width: int) -> None:
    shown = in_terminal(width, show_run)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= width
    for step in range(1, 8):
        assert sum(line.startswith(f"   {step}/1000   0.{step}00") for line in lines) == 1
    assert any(re.match(r"demo ━*.* 6/1000  0:00:0\d elapsed, 0:0\d:\d\d left$", line) for line in lines)
    assert any("step 1: waiting for answers (3 of 8 groups are complete)" in line for line in lines)
    assert "ALERT: retention fell: retention is [red]0.91[/red]" in shown


def test_a_terminal_breaks_no_command_in_a_notice_and_breaks_an_alert_between_words() -> None:
    words = "upload with: wandb sync /a/path/that/is/longer/than/the/forty/columns/of/this/terminal"
    for level, whole in (("info", True), ("warning", True), ("alert", False)):
        shown = in_terminal(40, lambda screen, level=level: screen.show(lambda d: d.alert(level, "wandb", words)))  # type: ignore[misc]
        assert (words in shown) == whole


def test_a_terminal_shows_a_phase_while_it_goes_on_and_keeps_its_seconds() -> None:
    def act(screen: Screen) -> None:
        with screen.phase("presampling the reference", "presampled the reference", of="prompts") as phase:
            phase.began -= 2.0
            screen.progress(phase, 512, 2048)
        with screen.phase("reading nothing", "read nothing"):
            pass

    shown = in_terminal(80, act)
    assert "presampling the reference" in shown and "presampled the reference in 2.0 s" in shown
    assert "read nothing" not in shown, "what took no time leaves no line"


def test_a_terminal_without_control_sequences_gets_lines() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(text_display(terminal), Lines)


def test_without_a_terminal_a_phase_says_that_it_begins_and_how_long_it_took() -> None:
    def act(screen: Screen) -> None:
        with screen.phase("starting the roles", "started the roles") as phase:
            phase.details.append("generator 0 4.9")

    begins, ends = as_lines(act)
    assert begins == "starting the roles ..."
    assert re.fullmatch(r"started the roles in 0\.\d s \(generator 0 4\.9\)", ends)


def test_a_long_silence_is_broken_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(lines_module.time, "monotonic", lambda: now)
    written: list[str] = []
    display = Lines(written.append)
    phase = Phase("presampling the reference", "presampled", of="prompts", began=now)
    display.phase(phase)
    phase.progress = 3, 9
    for _ in range(100):
        now += 1.0
        display.tick()
    assert FIRST_WAIT_S == 10.0
    assert written[0] == "presampling the reference ..."
    assert written[1:] == [f"presampling the reference: 3 of 9 prompts, {s} s so far" for s in (10, 30, 70)]
    phase.state, phase.seconds = "ends", 100.0
    display.phase(phase)
    now += 1000.0
    display.tick()
    assert written[-1] == "presampled in 100.0 s", "nothing goes on, so there is nothing to say"


def test_what_nobody_reports_is_counted_when_it_is_shown() -> None:
    ready = [True, False]
    phase = Phase("starting learner, grader", "started the roles", of="are ready")
    assert phase.now() == "starting learner, grader"
    phase.count = lambda: (sum(ready), len(ready))
    assert phase.now() == "starting learner, grader: 1 of 2 are ready"
    ready[:] = []
    assert phase.now() == "starting learner, grader"


def test_between_steps_a_silence_is_long_only_where_the_steps_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(lines_module.time, "monotonic", lambda: now)
    written: list[str] = []
    display = Lines(written.append)
    display.run("demo", 1000, 0)
    display.step(1, STEP | {"seconds/step": 100.0}, "0:10:00")
    display.doing(2, "waiting for answers", lambda: "3 of 8 groups are complete")
    for _ in range(299):
        now += 1.0
        display.tick()
    assert len(written) == 3, "legend, labels and step 1: a step of 200 seconds is no news"
    now += 1.0
    display.tick()
    assert written[3:] == ["step 2: waiting for answers (3 of 8 groups are complete), 300 s so far"]


def test_the_bar_of_a_run_goes_when_the_run_ends() -> None:
    out = io.StringIO()
    display = text_display(Console(file=out, force_terminal=True, width=80, _environ={"TERM": "xterm"}))
    screen = Screen(display)
    show_run(screen)
    out.truncate(0)
    display.tick()
    display.close()
    assert "7/1000" not in out.getvalue()


def test_json_lines_hold_phases_steps_measurements_alerts_and_the_end() -> None:
    def act(screen: Screen) -> None:
        with screen.phase("starting the roles", "started the roles"):
            pass
        show_run(screen)
        screen.show(lambda display: display.step(8, {"reward": float("nan")}, ""))

    found = events(act)
    assert all(isinstance(event["time"], float) for event in found)
    assert [event["event"] for event in found][:5] == ["phase", "phase", "run", "measurement", "step"]
    assert [(event["phase"], event["state"]) for event in found[:2]] == [
        ("starting the roles", "begins"),
        ("starting the roles", "ends"),
    ]
    steps = [event for event in found if event["event"] == "step"]
    assert [event["step"] for event in steps] == [*range(1, 9)] and steps[3]["reward"] == 0.4
    assert steps[-1]["reward"] is None, "JSON has no NaN"
    [base, measured] = [event for event in found if event["event"] == "measurement"]
    assert base["step"] == 0 and measured["step"] == 4 and measured["heldout/pass@64"] == 0.9
    [alert] = [event for event in found if event["event"] == "alert"]
    assert (alert["level"], alert["title"]) == ("alert", "retention fell")
    [ended] = [event for event in found if event["event"] == "run_ended"]
    assert (ended["step"], ended["steps"], ended["heldout/pass@1"]) == (7, 1000, 0.4)
    assert found[-1]["event"] == "end" and found[-1]["error"] == ""


def test_json_lines_end_with_the_error_of_a_command_that_fails() -> None:
    out: list[str] = []
    with pytest.raises(ValueError), Screen(JsonLines(out.append)) as screen, screen.phase("reading", "read"):
        raise ValueError("name: must be new")
    phase, end = (json.loads(line) for line in out[-2:])
    assert (phase["event"], phase["state"]) == ("phase", "fails")
    assert (end["event"], end["error"]) == ("end", "ValueError: name: must be new")
