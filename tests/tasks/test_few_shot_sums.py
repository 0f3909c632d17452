"""Source of few-shot sums: right answers, layout, train stream, held-out sums and options."""

import re

import pytest

from configs.task import TaskConfig
from rewards.arithmetic.first_number import verify
from tasks.few_shot_sums import FewShotSums, FewShotSumsOptions, is_heldout
from tasks.registry import build
from trajectories.trajectory import Prompt


def source(seed: int = 0, **options: int) -> FewShotSums:
    return FewShotSums(FewShotSumsOptions(**options), seed)


def sums(prompt: Prompt) -> list[tuple[int, int]]:
    """The operands in each line of a prompt."""
    return [(int(left), int(right)) for left, right in re.findall(r"^(\d+) \+ (\d+) =", prompt.text, re.MULTILINE)]


@pytest.mark.parametrize("options", [{}, {"digits": 1}, {"digits": 3, "shots": 0}])
def test_every_demonstration_is_correct_and_belongs_to_its_train_prompt(options: dict[str, int]) -> None:
    for position in range(200):
        prompt, answer = source(seed=3, **options).demonstration(position)
        assert prompt == source(seed=3, **options).prompt(position)
        assert verify(answer, prompt.problem).status == "correct"
        assert answer == f" {sum(sums(prompt)[-1])}"


def test_a_prompt_has_right_lines_and_ends_in_the_sum_that_is_asked() -> None:
    prompt = source().prompt(7)
    *lines, asked = prompt.text.split("\n")
    assert len(lines) == 4
    for line in lines:
        left, right, result = map(int, re.fullmatch(r"(\d\d) \+ (\d\d) = (\d+)", line).groups())  # type: ignore[union-attr]
        assert left + right == result
    assert re.fullmatch(r"\d\d \+ \d\d =", asked)
    assert (prompt.id, prompt.verifier) == ("few_shot_sums/train/7", "first_number")
    assert prompt.problem == {"number": sum(sums(prompt)[-1])}


def test_operands_have_the_chosen_number_of_digits() -> None:
    for digits, lowest, highest in ((1, 0, 9), (2, 10, 99), (3, 100, 999)):
        drawn = {n for i in range(400) for pair in sums(source(digits=digits).prompt(i)) for n in pair}
        assert min(drawn) >= lowest and max(drawn) <= highest
        assert len(drawn) > min(60, highest - lowest)


def test_no_held_out_sum_is_in_a_train_prompt_or_in_the_lines_of_any_prompt() -> None:
    asked = {tuple(sorted(sums(prompt)[-1])) for prompt in source().heldout(100)}
    shown = {tuple(sorted(pair)) for prompt in source().heldout(100) for pair in sums(prompt)[:-1]}
    trained = {tuple(sorted(pair)) for seed in (0, 1) for i in range(1_000) for pair in sums(source(seed).prompt(i))}
    assert len(asked) == 100 and not asked & (shown | trained)
    assert all(is_heldout(*pair) for pair in asked)


def test_no_prompt_shows_the_sum_that_it_asks() -> None:
    for position in range(500):
        *shown, asked = [sorted(pair) for pair in sums(source(digits=1, shots=8).prompt(position))]
        assert len(shown) == 8 and asked not in shown


def test_held_out_sums_are_the_same_for_every_seed_and_count() -> None:
    assert source(seed=9).heldout(20) == source().heldout(50)[:20]


def test_more_held_out_sums_than_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^task.heldout_prompts: must be at most"):
        source(digits=1).heldout(56)


@pytest.mark.parametrize(
    ("options", "rule"), [({"digits": 0}, "between 1 and 30"), ({"shots": -1}, "between 0 and 64")]
)
def test_bad_options_are_refused_by_name(options: dict[str, int], rule: str) -> None:
    [name] = options
    with pytest.raises(ValueError, match=rf"^task.options.{name}: must be {rule}"):
        build(TaskConfig(name="few_shot_sums", options=options), seed=0)
