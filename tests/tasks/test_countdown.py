"""Source of Countdown problems: train stream, held-out problems, solutions and options."""

import random
from collections import Counter
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.task import TaskConfig
from rewards.arithmetic.countdown import verify
from tasks.countdown import Countdown, CountdownOptions, count_solutions, is_heldout, random_expression
from tasks.registry import build
from trajectories.trajectory import Prompt


def identity(prompt: Prompt) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(prompt.problem["numbers"])), prompt.problem["target"]


@given(st.integers(0, 10**12), st.integers(0, 10**6))
@settings(max_examples=200)
def test_every_demonstration_is_correct_and_belongs_to_its_train_prompt(position: int, seed: int) -> None:
    source = Countdown(CountdownOptions(), seed)
    prompt, answer = source.demonstration(position)
    assert verify(answer, prompt.problem).status == "correct"
    assert prompt == source.prompt(position)
    assert 1 <= prompt.problem["target"] <= 99
    assert all(1 <= number <= 12 for number in prompt.problem["numbers"])


@pytest.mark.parametrize("numbers", [2, 4, 5, 6])
def test_demonstrations_are_correct_with_division_and_more_numbers(numbers: int) -> None:
    source = Countdown(CountdownOptions(numbers=numbers, operators="+-*/", high=25, target_low=-50), seed=3)
    for position in range(200):
        prompt, answer = source.demonstration(position)
        assert verify(answer, prompt.problem).status == "correct"


def test_a_careless_author_adds_up_the_first_two_numbers_of_the_same_problems() -> None:
    source, mixed = (Countdown(CountdownOptions(careless=fraction), seed=0) for fraction in (0.0, 0.7))
    careless = 0
    for position in range(1_000):
        (prompt, right), (same, answer) = source.demonstration(position), mixed.demonstration(position)
        assert same == prompt
        if answer != right:
            careless += 1
            assert answer == "{}+{}".format(*prompt.problem["numbers"][:2])
            assert verify(answer, prompt.problem).status == "wrong"
    assert 650 < careless < 750


def test_a_prompt_shows_its_problem() -> None:
    prompt = Countdown(CountdownOptions(), seed=0).prompt(17)
    numbers, target = prompt.problem["numbers"], prompt.problem["target"]
    assert prompt.id == "countdown/train/17"
    assert prompt.position == 17
    assert prompt.verifier == "countdown"
    assert prompt.text == f"{numbers[0]},{numbers[1]},{numbers[2]}={target}:"


def test_the_same_seed_and_position_give_the_same_prompt_and_others_differ() -> None:
    one, same, other = (Countdown(CountdownOptions(), seed) for seed in (1, 1, 2))
    assert [one.prompt(i) for i in range(50)] == [same.prompt(i) for i in reversed(range(50))][::-1]
    assert sum(one.prompt(i).text == other.prompt(i).text for i in range(200)) < 5
    assert len({one.prompt(i).text for i in range(200)}) > 150


def test_a_stream_does_not_change_between_releases() -> None:
    texts = [Countdown(CountdownOptions(), seed=0).prompt(i).text for i in range(3)]
    assert texts == ["6,1,4=2:", "4,2,10=4:", "5,8,5=65:"]


def test_train_and_heldout_problems_are_disjoint_in_any_order_of_their_numbers() -> None:
    heldout = {identity(prompt) for prompt in Countdown(CountdownOptions(), seed=0).heldout(200)}
    for seed in (0, 1):
        source = Countdown(CountdownOptions(), seed)
        train = {identity(source.prompt(position)) for position in range(5_000)}
        assert not train & heldout
        assert not any(is_heldout(*problem) for problem in train)


def test_heldout_problems_are_distinct_and_the_same_for_every_seed_and_count() -> None:
    source = Countdown(CountdownOptions(), seed=0)
    prompts = source.heldout(128)
    assert len({identity(prompt) for prompt in prompts}) == 128
    assert [prompt.id for prompt in prompts[:2]] == ["countdown/heldout/0", "countdown/heldout/1"]
    assert Countdown(CountdownOptions(), seed=9).heldout(64) == prompts[:64]


