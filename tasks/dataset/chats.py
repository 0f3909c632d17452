"""Rows as verl, TRL and open-instruct read them: prompts are texts or lists of messages."""

import json
from typing import Any

from tasks.dataset.rows import Malformed, Row, RowOptions, answer_of, first_of, is_answer, prompt_of, text_of
from trajectories.trajectory import chat_text

TRL_ANSWERS = ("answer", "solution", "ground_truth")
"""Columns of a TRL row that may hold the right answer, the first one that is there."""
OTHER_SOURCES = ("codecontests", "apps", "codeforces", "taco", "hiyouga/geometry3k", "searchR1_")
"""Beginnings of `data_source` whose answers verl judges as programs, on images, or by search."""
MATHEMATICS = ("gsm8k", "math")
"""Parts of the names of open-instruct's verifiers of mathematics."""


def read_verl(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of verl; the right answer is `reward_model.ground_truth`.

    The verifier also gets it as `ground_truth`, and every column. A row whose `data_source` is not mathematics in verl
    names that as its verifier, which `task.verifier` has to replace.
    """
    model, source = row.get("reward_model"), row.get("data_source")
    if not isinstance(model, dict) or model.get("ground_truth") is None:
        raise Malformed(f"field 'reward_model' must be an object with ground_truth, got {model!r:.100}")
    other = isinstance(source, str) and source.startswith(OTHER_SOURCES)
    verifier = str(source) if other else ""
    return _row(row, "prompt", model["ground_truth"], "reward_model.ground_truth", verifier)


def read_skywork(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of Skywork-OR1: as of verl, with a JSON list of right answers as `reward_model.ground_truth`."""
    model = row.get("reward_model")
    given = model.get("ground_truth") if isinstance(model, dict) else None
    try:
        answers = json.loads(given) if isinstance(given, str) else None
    except (ValueError, RecursionError):
        answers = None
    if not (isinstance(answers, list) and is_answer(answers)):
        raise Malformed(f"field 'reward_model' must have a JSON list of answers as ground_truth, got {given!r:.100}")
    return read_verl(row | {"reward_model": {"ground_truth": answers}}, options)


def read_orz(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of Open-Reasoner-Zero: two messages, the problem's `value` and `ground_truth.value`."""
    human, assistant = row.get("0"), row.get("1")
    truth = assistant.get("ground_truth") if isinstance(assistant, dict) else None
    if not isinstance(human, dict) or not isinstance(truth, dict):
        raise Malformed(f"must be a message with value and one with ground_truth, got {row!r:.100}")
    question, answer = text_of(human, "value"), answer_of(truth, "value")
    return Row(
        key=question,
        shown={"question": question},
        problem={"answer": answer, "question": question},
        solution=f"\\boxed{{{first_of(answer)}}}",
        columns={"answer": "ground_truth.value"},
    )


def read_trl(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of TRL's GRPO: a prompt, and columns for the reward functions, the right answer among them if any."""
    column = next((name for name in TRL_ANSWERS if row.get(name) is not None), "answer")
    return _row(row, "prompt", row.get(column), column, "")


def read_open_instruct(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of open-instruct: `messages`, `ground_truth`, and `dataset`, the name of a verifier.

    A last message of the assistant is left out. A row whose `dataset` is not mathematics names that as its verifier,
    which `task.verifier` has to replace.
    """
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(messages, list) and isinstance(last, dict) and last.get("role") == "assistant":
        row = row | {"messages": messages[:-1]}
    if row.get("ground_truth") is None:
        raise Malformed(f"has no field 'ground_truth'; its fields are {', '.join(map(repr, row)) or 'none'}")
    names = row["dataset"] if isinstance(row.get("dataset"), list) else [row.get("dataset") or "math"]
    other = [str(name) for name in names if not any(part in str(name).lower() for part in MATHEMATICS)]
    return _row(row, "messages", row["ground_truth"], "ground_truth", other[0] if other else "")


def _row(row: dict[str, Any], prompt_column: str, answer: Any, answer_column: str, verifier: str) -> Row:
    """Return the row of a prompt and a right answer, which may be any JSON: a user's verifier may need an object."""
    prompt, messages = prompt_of(row, prompt_column)
    return Row(
        key=chat_text(messages) if messages else prompt,
        shown={"prompt": prompt},
        problem=row | ({} if answer is None else {"answer": answer, "ground_truth": answer}),
        solution=first_of(answer) if is_answer(answer) else None,
        columns={"answer": answer_column, "ground_truth": answer_column},
        messages=messages,
        verifier=verifier,
    )
