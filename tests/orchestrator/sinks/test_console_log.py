"""Reading console.log while it grows: whole lines, each once, from where a command begins."""

import shutil
from pathlib import Path

import pytest

from orchestrator.console.record import Record
from orchestrator.console.screen import Screen
from orchestrator.sinks import console_log
from orchestrator.sinks.console_log import ConsoleLog


def test_each_line_is_returned_once_and_a_half_written_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = ConsoleLog(path, 0)
    assert log.new_lines() == "", "there is no file yet"
    path.write_bytes(b"first\nsec")
    assert (log.new_lines(), log.new_lines()) == ("first\n", "")
    with path.open("ab") as file:
        file.write(b"ond \xff\n")
    assert (log.new_lines(), log.new_lines()) == ("second \ufffd\n", "")


def test_a_line_longer_than_a_chunk_is_returned_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_log, "CHUNK", 4)
    path = tmp_path / "console.log"
    path.write_text("a\n0123456789\n")
    log = ConsoleLog(path, 0)
    assert [log.new_lines() for _ in range(5)] == ["a\n", "0123", "4567", "89\n", ""]


def test_a_command_that_continues_a_run_begins_behind_the_lines_of_the_one_before(tmp_path: Path) -> None:
    for text in ("before", "after"):
        screen = Screen(Record())
        screen.note(text)
        screen.keep(tmp_path)
        lines = ConsoleLog(tmp_path / "console.log", screen.kept_from()).new_lines()
        assert lines.endswith(f" {text}\n") and len(lines.splitlines()) == 1


def test_a_log_that_cannot_be_read_at_the_moment_is_no_error_and_is_read_later(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = ConsoleLog(path, 0)
    path.mkdir()
    (path / "file").touch()
    assert log.new_lines() == ""
    shutil.rmtree(path)
    path.write_text("first\n")
    assert log.new_lines() == "first\n"
