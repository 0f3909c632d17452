"""Reading trajectories.jsonl while it is written: complete lines only, each once, in bounded memory."""

import json
from pathlib import Path
from typing import Any

import pytest
from answer_lines import row, write
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.viewer import answer_file
from orchestrator.viewer.answer_file import AnswerFile


def steps(answers: AnswerFile) -> list[int]:
    return [each.step for each in answers.summaries]


def test_an_incomplete_last_line_is_read_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    answers = AnswerFile(path)
    assert not answers.refresh() and answers.end == 0  # there is no file yet
    line = json.dumps(row(2)) + "\n"
    write(path, row(1), end=line[:40])
    answers.refresh()
    assert steps(answers) == [1] and answers.broken == 0
    write(path, end=line[40:])
    answers.refresh()
    answers.refresh()
    assert steps(answers) == [1, 2] and answers.answer(1)["answer"] == "1+2"


def test_lines_that_are_no_records_are_counted_and_passed_over(tmp_path: Path) -> None:
    deep = '{"step": 1, "x": ' + "[" * 200_000
    path = write(tmp_path / "a.jsonl", row(1), end=f"not json\n[1]\n{{}}\n{deep}\n\xff\n")
    write(path, row(2))
    answers = AnswerFile(path)
    answers.refresh()
    assert steps(answers) == [1, 2] and answers.broken == 5


def test_a_line_that_is_too_long_is_passed_over_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "LINE_LIMIT", 3_000)
    path = write(tmp_path / "a.jsonl", row(1), end='{"step": 2, "x": "' + "x" * 10_000)
    answers = AnswerFile(path)
    answers.refresh()
    assert steps(answers) == [1] and answers.broken == 0
    write(path, end='"}\n')
    write(path, row(3))
    answers.refresh()
    assert steps(answers) == [1, 3] and answers.broken == 1


def test_the_index_holds_the_newest_answers_under_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "ANSWERS_LIMIT", 3)
    answers = AnswerFile(write(tmp_path / "a.jsonl", *map(row, range(5))))
    answers.refresh()
    assert (answers.first, answers.end, steps(answers)) == (2, 5, [2, 3, 4])
    assert answers.answer(4)["step"] == 4
    for number in (1, 5):
        with pytest.raises(IndexError):
            answers.answer(number)


def test_one_call_reads_a_bounded_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_file, "READ_LIMIT", 1_000)
    answers = AnswerFile(write(tmp_path / "a.jsonl", *map(row, range(9))))
    assert answers.refresh() and 0 < answers.end < 9
    while answers.refresh():
        pass
    assert steps(answers) == [*range(9)]


def test_the_file_of_a_resumed_run_is_read_again_as_another_generation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(1), row(2))
    answers = AnswerFile(path)
    answers.refresh()
    write(tmp_path / "new.jsonl", row(1), row(7)).replace(path)
    answers.refresh()
    assert steps(answers) == [1, 7] and answers.generation == 1
    path.write_text(json.dumps(row(9)) + "\n")  # shorter, in place
    answers.refresh()
    assert steps(answers) == [9] and answers.generation == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"step": st.integers(), "tokens": VALUES}, optional=dict.fromkeys(row().keys() - {"step", "tokens"}, VALUES)
    )
)
def test_any_record_is_shown_as_strict_json_with_fixed_types(record: dict[str, Any]) -> None:
    shown = answer_file._shown(answer_file._record(json.dumps(record).encode()) or {"step": 0})
    json.dumps(shown, allow_nan=False)
    assert isinstance(shown["answer"], str) and isinstance(shown["tokens"], dict)


def test_numbers_that_no_float_or_page_has_are_left_out(tmp_path: Path) -> None:
    huge = 10**400
    tokens = {"count": huge, "texts": ["a"], "entropy": [huge], "advantage": [2]}
    path = write(tmp_path / "a.jsonl", row(huge), row(1, huge, reward=huge, rewards={"a": huge}, tokens=tokens))
    answers = AnswerFile(path)
    answers.refresh()
    assert steps(answers) == [1] and answers.broken == 1, "a step that no page has"
    shown = answers.answer(0)
    assert (shown["reward"], shown["rewards"], shown["sample_index"]) == (None, {}, 0)
    assert shown["tokens"] == {"count": 0, "texts": ["a"], "advantage": [2], "staleness": [0]}


def test_columns_that_are_not_aligned_with_the_texts_are_left_out_and_long_texts_are_cut(tmp_path: Path) -> None:
    tokens = {"count": 2, "texts": ["a", "b" * 10**6], "entropy": [0.1], "advantage": [None, 2], "mismatch": ["x", 1]}
    answers = AnswerFile(write(tmp_path / "a.jsonl", row(tokens=tokens, answer="b" * 10**6)))
    answers.refresh()
    shown = answers.answer(0)
    assert set(shown["tokens"]) == {"count", "texts", "advantage", "staleness"}
    assert len(shown["tokens"]["texts"][1]) < 1_000
    assert shown["answer"].endswith("... 800,000 more characters")


def test_only_versions_that_are_known_give_a_staleness(tmp_path: Path) -> None:
    """Of a long answer the last text is not that of the last token."""
    two = {"first_version": 3, "last_version": 4}
    rows = [row(5, **two), row(5, first_version=2, last_version=2), row(5, route="replay")]
    long = {"texts": ["a", "b"], "staleness": [7, 7]}
    rows += [row(5, tokens={"count": 2**50, **long}, **two), row(5, texts=("a",), **two), row(5, texts=(), **two)]
    answers = AnswerFile(write(tmp_path / "a.jsonl", *rows))
    answers.refresh()
    found = [answers.answer(number)["tokens"]["staleness"] for number in range(6)]
    assert found == [[1, None, 0], [2, 2, 2], [None] * 3, [1, None], [1], []]
