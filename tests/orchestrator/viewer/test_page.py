"""The exported page: it holds what was chosen, and no text of an answer becomes markup or runs."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from answer_lines import HOSTILE, row, write

from orchestrator.viewer import page as page_module
from orchestrator.viewer.answer_file import AnswerFile
from orchestrator.viewer.page import exported

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=4000 --dump-dom"
)


def read(path: Path) -> AnswerFile:
    answers = AnswerFile(path)
    answers.refresh()
    return answers


def hostile_page(tmp_path: Path) -> str:
    fields = dict.fromkeys(("prompt", "rendered", "reason", "status", "route", "verifier"), HOSTILE[0] + HOSTILE[2])
    rows = [
        row(1),
        row(2, texts=HOSTILE, reward=0.0, prompt_id=HOSTILE[1], **fields),
        row(3, tokens={}, answer=HOSTILE[1]),
    ]
    return exported(f"run {HOSTILE[0]}", read(write(tmp_path / "a.jsonl", *rows)), [0, 1, 2])


def test_the_page_is_one_ascii_data_block_that_no_text_can_end(tmp_path: Path) -> None:
    page = hostile_page(tmp_path)
    assert page.count("</script>") == 2 and "<img" not in page
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found.isascii()
    data = json.loads(found)
    assert data["rows"][1]["tokens"]["texts"][0] == HOSTILE[0] and len(data["answers"]) == 3
    assert not re.search(r"https?://", page)


def test_the_newest_answers_that_have_room_are_exported_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = read(write(tmp_path / "a.jsonl", *map(row, range(6))))
    monkeypatch.setattr(page_module, "EXPORT_LIMIT", 2 * len(json.dumps(answers.answer(0))) + 10)
    page = exported("run", answers, [0, 2, 4, 5])
    [found] = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(found)
    assert [each["step"] for each in data["rows"]] == [4, 5] == [each[0] for each in data["answers"]]
    assert data["left_out"] == 2


def shown(tmp_path: Path, page: str, choices: str = "") -> tuple[str, str]:
    """The title, and the HTML of the groups, after the page's script has run in a browser."""
    (tmp_path / "page.html").write_text(page)
    words = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={tmp_path / 'browser'}"]
    address = f"file://{tmp_path / 'page.html'}#{choices}"
    found = subprocess.run([*words, address], capture_output=True, text=True, timeout=120).stdout
    [title], [main] = re.findall("<title>(.*?)</title>", found), re.findall("<main>(.*?)</main>", found, re.DOTALL)
    return title, main


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_in_a_browser_hostile_texts_are_shown_and_do_not_run(tmp_path: Path) -> None:
    title, main = shown(tmp_path, hostile_page(tmp_path))
    assert title.startswith("Answers of run") and main.count('class="sampled') == 3
    assert "<img" not in main and "<script" not in main and "&lt;/script&gt;" in main
    assert "⟨U+202E⟩desrever⟨U+2066⟩" in main and "⟨U+001B⟩[31m" in main and "\u202e" not in main


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_in_a_browser_the_address_chooses_answers_and_colour(tmp_path: Path) -> None:
    rows = [row(1), row(2, reward=0.0, status="wrong"), row(3, reward=None, status="grader_error"), row(3, 1)]
    page = exported("run", read(write(tmp_path / "a.jsonl", *rows)), [0, 1, 2, 3])
    _, main = shown(tmp_path, page, "status=wrong&colour=logp")
    assert main.count('class="sampled') == 1 and "Step 2" in main and main.count("background: color-mix") == 3
    _, main = shown(tmp_path, page, "step_low=3&reward_low=1&colour=none")
    assert main.count('class="sampled right"') == main.count('class="sampled') == 1 and "color-mix" not in main


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_in_a_browser_each_group_says_how_many_of_its_answers_were_recorded(tmp_path: Path) -> None:
    rows = [row(1, group_size=16), row(2, 0, group_size=16), row(2, 1, group_size=16, reward=0.0), row(3)]
    page = exported("run", read(write(tmp_path / "a.jsonl", *rows)), [0, 1, 2, 3])
    _, main = shown(tmp_path, page)
    for words in ("1 of 16 answers recorded · 1 right", "2 of 16 answers recorded · 1 right", "1 answer recorded"):
        assert words in main, words
    _, main = shown(tmp_path, page, "reward_low=1")
    assert "2 of 16 answers recorded · 1 shown · 1 right" in main
