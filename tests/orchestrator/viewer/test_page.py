"""The exported page: it holds what was chosen, and no text of an answer becomes markup or runs."""

import json
import re
from pathlib import Path

import pytest
from answer_lines import HOSTILE, row, write

from orchestrator.viewer import page as page_module
from orchestrator.viewer.answer_file import AnswerFile
from orchestrator.viewer.page import exported
from tests.orchestrator.browser import opened


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


def page_in_browser(tmp_path: Path, page: str, choices: str = "") -> str:
    """Return the HTML after the page's script has run in a browser."""
    (tmp_path / "page.html").write_text(page)
    return opened(f"file://{tmp_path / 'page.html'}#{choices}", tmp_path)


def shown(tmp_path: Path, page: str, choices: str = "") -> tuple[str, str]:
    """Return the title, and the HTML of the groups, after the page's script has run in a browser."""
    found = page_in_browser(tmp_path, page, choices)
    [title], [main] = re.findall("<title>(.*?)</title>", found), re.findall("<main>(.*?)</main>", found, re.DOTALL)
    return title, main


@pytest.mark.slow
def test_in_a_browser_hostile_texts_are_shown_and_do_not_run(tmp_path: Path) -> None:
    title, main = shown(tmp_path, hostile_page(tmp_path))
    assert title.startswith("Answers of run") and main.count('class="sampled') == 3
    assert "<img" not in main and "<script" not in main and "&lt;/script&gt;" in main
    assert "⟨U+202E⟩desrever⟨U+2066⟩" in main and "⟨U+001B⟩[31m" in main and "\u202e" not in main


@pytest.mark.slow
def test_in_a_browser_the_address_chooses_answers_and_colour(tmp_path: Path) -> None:
    rows = [row(1), row(2, reward=0.0, status="wrong"), row(3, reward=None, status="grader_error"), row(3, 1)]
    page = exported("run", read(write(tmp_path / "a.jsonl", *rows)), [0, 1, 2, 3])
    _, main = shown(tmp_path, page, "status=wrong&colour=logp")
    assert main.count('class="sampled') == 1 and "Step 2" in main and main.count("background: color-mix") == 3
    _, main = shown(tmp_path, page, "step_low=3&reward_low=1&colour=none")
    assert main.count('class="sampled right"') == main.count('class="sampled') == 1 and "color-mix" not in main


@pytest.mark.slow
def test_in_a_browser_each_group_says_how_many_of_its_answers_were_recorded(tmp_path: Path) -> None:
    rows = [row(1, group_size=16), row(2, 0, group_size=16), row(2, 1, group_size=16, reward=0.0), row(3)]
    page = exported("run", read(write(tmp_path / "a.jsonl", *rows)), [0, 1, 2, 3])
    _, main = shown(tmp_path, page)
    for words in ("1 of 16 answers recorded · 1 right", "2 of 16 answers recorded · 1 right", "1 answer recorded"):
        assert words in main, words
    _, main = shown(tmp_path, page, "reward_low=1")
    assert "2 of 16 answers recorded · 1 shown · 1 right" in main


COLUMNS = {
    "count": 3,
    "texts": ["a", "b", "c"],
    "entropy": [1.0, 2.0, 0.0],
    "logp_sampler": [-1.0, -4.0, 0.0],
    "divergence": [2.0, -1.0, None],
    "advantage": [-5.0, 1.0, 0.0],
    "mismatch": [None, 0.25, -1.0],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("colour", "strengths", "ends"),
    [
        ("entropy", ["above 50", "above 100", "above 0"], ["0", "2"]),
        ("logp", ["above 25", "above 100", "above 0"], ["0", "4"]),
        ("divergence", ["above 100", "below 50", ""], ["-2", "2"]),
        ("advantage", ["below 100", "above 20", "above 0"], ["-5", "5"]),
        ("mismatch", ["", "above 25", "below 100"], ["-1", "1"]),
        ("staleness", ["above 100", "", "above 50"], ["0", "2"]),  # weights 2, an unknown version, and 3, at step 5
    ],
)
def test_in_a_browser_each_token_has_the_colour_of_its_value(
    tmp_path: Path, colour: str, strengths: list[str], ends: list[str]
) -> None:
    path = write(tmp_path / "a.jsonl", row(5, tokens=COLUMNS, first_version=2, last_version=3))
    dom = page_in_browser(tmp_path, exported("run", read(path), [0]), f"colour={colour}")
    tokens = re.findall(r'(<span[^>]*data-i="\d"[^>]*>)', dom)
    painted = [re.findall(r"var\(--(\w+)\) (\d+)%", token) for token in tokens]
    assert [" ".join(found[0]) if found else "" for found in painted] == strengths
    [legend] = re.findall(r'class="legend">(.*?)<i .*?</i>(.*?)</span>', dom)
    assert list(legend) == ends


@pytest.mark.slow
@pytest.mark.parametrize("words", ["TRAIN/2", "needle"])
def test_in_a_browser_problems_are_found_by_their_name_and_their_text(tmp_path: Path, words: str) -> None:
    rows = [row(1), row(2, prompt="find the Needle:"), row(3)]
    _, main = shown(tmp_path, exported("run", read(write(tmp_path / "a.jsonl", *rows)), [0, 1, 2]), f"problem={words}")
    assert main.count('class="sampled') == 1 and "Step 2" in main
