"""The accepted signatures of verifier functions: Breadth's own, and those of TRL, verl, OpenRLHF and verifiers.

Each is called with the arguments that its library passes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

Style = Literal["text", "messages"]
"""Prompts and completions as strings, or as lists of chat messages."""
GOLD = ("ground_truth", "answer", "label", "labels")
"""Columns that may hold the right answer, besides `ground_truth` in `reward_model`, in the order of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one call of a reward function is about.

    Example: Call(answer="4", problem={"answer": "4"}, context={"prompt": "2+2=", "completion_ids": [19], "step": 3,
    "domain": "sums"}, style="text")
    """

    answer: str
    problem: Mapping[str, Any]
    context: Mapping[str, Any]
    """Where known: `prompt`, the text; `messages`, those of a chat prompt; `completion_ids`, the answer's token ids;
    `step`, the optimizer steps behind the weights that wrote the answer; `domain`, the first part of the prompt id."""
    style: Style

    @property
    def prompt(self) -> Any:
        """The prompt, as text or as messages; None if it is not known."""
        prompt = self.context.get("prompt", self.problem.get("prompt"))
        if self.style == "text":
            return prompt
        return self.context.get("messages") or (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        )

    @property
    def completion(self) -> Any:
        """The answer, as text or as messages."""
        return self.answer if self.style == "text" else [{"role": "assistant", "content": self.answer}]

    @property
    def gold(self) -> Any:
        """The right answer; None if the problem has none."""
        nested = self.problem.get("reward_model")
        places = [self.problem, nested if isinstance(nested, Mapping) else {}]
        found = (place[name] for name in GOLD for place in places if place.get(name) is not None)
        return next(found, None)


def _own(call: Call) -> dict[str, Any]:
    return {"answer": call.answer, "problem": call.problem}


def _trl(call: Call) -> dict[str, Any]:
    """Lists of one element, and every column of the problem. Logging has no effect."""
    fixed = ("prompt", "completion", "completion_ids")
    values: dict[str, Any] = {name: [value] for name, value in call.problem.items() if name not in fixed}
    values |= {"completions": [call.completion], "log_extra": _ignore, "log_metric": _ignore}
    values |= {"trainer_state": SimpleNamespace(global_step=call.context.get("step", 0))}
    values |= {} if call.prompt is None else {"prompts": [call.prompt]}
    return values | ({"completion_ids": [list(ids)]} if (ids := call.context.get("completion_ids")) is not None else {})


def _openrlhf(call: Call) -> dict[str, Any]:
    values: dict[str, Any] = {"labels": [call.gold]}
    if call.prompt is None:
        return values
    return values | {"queries": [f"{call.prompt}{call.answer}"], "prompts": [call.prompt]}


def _verl(call: Call) -> dict[str, Any]:
    values = {"solution_str": call.answer, "extra_info": call.problem.get("extra_info", call.problem)}
    values |= {} if call.gold is None else {"ground_truth": call.gold}
    source = call.problem.get("data_source", call.context.get("domain"))
    return values | ({} if source is None else {"data_source": source})


def _verifiers(call: Call) -> dict[str, Any]:
    values = {"prompt": call.prompt, "completion": call.completion, "answer": "" if call.gold is None else call.gold}
    values |= {"task": call.problem.get("task", "default"), "info": call.problem.get("info", {})}
    return values | {"state": dict(values)}


def _ignore(*values: Any) -> None:
    pass


def _number(value: Any) -> Any:
    return value


def _only(value: Any) -> Any:
    """Return the only element of a list or tensor."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"returned {value!r:.100}, not a list of rewards")
    if len(values) != 1:
        raise ValueError(f"returned {len(values)} rewards for one completion")
    return values[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One accepted signature."""

    text: str
    """The signature, for errors."""
    values: Callable[[Call], dict[str, Any]]
    """Returns the values of all its parameters by name."""
    reward: Callable[[Any], Any]
    """Returns the reward in a return value."""
    styles: tuple[Style, ...] = ("text",)


BOTH: tuple[Style, ...] = ("text", "messages")
FORMS: Mapping[str, Form] = {
    "completions": Form(text="TRL (completions, **columns)", values=_trl, reward=_only, styles=BOTH),
    "queries": Form(
        text="OpenRLHF (queries, prompts, labels, **kwargs)",
        values=_openrlhf,
        reward=lambda value: _only(value["rewards"] if isinstance(value, Mapping) else value),
    ),
    "solution_str": Form(
        text="verl (data_source, solution_str, ground_truth, extra_info), or some of them",
        values=_verl,
        reward=_number,
    ),
    "completion": Form(
        text="verifiers (completion, answer, prompt, state, task, info), or some of them",
        values=_verifiers,
        reward=_number,
        styles=BOTH,
    ),
    "problem": Form(text="(answer, problem)", values=_own, reward=_number),
}
"""The forms by the parameter that identifies each. The first that the function has decides."""
