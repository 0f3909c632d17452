"""Source of sums with a scratchpad: layout, lengths, train stream, held-out problems and options."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.task import TaskConfig
from rewards.arithmetic.scratchpad_sum import verify
from tasks.registry import build
from tasks.scratchpad_addition import ScratchpadAddition, ScratchpadAdditionOptions, is_heldout, scratchpad
from trajectories.trajectory import Prompt


def source(seed: int = 0, **options: int) -> ScratchpadAddition:
    return ScratchpadAddition(ScratchpadAdditionOptions(**options), seed)


def lengths(prompt: Prompt) -> tuple[int, int]:
    left, right = prompt.problem["operands"]
    return len(str(left)), len(str(right))


def test_a_scratchpad_is_written_as_in_the_paper() -> None:
    # 95 + 7: 5+7 = 12, write 2, carry 1; 9+0+1 = 10, write 0, carry 1; the carry leads the result.
    assert scratchpad(95, 7) == (
        "\n<scratch>\n"
        "[9,5] + [7] , A=[] , C=0 , 5+7+0=12 , A->2 , C->1\n"
        "[9] + [] , A=[2] , C=1 , 9+0+1=10 , A->0 , C->1\n"
        "[] + [] , A=[0,2] C=1 , END\n"
        "</scratch>\n"
        "1 0 2\n"
    )
    assert scratchpad(0, 3) == (
        "\n<scratch>\n[0] + [3] , A=[] , C=0 , 0+3+0=3 , A->3 , C->0\n[] + [] , A=[3] C=0 , END\n</scratch>\n3\n"
    )


@given(st.integers(0, 10**30), st.integers(0, 10**30))
@settings(max_examples=200)
def test_a_scratchpad_is_right_column_by_column_and_in_its_result(left: int, right: int) -> None:
    answer = scratchpad(left, right)
    assert verify(answer, {"operands": [left, right]}).status == "correct"
    columns = re.findall(r"(\d)\+(\d)\+(\d)=(\d+) , A->(\d) , C->(\d)\n", answer)
    assert len(columns) == max(len(str(left)), len(str(right))) == answer.count("\n") - 5
    carry = "0"
    for place, (x, y, taken, total, digit, carried) in enumerate(columns):
        assert (int(x), int(y), taken) == (left // 10**place % 10, right // 10**place % 10, carry)
        assert int(x) + int(y) + int(taken) == int(total) == 10 * int(carried) + int(digit)
        carry = carried


@pytest.mark.parametrize("options", [{"digits": 3}, {}, {"trained_digits": 1, "digits": 6}, {"digits": 1}])
def test_every_demonstration_is_correct_and_belongs_to_its_train_prompt(options: dict[str, int]) -> None:
    one = source(seed=3, **options)
    for position in range(300):
        prompt, answer = one.demonstration(position)
        assert verify(answer, prompt.problem).status == "correct"
        assert prompt == one.prompt(position)


def test_a_prompt_shows_its_problem() -> None:
    prompt = source().prompt(17)
    left, right = prompt.problem["operands"]
    assert prompt.text == f"Input:\n{left}+{right}\nTarget:"
    assert (prompt.id, prompt.position) == ("scratchpad_addition/train/17", 17)
    assert prompt.verifier == "scratchpad_sum"


def test_the_lengths_of_both_operands_are_uniform_and_independent_up_to_the_trained_one() -> None:
    counts = Counter(lengths(source(digits=3).prompt(i)) for i in range(5_000))
    assert counts.keys() == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}
    assert all(abs(count / 5_000 - 1 / 9) < 0.02 for count in counts.values())


def test_above_the_trained_length_one_operand_has_all_digits_and_the_other_a_trained_length_half_of_the_time() -> None:
    # Either operand is the long one; the other has 1, 2, 3 digits in 1/6 each, 4 or 5 in 1/4 each.
    counts = Counter(lengths(source(digits=5).prompt(i)) for i in range(5_000))
    probability = {1: 1 / 12, 2: 1 / 12, 3: 1 / 12, 4: 1 / 8, 5: 1 / 4}
    assert counts.keys() == {(5, n) for n in probability} | {(n, 5) for n in probability}
    assert all(abs(count / 5_000 - probability[min(pair)]) < 0.02 for pair, count in counts.items())


def test_numbers_of_one_length_are_uniform() -> None:
    counts = Counter(prompt.problem["operands"][0] for prompt in map(source(digits=1).prompt, range(5_000)))
    assert counts.keys() == set(range(10))
    leading = Counter(str(source(digits=4).prompt(i).problem["operands"][0])[0] for i in range(5_000))
    assert all(abs(leading[str(digit)] / 5_000 - 1 / 9) < 0.03 for digit in range(1, 10))


def test_the_same_seed_and_position_give_the_same_prompt_and_others_differ() -> None:
    one, same, other = (source(seed) for seed in (1, 1, 2))
    assert [one.prompt(i) for i in range(50)] == [same.prompt(i) for i in reversed(range(50))][::-1]
    assert sum(one.prompt(i).text == other.prompt(i).text for i in range(200)) < 5
    assert len({one.prompt(i).text for i in range(200)}) > 190


def test_a_stream_does_not_change_between_releases() -> None:
    assert [source().prompt(i).problem["operands"] for i in range(3)] == [[9186, 5297], [1028, 362], [23, 3612]]


def test_train_and_heldout_problems_are_disjoint_in_either_order_at_any_length() -> None:
    for options in ({"digits": 2}, {"trained_digits": 2, "digits": 3}, {}):
        heldout = {tuple(sorted(prompt.problem["operands"])) for prompt in source(**options).heldout(200)}
        assert all(is_heldout(right, left) for left, right in heldout)
        for seed in (0, 1):
            one = source(seed, **options)
            assert not {tuple(sorted(one.prompt(i).problem["operands"])) for i in range(3_000)} & heldout


def test_heldout_problems_are_distinct_and_the_same_for_every_seed_and_count() -> None:
    prompts = source().heldout(128)
    assert len({tuple(sorted(prompt.problem["operands"])) for prompt in prompts}) == 128
    assert [prompt.id for prompt in prompts[:2]] == ["scratchpad_addition/heldout/0", "scratchpad_addition/heldout/1"]
    assert source(seed=9).heldout(64) == prompts[:64]


def test_more_heldout_problems_than_exist_are_refused_by_setting() -> None:
    # There are 55 sums of two digits, if the order of the digits does not count.
    with pytest.raises(ValueError, match=r"task.heldout_prompts: must be at most the \d held-out problems"):
        source(digits=1).heldout(56)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 0}, "task.options.digits: must be between 1 and 30, got 0"),
        ({"trained_digits": 31}, "task.options.trained_digits: must be between 1 and 30, got 31"),
        ({"digit": 4}, "task.options.digit: unknown option (did you mean 'digits'?), got 4"),
        ({"digits": "many"}, "task.options.digits: must be a whole number, got 'many'"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(TaskConfig(name="scratchpad_addition", options=options), seed=0)
    assert message in str(caught.value)
