"""The signatures of reward functions of other libraries, called as those libraries call them."""

import asyncio
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rewards.forms import FORMS
from rewards.signatures import adapt, to_verdict

CONTEXT = {"prompt": "2+2=", "completion_ids": [19, 1], "step": 7, "domain": "sums"}
PROBLEM = {"answer": "4", "level": 2}
VERL_PROBLEM = {
    "data_source": "openai/gsm8k",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"index": 3},
}


def call(
    function: Callable[..., Any],
    answer: str = "4",
    problem: Mapping[str, Any] = PROBLEM,
    context: Mapping[str, Any] = CONTEXT,
) -> Any:
    return adapt("own:function", function, "task.verifier").call(answer, problem, context)


class Tensor:
    """Has what this module needs of a torch tensor, which rewards do not import."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def tolist(self) -> Any:
        return self.values


def test_a_function_of_trl_gets_every_argument_that_trl_passes() -> None:
    def reward(completions: list[str], **kwargs: Any) -> list[float]:
        kwargs["log_metric"]("a", 1.0)
        kwargs["log_extra"]("b", ["c"])
        assert kwargs.pop("trainer_state").global_step == 7
        rest = {name: value for name, value in kwargs.items() if not name.startswith("log_")}
        assert rest == {"prompts": ["2+2="], "completion_ids": [[19, 1]], "answer": ["4"], "level": [2]}
        return [float(text == gold) for text, gold in zip(completions, kwargs["answer"], strict=True)]

    assert call(reward) == 1.0
    assert call(reward, "5") == 0.0


def test_a_function_of_trl_may_name_some_of_the_arguments() -> None:
    def lengths(completions: list[str], completion_ids: list[list[int]], **kw: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    def named(prompts: list[str], completions: list[str], level: list[int]) -> list[float]:
        return [float(len(p) + len(c) + k) for p, c, k in zip(prompts, completions, level, strict=True)]

    assert call(lengths) == 2.0
    assert call(named, "abc") == 9.0


def test_a_function_of_trl_for_chat_messages_gets_messages_and_one_for_strings_gets_strings() -> None:
    def chat(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        assert prompts == [[{"role": "user", "content": "2+2="}]]
        return [float(completion[0]["content"] == "4") for completion in completions]

    def swallows(completions: Any, **kwargs: Any) -> list[float]:
        try:
            return [float(completion[-1]["content"] == "4") for completion in completions]
        except Exception:
            return [0.0]

    def text_of(completion: Any) -> Any:
        return completion[0]["content"]

    def elsewhere(completions: Any, **kwargs: Any) -> list[float]:
        return [float(text_of(completion) == "4") for completion in completions]

    def plain(completions: Any, **kwargs: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    assert [call(function, "4") for function in (chat, swallows, elsewhere)] == [1.0] * 3
    assert [call(function, "five") for function in (chat, swallows, elsewhere)] == [0.0] * 3
    assert call(plain, "five") == 4.0


def test_a_chat_prompt_is_passed_with_all_its_messages() -> None:
    def last_turn(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        return [float(prompt[-1]["content"] == "2+2=" and len(prompt) == 2) for prompt in prompts]

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2="}]
    context = CONTEXT | {"prompt": "system: Be brief.\n\nuser: 2+2=", "messages": messages}
    assert call(last_turn, context=context) == 1.0


def test_an_empty_first_answer_does_not_decide_between_strings_and_messages() -> None:
    def first_word(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(completion[0] == "4") for completion in completions]

    reward = adapt("own:function", first_word, "task.verifier")
    assert [reward.call(answer, PROBLEM, CONTEXT) for answer in ("", "4", "5")] == [0.0, 1.0, 0.0]


def test_functions_of_verl_with_two_and_with_four_arguments_and_defaults_get_the_right_answer() -> None:
    def two(solution_str: str, ground_truth: str, method: str = "strict") -> float:
        assert method == "strict"
        return float(solution_str == ground_truth)

    def four(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
        return {"score": float((data_source, solution_str, extra_info["index"]) == ("openai/gsm8k", ground_truth, 3))}

    def four_of_any_row(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
        return float((data_source, extra_info["level"], solution_str) == ("sums", 2, ground_truth))

    for problem in (VERL_PROBLEM, PROBLEM, {"ground_truth": "4", "answer": "because 2+2 is 4"}):
        assert [call(two, answer, problem) for answer in ("4", "5")] == [1.0, 0.0]
    assert [to_verdict(call(four, answer, VERL_PROBLEM)).reward for answer in ("4", "5")] == [1.0, 0.0]
    assert call(four_of_any_row) == 1.0


@pytest.mark.parametrize("wrap", [list, Tensor, lambda values: {"rewards": Tensor(values), "scores": Tensor(values)}])
def test_a_function_of_openrlhf_gets_queries_prompts_and_labels_and_may_return_tensors(wrap: Any) -> None:
    def reward_func(queries: list[str], prompts: list[str], labels: list[str], **kwargs: Any) -> Any:
        pairs = zip(queries, prompts, labels, strict=True)
        return wrap([float(query.removeprefix(prompt) == label) for query, prompt, label in pairs])

    for problem in (PROBLEM, {"label": "4"}):
        assert [call(reward_func, answer, problem) for answer in ("4", "5")] == [1.0, 0.0]


def test_a_function_of_a_verifiers_rubric_gets_a_subset_of_the_arguments_by_name() -> None:
    def exact(completion: Any, answer: str) -> float:
        return float(completion[-1]["content"] == answer)

    async def informed(completion: str, info: dict[str, Any], state: dict[str, Any], **kwargs: Any) -> float:
        assert sorted(kwargs) == ["answer", "prompt", "task"]
        return float((completion, info["unit"], state["answer"]) == ("4", "cm", "4"))

    assert [call(exact, answer) for answer in ("4", "5")] == [1.0, 0.0]
    assert call(informed, problem=PROBLEM | {"info": {"unit": "cm"}}) == 1.0


def test_breadths_own_form_is_bound_by_name_too() -> None:
    def turned(problem: Mapping[str, Any], answer: str) -> float:
        return float(answer == problem["answer"])

    class Object:
        async def __call__(self, answer: str, problem: Mapping[str, Any], factor: float = 2.0) -> float:
            return factor * float(answer == problem["answer"])

    partial = functools.partial(lambda answer, problem, factor: factor, factor=3.0)
    assert [call(function) for function in (turned, Object(), partial)] == [1.0, 2.0, 3.0]
    assert [adapt("own:f", function, "s").is_async for function in (turned, Object(), partial)] == [False, True, False]


@pytest.mark.parametrize("reward", ["reward", "score"])
def test_the_other_numbers_of_a_dict_are_parts_of_the_verdict(reward: str) -> None:
    parts = {"format": 0.5, "short": True, "answer": 3.0, "text": "4", "ratio": math.inf}
    verdict = to_verdict({reward: 1, "semantic_key": "by induction", **parts})
    assert verdict.semantic_key == "by induction"
    assert to_verdict({reward: 1, "semantic_key": 7}).semantic_key == ""
    assert (verdict.reward, verdict.status, dict(verdict.parts)) == (1.0, "correct", {"format": 0.5, "short": 1.0})


@pytest.mark.parametrize("value", [{"format": 1.0}, {"reward": "four", "format": 1.0}, {"score": None}])
def test_a_dict_without_a_number_as_reward_is_a_grader_error(value: dict[str, Any]) -> None:
    verdict = to_verdict(value)
    assert (verdict.reward, verdict.status, dict(verdict.parts)) == (None, "grader_error", {})


def test_async_functions_wait_in_the_running_event_loop() -> None:
    async def slow(completions: list[str], **kwargs: Any) -> list[float]:
        await asyncio.sleep(0.05)
        return [float(len(completions[0]))]

    async def many() -> list[Any]:
        reward = adapt("own:function", slow, "task.verifier")
        async with asyncio.timeout(1.0):  # one after another they would take 5 s
            return await asyncio.gather(*(reward.call_async("abc", PROBLEM, CONTEXT) for _ in range(100)))

    assert asyncio.run(many()) == [3.0] * 100


def test_a_parameter_that_is_neither_known_nor_a_column_is_named() -> None:
    def needs(solution_str: str, ground_truth: str, tolerance: float) -> float:
        return tolerance

    assert call(needs, problem=PROBLEM | {"tolerance": 0.5}) == 0.5
    message = "its parameter 'tolerance' is neither known nor a column of the problem (answer, level)"
    with pytest.raises(TypeError, match=re.escape(message)):
        call(needs)
    with pytest.raises(TypeError, match="'completion_ids' is neither known"):
        call(lambda completions, completion_ids: [0.0], context={})


@pytest.mark.parametrize(
    "function",
    [
        lambda text, row: 0.0,
        lambda solution, gold, method="strict": 0.0,
        lambda problem: 0.0,
        lambda *args, **kwargs: 0.0,
        lambda answer, problem, /: 0.0,
        dict,
        max,
    ],
)
def test_other_signatures_are_refused_with_the_accepted_ones(function: Callable[..., Any]) -> None:
    with pytest.raises(
        ValueError, match=r"^task\.verifier: must take, by these names, \(answer, problem\); "
    ) as caught:
        adapt("own:function", function, "task.verifier")
    assert all(form.text in str(caught.value) for form in FORMS.values())


@pytest.mark.parametrize("value", [0.5, "1", [1.0, 1.0], Tensor([1.0, 1.0]), []])
def test_a_function_for_lists_must_return_one_reward_in_a_list(value: Any) -> None:
    with pytest.raises(ValueError, match="returned"):
        call(lambda completions: value)
