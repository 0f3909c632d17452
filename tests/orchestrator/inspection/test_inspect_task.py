"""`breadth inspect-task`: the tables, the report and its numbers, and wrong settings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.cli import main
from tests.orchestrator.in_process import SMALL

WORDS = ("plum", "fig", "pear", "lime", "date", "kiwi", "nut", "corn")
SETTINGS = [*SMALL, "task.heldout_prompts=12", "inspect_task.prompts=40", "sampling.max_prompt_tokens=64"]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(path: str, texts: list[str]) -> str:
    Path(path).write_text("".join(json.dumps({"prompt": text, "answer": "1"}) + "\n" for text in texts))
    return path


def questions(first: int, count: int) -> list[str]:
    """Questions that differ in a number and in words."""
    return [
        f"Q: add {n} to {WORDS[n % 8]} and {WORDS[n // 8 % 8]} {n * n % 7}? A:" for n in range(first, first + count)
    ]


def inspected(policy: Path, *words: str) -> dict[str, Any]:
    assert main(["inspect-task", f"policy.path={policy}", *SETTINGS, *words, "--output", "out/task.html"]) == 0
    found: dict[str, Any] = json.loads(Path("out/task.json").read_text())
    return found


def pair(found: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    [pair] = [pair for pair in found["pairs"] if (pair["set"], pair["against"]) == (one, other)]
    return dict(pair)


def test_a_synthetic_task_has_no_copies_across_and_is_like_itself(
    tiny_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspected(tiny_policy)
    assert list(found["sets"]) == ["train", "heldout"] and len(found["pairs"]) == 2
    assert [found["sets"][name]["prompts"] for name in found["sets"]] == [40, 12]
    between = pair(found, "heldout", "train")
    assert between["duplicates"]["exact"] == 0 and between["novelty"]["word"] == "alike"
    assert between["novelty"]["divergence"]["prompts"] == 6
    assert found["sets"]["train"]["diversity"]["prompts"] == found["sets"]["heldout"]["diversity"]["prompts"] == 6
    page = Path("out/task.html").read_text()
    out = capsys.readouterr().out
    copies = "0 of 12 held-out prompts are equal to one of 40 train prompts, 0 more are nearly equal to one."
    for words in (copies, "Not shown: their KL divergence", "Not shown. The contamination score of a held-out prompt"):
        assert words in page and words in out
    assert page.count('<svg viewBox="0 0 400 280" role="img"') == 2
    assert inspected(tiny_policy) == found


def test_copies_other_sets_and_the_template_are_reported(tiny_policy: Path) -> None:
    train, heldout = questions(0, 30), questions(100, 12)
    heldout[3] = train[7].replace("?", "!")  # nearly equal
    others = [*train[:5], *(f"Q: {n} ** {n * 3} % {n + 5} // {n}! A:" for n in range(20)), heldout[4]]
    found = inspected(
        tiny_policy,
        "task.name=dataset",
        f"task.options.path={rows('train.jsonl', [*train, train[2]])}",
        f"task.options.heldout_path={rows('heldout.jsonl', heldout)}",
        f"inspect_task.others.exam.options.path={rows('exam.jsonl', others)}",
    )
    sets = found["sets"]
    assert [sets[name]["prompts"] for name in ("train", "heldout", "exam")] == [31, 12, 26]
    assert (sets["train"]["distinct"], sets["train"]["duplicates"]["exact"]) == (30, 2)
    assert pair(found, "exam", "train")["duplicates"]["exact"] == 5
    assert pair(found, "train", "exam")["duplicates"]["exact"] == 6  # one row is there twice
    [copy] = [pair for pair in pair(found, "heldout", "exam")["duplicates"]["pairs"] if pair["similarity"] == 1]
    assert copy["prompt"].endswith("/line-5") and copy["copy_of"].endswith("/line-26")
    [near] = [copy for copy in pair(found, "heldout", "train")["duplicates"]["pairs"] if copy["copy_of"].endswith("-8")]
    assert near["prompt"].endswith("/line-4") and near["similarity"] > 0.8
    assert any(fact.startswith("all prompts begin with the same 3 ") for fact in found["about"])
    page = Path("out/task.html").read_text()
    assert "Duplicates of heldout in train: 1 of 1" in page and "Duplicates within train: 2 of 2" in page
    assert re.search(r"higher than that of a prompt of train 0\.\d\d \(.*\), of exam 0\.\d\d \(", page)


def test_sets_that_are_too_small_or_all_equal_are_reported_without_numbers(tiny_policy: Path) -> None:
    train, heldout = rows("train.jsonl", ["1+1?"] * 12), rows("heldout.jsonl", ["?"])
    words = (f"task.options.path={train}", f"task.options.heldout_path={heldout}", "task.heldout_prompts=1")
    found = inspected(tiny_policy, "task.name=dataset", *words)
    assert (found["sets"]["train"]["distinct"], found["sets"]["heldout"]["distinct"]) == (1, 1)
    assert found["sets"]["train"]["duplicates"]["exact"] == 12
    assert found["sets"]["train"]["diversity"] is None
    assert pair(found, "heldout", "train")["novelty"] is None
    assert "Not measured: too few prompts" in Path("out/task.html").read_text()


def test_nine_held_out_prompts_do_not_show_what_the_policy_has_seen(tiny_policy: Path) -> None:
    # Every held-out prompt repeats one letter, so all of them are far from the train prompts.
    train, heldout = rows("train.jsonl", questions(0, 30)), rows("heldout.jsonl", [c * 20 for c in "abcdefghi"])
    words = (f"task.options.path={train}", f"task.options.heldout_path={heldout}", "task.heldout_prompts=9")
    found = inspected(tiny_policy, "task.name=dataset", *words)
    assert pair(found, "heldout", "train")["scores_higher"] is None
    assert "Not measured: too few prompts, fewer than 10 of a set have a score." in Path("out/task.html").read_text()


def test_prompts_that_are_too_long_are_counted_and_a_set_of_them_alone_is_refused(
    tiny_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [f"{n} " * 30 for n in range(3)]
    words = [
        "task.name=dataset",
        f"task.options.path={rows('train.jsonl', [*questions(0, 30), *long])}",
        f"task.options.heldout_path={rows('heldout.jsonl', questions(40, 12))}",
        "sampling.max_prompt_tokens=50",
    ]
    found = inspected(tiny_policy, *words)
    assert (found["sets"]["train"]["prompts"], found["sets"]["train"]["too_long"]) == (30, 3)
    others = f"inspect_task.others.long.options.path={rows('long.jsonl', long)}"
    assert main(["inspect-task", f"policy.path={tiny_policy}", *SETTINGS, *words, others]) == 2
    assert "sampling.max_prompt_tokens: must be at least the number of tokens of some prompts of long, got 50 and" in (
        " ".join(capsys.readouterr().err.split())
    )


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        ("policy.path=gone", "policy.path: must be a directory of a Hugging Face policy"),
        ("inspect_task.others.heldout.options.path=x", "inspect_task.others: must not be named 'train' or 'heldout'"),
        (
            "inspect_task.others.exam.options.path=gone",
            "inspect_task.others.exam.options.path: must be an existing file",
        ),
        ("inspect_task.others.exam.task=exam", "inspect_task.others.exam.task: must be one of countdown, "),
        ("inspect_task.similarity=0", "inspect_task.similarity: must be in (0, 1], got 0.0"),
        ("task.heldout_prompts=10000000", "task.heldout_prompts: must be at most"),
        ("--output task.txt", "--output: must end in .html, got 'task.txt'"),
        ("--output /proc/new/task.html", "--output: must be a place that this user can write to"),
    ],
)
def test_a_wrong_setting_gives_one_error_line_that_names_it(
    words: str, beginning: str, tiny_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect-task", f"policy.path={tiny_policy}", *SETTINGS, *words.split()]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"breadth: {beginning}")
