"""Equal and nearly equal prompts: Jaccard similarity of token trigrams, by hand and against all pairs."""

import random

import pytest

from orchestrator.inspection.duplicates import ROWS_AT_A_TIME, distinct, find_duplicates


def trigrams(tokens: list[int]) -> set[tuple[int, ...]]:
    return {tuple(tokens[i : i + 3]) for i in range(max(len(tokens) - 2, 1))}


def test_a_copy_and_a_changed_token_are_found_with_their_similarity() -> None:
    first = list(range(20))
    changed = [*first[:19], 99]
    # 18 trigrams each, the last one differs: 17 / 19 = .8947.
    found = find_duplicates([first, changed, [7, 7, 7, 7]], [first, [50, 51, 52]], similarity=0.8)
    assert (found.exact, found.near) == (1, 1)
    assert [(pair.one, pair.other, pair.equal) for pair in found.pairs] == [(0, 0, True), (1, 0, False)]
    assert found.pairs[1].similarity == pytest.approx(17 / 19)
    assert find_duplicates([changed], [first], similarity=0.9).near == 0


def test_within_a_set_no_prompt_is_a_copy_of_itself() -> None:
    found = find_duplicates([[1, 2, 3, 4], [9, 8, 7], [1, 2, 3, 4]], [[1, 2, 3, 4], [9, 8, 7], [1, 2, 3, 4]], 0.5, True)
    assert (found.exact, found.near) == (2, 0)
    assert [(pair.one, pair.other) for pair in found.pairs] == [(0, 2), (2, 0)]
    assert find_duplicates([[1, 2]], [[1, 2]], 0.5, same=True).pairs == []


def test_equal_trigrams_in_another_order_are_near_and_not_equal() -> None:
    # Both have the trigrams of a circle 1 2 3 1 2 3.
    found = find_duplicates([[1, 2, 3, 1, 2]], [[2, 3, 1, 2, 3]], similarity=1.0)
    assert (found.exact, found.near, found.pairs[0].similarity) == (0, 1, 1.0)


def test_prompts_shorter_than_a_trigram_are_compared_whole() -> None:
    found = find_duplicates([[1], [1, 2], [3]], [[1], [2, 1]], similarity=0.1)
    assert [(pair.one, pair.other) for pair in found.pairs] == [(0, 0)]


def test_many_prompts_give_the_result_of_comparing_all_pairs() -> None:
    random_ = random.Random(0)
    prompts, others = (
        [[random_.randint(0, 2) for _ in range(random_.randint(1, 9))] for _ in range(n)] for n in (400, 90)
    )
    assert len(prompts) > ROWS_AT_A_TIME
    found = {pair.one: pair for pair in find_duplicates(prompts, others, similarity=0.6).pairs}
    for index, prompt in enumerate(prompts):
        similar = [len(trigrams(prompt) & trigrams(o)) / len(trigrams(prompt) | trigrams(o)) for o in others]
        assert (index in found) == (prompt in others or max(similar) >= 0.6)
        if index in found:
            assert found[index].equal == (prompt in others)
            assert found[index].similarity == pytest.approx(max(similar))


def test_the_first_prompt_of_each_text_is_distinct() -> None:
    assert distinct([[1, 2], [3], [1, 2], [3], [1]]) == [0, 1, 4]
