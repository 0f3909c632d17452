"""Source of programs: functions, train stream, held-out problems, answers and options."""

import re
from itertools import combinations
from typing import Any

import pytest

from configs.task import TaskConfig
from rewards.programs.testing import verify
from tasks.programs import HIDDEN_NUMBERS, HIDDEN_TEXTS, Programs, ProgramsOptions, families, shown
from tasks.registry import build
from trajectories.trajectory import Prompt

FUNCTIONS = {kind: [function for family in forms for function in family] for kind, forms in families(9).items()}
HIDDEN: dict[str, tuple[Any, ...]] = {"number": HIDDEN_NUMBERS, "text": HIDDEN_TEXTS}


def identity(prompt: Prompt) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"f\(\S+\)=\S+", prompt.text)))


def passes(answer: str, prompt: Prompt) -> bool:
    """Whether a trusted answer passes the assertions; runs without a sandbox."""
    scope: dict[str, Any] = {}
    exec(answer, scope)
    try:
        exec(prompt.problem["tests"], scope)
    except AssertionError:
        return False
    return True


def test_every_expression_of_a_function_computes_the_function_on_every_input() -> None:
    for kind, functions in FUNCTIONS.items():
        for function in functions:
            for expression in function.expressions:
                for x in (*HIDDEN[kind], *(range(10) if kind == "number" else ("c", "dd"))):
                    value = eval(expression, {}, {"x": x})
                    assert (type(value), value) == (type(function.apply(x)), function.apply(x)), (expression, x)


def test_every_two_functions_differ_on_a_hidden_input() -> None:
    for kind, functions in FUNCTIONS.items():
        for one, other in combinations(functions, 2):
            assert [one.apply(x) for x in HIDDEN[kind]] != [other.apply(x) for x in HIDDEN[kind]], one.expressions


def test_every_demonstration_passes_the_tests_and_belongs_to_its_train_prompt() -> None:
    source = Programs(ProgramsOptions(), seed=3)
    for position in range(500):
        prompt, answer = source.demonstration(position)
        assert passes(answer, prompt), (prompt.text, answer)
        assert prompt == source.prompt(position)
        assert len(prompt.text.encode()) <= 64
        assert len(answer.encode()) <= 48


def test_the_verifier_accepts_demonstrations_and_rejects_a_table_of_the_examples() -> None:
    source = Programs(ProgramsOptions(), seed=4)
    for position in range(4):
        prompt, answer = source.demonstration(position)
        assert verify(answer, prompt.problem).status == "correct", (prompt.text, answer)
        table = ",".join(example[2:].replace(")=", ":", 1) for example in prompt.text.split())
        assert verify(f"def f(x):return {{{table}}}.get(x)", prompt.problem).status == "wrong"


def test_the_answer_of_another_problem_is_wrong_unless_it_is_the_same_function() -> None:
    source = Programs(ProgramsOptions(), seed=0)
    prompt, answer = source.demonstration(0)
    others = {source.demonstration(position)[1] for position in range(1, 300)}
    meaning = next(f for f in FUNCTIONS["text"] if f"def f(x):return {f.expressions[0]}" == answer).expressions
    right = {f"def f(x):return {expression}" for expression in meaning}
    for other in others:
        try:
            assert passes(other, prompt) == (other in right), other
        except (TypeError, ValueError, AttributeError, IndexError):
            assert other not in right


def test_examples_determine_the_function() -> None:
    for prompt in map(Programs(ProgramsOptions(), seed=1).prompt, range(300)):
        examples = [part[2:].split(")=") for part in prompt.text.split()]
        kind = "text" if "'" in prompt.text else "number"
        fitting = [
            function for function in FUNCTIONS[kind] if all(repr(function.apply(eval(x))) == y for x, y in examples)
        ]
        assert len(fitting) == 1, prompt.text


def test_a_problem_has_several_right_answers_and_demonstrations_give_each_of_them() -> None:
    answers: dict[str, set[str]] = {}
    source = Programs(ProgramsOptions(kinds=["number"], constants=3), seed=0)
    for position in range(2_000):
        _, answer = source.demonstration(position)
        expression = answer.removeprefix("def f(x):return ")
        [function] = [f for family in families(3)["number"] for f in family if expression in f.expressions]
        answers.setdefault(function.expressions[0], set()).add(expression)
    assert {first: len(found) for first, found in answers.items()} == {
        function.expressions[0]: len(function.expressions) for family in families(3)["number"] for function in family
    }
    assert all(len(found) > 1 for found in answers.values())


def test_the_same_seed_and_position_give_the_same_prompt_and_others_differ() -> None:
    one, same, other = (Programs(ProgramsOptions(), seed) for seed in (1, 1, 2))
    assert [one.prompt(i) for i in range(50)] == [same.prompt(i) for i in reversed(range(50))][::-1]
    assert sum(one.prompt(i).text == other.prompt(i).text for i in range(200)) < 5
    assert len({one.prompt(i).text for i in range(200)}) > 190


def test_a_stream_does_not_change_between_releases() -> None:
    source = Programs(ProgramsOptions(), seed=0)
    assert [source.demonstration(i)[0].text for i in range(3)] == [
        "f('aea')='ae' f('d')='' f('ae')='a'",
        "f(0)=7 f(2)=11 f(5)=32",
        "f('d')='d' f('ccce')='eccc' f('b')='b'",
    ]
    assert source.prompt(1).id == "programs/train/1"
    assert source.prompt(1).verifier == "code"


def test_train_and_heldout_problems_are_disjoint_in_any_order_of_their_examples() -> None:
    heldout = {identity(prompt) for prompt in Programs(ProgramsOptions(), seed=0).heldout(500)}
    assert len(heldout) == 500
    for seed in (0, 1):
        source = Programs(ProgramsOptions(), seed)
        assert not {identity(source.prompt(position)) for position in range(1_500)} & heldout


def test_heldout_problems_are_the_same_for_every_seed_and_count() -> None:
    prompts = Programs(ProgramsOptions(), seed=0).heldout(64)
    assert Programs(ProgramsOptions(), seed=9).heldout(32) == prompts[:32]
    assert [prompt.id for prompt in prompts[:2]] == ["programs/heldout/0", "programs/heldout/1"]


def test_more_heldout_problems_than_exist_are_refused_by_setting() -> None:
    source = Programs(ProgramsOptions(kinds=["number"], examples=2, inputs=4, constants=3), seed=0)
    with pytest.raises(ValueError, match=r"task.heldout_prompts: must be at most the \d+ held-out problems"):
        source.heldout(500)


def test_a_prompt_shows_its_examples() -> None:
    [double] = [function for function in FUNCTIONS["text"] if "x+x" in function.expressions]
    assert shown(double, ["ab", ""]) == "f('ab')='abab' f('')=''"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 1}, "task.options.examples: must be between 2 and 6, got 1"),
        ({"inputs": 1}, "task.options.inputs: must be between examples - 1 and 99, got 1"),
        ({"constants": 1}, "task.options.constants: must be between 2 and 99, got 1"),
        ({"kinds": []}, "task.options.kinds: must be distinct ones of number, text, got []"),
        ({"kinds": ["text", "text"]}, "task.options.kinds: must be distinct ones of"),
        ({"kinds": ["list"]}, "task.options.kinds: must be distinct ones of"),
        ({"constant": 3}, "task.options.constant: unknown option (did you mean 'constants'?), got 3"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(TaskConfig(name="programs", options=options), seed=0)
    assert message in str(caught.value)
