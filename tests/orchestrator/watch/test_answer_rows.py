"""Rows of trajectories.jsonl: the texts of tokens make up the answer, and the values are aligned with them."""

import json
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from logbook_runs import group

from orchestrator.watch.answer_rows import TOKEN_LIMIT, answer_row, token_texts
from orchestrator.watch.logbook import encode


def of_bytes(ids: list[int]) -> str:
    """Render tokens that are bytes."""
    return bytes(ids).decode("utf-8", "replace")


def of_words(ids: list[int]) -> str:
    """Render tokens of which the first loses the space before it, as with some tokenizers."""
    return " ".join(["what", "is", "it"][i] for i in ids)


def test_a_character_of_several_tokens_is_the_text_of_the_last_one() -> None:
    assert token_texts(list("aé𝄞b".encode()), of_bytes) == ["a", "", "é", "", "", "", "𝄞", "b"]


def test_the_space_before_a_word_is_kept() -> None:
    assert token_texts([0, 1, 2], of_words) == ["what", " is", " it"]


@given(st.lists(st.text(), max_size=6).map("".join))
def test_the_texts_of_tokens_make_up_every_text(text: str) -> None:
    ids = list(text.encode("utf-8", "replace"))
    assert "".join(token_texts(ids, of_bytes)) == of_bytes(ids) and len(token_texts(ids, of_bytes)) == len(ids)


@given(st.binary(max_size=20))
def test_broken_bytes_never_raise_and_every_token_has_a_text(ids: bytes) -> None:
    assert len(token_texts(list(ids), of_bytes)) == len(ids)


def test_values_are_aligned_with_the_texts_and_what_is_not_finite_is_null() -> None:
    answer = replace(group("a").trajectories[0], mask=np.array([False, True, True, False, True]))
    values = {"entropy": np.array([9, 0.123456, np.nan, np.nan, np.inf], np.float32)}
    row = answer_row(3, group("a"), answer, lambda ids: "".join(chr(97 + i) for i in ids), values)
    assert row["group_size"] == len(group("a").trajectories)
    assert row["tokens"] == {
        "count": 4,
        "texts": ["b", "c", "d", "e"],
        "logp_sampler": [0.0, -0.5, None, -0.5],
        "entropy": [0.1235, None, None, None],
    }
    assert json.loads(encode(row))["tokens"] == row["tokens"]


def test_the_values_of_a_long_answer_are_bounded_and_their_number_is_not() -> None:
    many = TOKEN_LIMIT + 10
    arrays = {"tokens": np.ones(many, np.int32), "mask": np.ones(many, bool), "logp_sampler": np.zeros(many)}
    row = answer_row(3, group("a"), replace(group("a").trajectories[0], **arrays), lambda ids: "x" * len(ids))
    assert row["tokens"]["count"] == many
    assert len(row["tokens"]["texts"]) == len(row["tokens"]["logp_sampler"]) == TOKEN_LIMIT
