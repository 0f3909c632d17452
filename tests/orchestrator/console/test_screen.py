"""The screen: a display that fails ends nothing, and everything that is shown is kept in a file of the run."""

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from shown_runs import show_run

from orchestrator.console import run_console
from orchestrator.console.libraries import keep_output, logs_kept
from orchestrator.console.lines import Lines
from orchestrator.console.record import BUFFERED_LINES, CONSOLE_LOG, Record
from orchestrator.console.run_console import RunConsole
from orchestrator.console.screen import Screen


def test_a_display_that_fails_is_left_out_and_the_others_go_on() -> None:
    def closed(text: str) -> None:
        raise BrokenPipeError

    written: list[str] = []
    screen = Screen(Lines(closed), Lines(written.append))
    for text in ("one", "two"):
        screen(text)
    assert written == ["one", "two"]
    assert isinstance(screen.error, BrokenPipeError) and len(screen.displays) == 1


def test_a_function_serves_as_a_screen_and_a_screen_as_itself() -> None:
    written: list[str] = []
    screen = Screen.of(written.append)
    with screen.phase("reading", "read"):
        screen("a line")
    assert written[:2] == ["reading ...", "a line"] and re.fullmatch(r"read in 0\.\d s", written[2])
    assert Screen.of(screen) is screen


def test_a_phase_that_fails_is_not_said_to_be_done() -> None:
    written: list[str] = []
    screen = Screen(Lines(written.append))
    try:
        with screen.phase("reading", "read"):
            raise ValueError
    except ValueError:
        pass
    assert written == ["reading ..."]


def test_the_file_of_a_run_holds_what_was_shown_before_and_after_it_was_made(tmp_path: Path) -> None:
    shown: list[str] = []
    screen = Screen(Lines(shown.append), Record())
    screen("run directory runs/demo")
    screen.keep(tmp_path)
    show_run(screen)
    screen.note("a library's warning\nof two lines")
    kept = (tmp_path / CONSOLE_LOG).read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in kept)
    texts = [line[20:] for line in kept]
    assert texts == [*(line for text in shown for line in text.splitlines()), "a library's warning", "of two lines"]


def test_lines_before_there_is_a_file_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    screen = Screen(Record())
    for number in range(BUFFERED_LINES + 5):
        screen.note(f"line {number}")
    screen.keep(tmp_path)
    kept = (tmp_path / CONSOLE_LOG).read_text().splitlines()
    assert len(kept) == BUFFERED_LINES and kept[0].endswith(" line 5")


def test_a_run_that_was_refused_before_its_first_values_shows_no_end() -> None:
    written: list[str] = []
    measured = {"heldout/pass@1": 0.4}
    RunConsole(Screen(Lines(written.append)), run_name="demo", total_steps=9, first_step=4, measured=measured).close()
    assert written == []


def test_the_time_left_counts_from_the_first_wait_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    clock = iter([0.0, 100.0, 110.0, 120.0])  # made, 100 s later the first wait, and two steps of 10 s
    screen = Screen(Lines(written.append))
    monkeypatch.setattr(run_console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    console = RunConsole(screen, run_name="demo", total_steps=9, first_step=0)
    for step in (1, 2):
        console.doing("wait_generation", lambda: "")
        console.write(step, {"reward": 0.5})
    assert [line.split()[-1] for line in written[-2:]] == ["0:01:20", "0:01:10"]


def test_without_a_measured_base_no_change_is_shown() -> None:
    written: list[str] = []
    console = RunConsole(Screen(Lines(written.append)), run_name="demo", total_steps=9, first_step=4)
    console.write(5, {"heldout/pass@1": 0.4})
    console.write(6, {"heldout/pass@1": 0.5})
    console.close()
    assert written[1] == " 6/9  held out  Pass@1 0.500" and "(" not in "".join(written)


def test_warnings_of_libraries_are_kept_off_the_screen_and_their_errors_are_shown(tmp_path: Path) -> None:
    shown: list[str] = []
    screen = Screen(Lines(shown.append), Record())
    screen.keep(tmp_path)
    log = logging.getLogger("a.library")
    with logs_kept(screen):
        log.warning("harmless [x]")
        log.error("broken")
    handlers = [handler for handler in logging.root.handlers if "console" in type(handler).__module__]
    assert shown == ["a.library ERROR: broken"] and handlers == []
    texts = [line[20:] for line in (tmp_path / CONSOLE_LOG).read_text().splitlines()]
    assert texts == ["a.library WARNING: harmless [x]", "a.library ERROR: broken"]


def test_what_workers_print_is_kept_with_their_names_and_off_the_screen(tmp_path: Path) -> None:
    shown: list[str] = []
    screen = Screen(Lines(shown.append), Record())
    screen.keep(tmp_path)
    role = {"pid": 7, "ip": "10.0.0.1", "actor_name": "VllmGenerator"}
    keep_output(screen, role | {"lines": ["", "loading\rready"]})
    keep_output(screen, {"lines": [], "pid": 8, "ip": "10.0.0.1"})
    keep_output(screen, {"lines": ["Autoscaler status:"], "pid": "autoscaler", "ip": "10.0.0.1"})
    texts = [line[20:] for line in (tmp_path / CONSOLE_LOG).read_text().splitlines()]
    assert texts == [f"(VllmGenerator pid=7 ip=10.0.0.1) {text}" for text in ("loading", "ready")] and not shown


def test_a_file_that_cannot_be_written_is_reported_and_the_steps_go_on(tmp_path: Path) -> None:
    shown: list[str] = []
    screen = Screen(Lines(shown.append), Record())
    (tmp_path / CONSOLE_LOG).mkdir()
    screen.keep(tmp_path)
    show_run(screen)
    assert shown[0].startswith("warning: console.log is no longer written: ") and "7/1000" in shown[-2]


def test_a_run_whose_directory_is_removed_again_writes_no_file(tmp_path: Path) -> None:
    shown: list[str] = []
    screen = Screen(Lines(shown.append), Record())
    folder = tmp_path / "run"
    folder.mkdir()
    screen.keep(folder)
    shutil.rmtree(folder)
    screen("refused")
    assert shown == ["refused"] and not folder.exists()
