"""Source of word problems: right answers, layout, train stream, held-out calculations and options."""

import re

import pytest

from configs.task import TaskConfig
from rewards.mathematics.answer import check_problem, verify
from tasks.registry import build
from tasks.source import held_out
from tasks.word_problems import STORIES, Calculation, WordProblems, WordProblemsOptions
from trajectories.trajectory import Prompt

OPERATION = {"buys": "+", "box and": "+", "gives": "-", "A shop has": "-", "boxes": "*", "bags": "*"}
"""Words of each story, and its operation."""


def source(seed: int = 0, **options: int) -> WordProblems:
    return WordProblems(WordProblemsOptions(**options), seed)


def questions(prompt: Prompt) -> list[Calculation]:
    """The calculation that each story of a prompt asks for, read from its words."""
    found = []
    for story in re.findall(r"^Q: (.*)$", prompt.text, re.MULTILINE):
        left, right = map(int, re.findall(r"\d+", story))
        [operation] = {operation for words, operation in OPERATION.items() if words in story}
        found.append(Calculation(left, operation, right))
    return found


def solutions(prompt: Prompt) -> list[str]:
    return re.findall(r"^A: (.*)$", prompt.text, re.MULTILINE)


@pytest.mark.parametrize("options", [{}, {"largest": 10}, {"largest": 5_000, "examples": 0}])
def test_every_demonstration_is_correct_and_belongs_to_its_train_prompt(options: dict[str, int]) -> None:
    for position in range(200):
        prompt, answer = source(seed=3, **options).demonstration(position)
        assert prompt == source(seed=3, **options).prompt(position)
        assert verify(answer, prompt.problem).status == "correct"
        assert verify(answer.replace("answer is ", "answer is 1"), prompt.problem).status == "wrong"


def test_the_answer_is_that_of_the_story() -> None:
    seen = set()
    for position in range(300):
        prompt = source().prompt(position)
        left, operation, right = questions(prompt)[-1]
        expected = {"+": left + right, "-": left - right, "*": left * right}[operation]
        assert prompt.problem == {"answer": expected} and not check_problem(prompt.problem)
        seen.add(operation)
    assert seen == {"+", "-", "*"}


def test_a_prompt_has_solved_problems_and_ends_in_the_problem_that_is_asked() -> None:
    prompt = source(examples=3).prompt(7)
    instruction, *lines = prompt.text.split("\n")
    assert instruction == "Solve the last problem like the others."
    assert [line[:2] for line in lines] == ["Q:", "A:"] * 4 and lines[-1] == "A:"
    assert (prompt.id, prompt.verifier) == ("word_problems/train/7", "math")
    for (left, operation, right), solution in zip(questions(prompt), solutions(prompt), strict=False):
        result = {"+": left + right, "-": left - right, "*": left * right}[operation]
        assert solution == f"{left} {operation} {right} = {result}. The answer is {result}."


def test_a_prompt_without_examples_is_the_problem_alone() -> None:
    assert re.fullmatch(r"Q: .*\?\nA:", source(examples=0).prompt(0).text)


def test_numbers_and_answers_are_between_2_and_the_largest() -> None:
    for largest in (10, 30):
        prompts = [source(largest=largest).prompt(position) for position in range(500)]
        numbers = {n for prompt in prompts for n in map(int, re.findall(r"\d+", prompt.text))}
        assert numbers == set(range(2, largest + 1))


def test_no_held_out_calculation_is_in_a_train_prompt_or_in_the_examples_of_any_prompt() -> None:
    heldout = source().heldout(100)
    asked = {questions(prompt)[-1].key for prompt in heldout}
    shown = {one.key for prompt in heldout for one in questions(prompt)[:-1]}
    trained = {one.key for seed in (0, 1) for i in range(1_000) for one in questions(source(seed).prompt(i))}
    assert len(asked) == 100 and not asked & (shown | trained)
    assert all(map(held_out, asked)) and len(shown) > 50


def test_a_sum_and_a_product_are_the_same_in_either_order_but_a_difference_is_not() -> None:
    assert Calculation(3, "+", 5).key == Calculation(5, "+", 3).key != Calculation(3, "*", 5).key
    assert Calculation(3, "-", 5).key != Calculation(5, "-", 3).key


def test_no_prompt_shows_the_problem_that_it_asks() -> None:
    for position in range(300):
        *shown, asked = [one.key for one in questions(source(largest=10, examples=8).prompt(position))]
        assert len(shown) == 8 and asked not in shown


def test_prompts_are_told_in_every_story() -> None:
    text = "\n".join(source().prompt(position).text for position in range(100))
    for story in (story for stories in STORIES.values() for story in stories):
        pattern = re.sub(r"\\{\w+\\}", r"\\w+", re.escape(story))
        assert re.search(pattern, text), story


def test_train_prompts_differ_by_position_and_seed() -> None:
    assert len({source(seed).prompt(i).text for seed in (0, 1) for i in range(200)}) == 400


def test_held_out_problems_are_the_same_for_every_seed_and_count() -> None:
    assert source(seed=9).heldout(20) == source().heldout(50)[:20]


def test_more_held_out_problems_than_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^task.heldout_prompts: must be at most"):
        source(largest=10).heldout(56)


@pytest.mark.parametrize(
    ("options", "rule"), [({"largest": 9}, r"between 10 and 10\^9"), ({"examples": -1}, "between 0 and 16")]
)
def test_bad_options_are_refused_by_name(options: dict[str, int], rule: str) -> None:
    [name] = options
    with pytest.raises(ValueError, match=rf"^task.options.{name}: must be {rule}"):
        build(TaskConfig(name="word_problems", options=options), seed=0)