def test_at_least_a_thousand_heldout_prompts_exist_at_the_defaults() -> None:
    prompts = Countdown(CountdownOptions(), seed=0).heldout(1_000)
    assert len({prompt.text for prompt in prompts}) == 1_000


def test_more_heldout_problems_than_exist_are_refused_by_setting() -> None:
    source = Countdown(CountdownOptions(numbers=2, high=4), seed=0)
    with pytest.raises(ValueError, match=r"task.heldout_prompts: must be at most the \d+ held-out problems"):
        source.heldout(500)


def test_random_expressions_are_uniform_over_trees_and_operators() -> None:
    random_ = random.Random(0)
    shapes: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for _ in range(6_000):
        expression = random_expression(random_, [1, 2, 3, 5], "+-*")
        assert expression is not None
        operators.update(c for c in expression.text if c in "+-*")
        only_minus = random_expression(random_, [1, 2, 3, 5], "-")
        assert only_minus is not None
        shapes[only_minus.text] += 1
    assert len(shapes) == 5
    assert all(abs(count / 6_000 - 1 / 5) < 0.03 for count in shapes.values())
    assert all(abs(count / 18_000 - 1 / 3) < 0.02 for count in operators.values())


def test_parentheses_are_written_only_where_they_are_needed() -> None:
    random_ = random.Random(1)
    texts = {random_expression(random_, [9, 7, 2], "+-*").text for _ in range(500)}
    assert texts == {
        *("9+7+2", "9+7-2", "9-7+2", "9-7-2", "9-(7+2)", "9-(7-2)", "9*7*2"),
        *("9*7+2", "9*7-2", "9+7*2", "9-7*2", "(9+7)*2", "(9-7)*2", "9*(7+2)", "9*(7-2)"),
    }


@pytest.mark.parametrize(("numbers", "target"), [((3, 7, 12), 22), ((1, 1, 2), 2), ((5, 5, 5), 30), ((1, 2, 3), 99)])
def test_solutions_are_counted_as_by_brute_force(numbers: tuple[int, ...], target: int) -> None:
    found = set()
    for a, b, c in set(permutations(numbers)):
        for f, g in product("+-*", repeat=2):
            found |= {text for text in (f"(({a}{f}{b}){g}{c})", f"({a}{f}({b}{g}{c}))") if eval(text) == target}
    assert count_solutions(numbers, target, "+-*") == len(found)


def test_difficulty_bounds_the_number_of_solutions() -> None:
    source = Countdown(CountdownOptions(min_solutions=3, max_solutions=8), seed=0)
    for prompt in [*map(source.prompt, range(100)), *source.heldout(30)]:
        assert 3 <= count_solutions(tuple(prompt.problem["numbers"]), prompt.problem["target"], "+-*") <= 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": 1}, "task.options.numbers: must be between 2 and 8, got 1"),
        ({"numbers": 6, "max_solutions": 5}, "task.options.numbers: must be at most 5 when solutions are counted"),
        ({"low": 5, "high": 4}, "task.options.high: must be at least task.options.low"),
        ({"operators": "+^"}, "task.options.operators: must be distinct ones of"),
        ({"operators": "++"}, "task.options.operators: must be distinct ones of"),
        ({"target_low": 10, "target_high": 9}, "task.options.target_high"),
        ({"min_solutions": 4, "max_solutions": 3}, "task.options.max_solutions"),
        ({"careless": 1.5}, "task.options.careless: must be between 0 and 1, got 1.5"),
        ({"careless": 0.5, "numbers": 2}, "task.options.careless: must be 0 for two numbers"),
        ({"target_low": 5_000, "target_high": 6_000}, "task.options: must admit train problems"),
        ({"numbres": 3}, "task.options.numbres: unknown option (did you mean 'numbers'?), got 3"),
        ({"numbers": "many"}, "task.options.numbers: must be a whole number, got 'many'"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(TaskConfig(options=options), seed=0)
    assert message in str(caught.value)
