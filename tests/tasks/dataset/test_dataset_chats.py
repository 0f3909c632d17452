"""Rows whose prompts are lists of messages, and the rows of verl, TRL and open-instruct."""

from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from configs.task import TaskConfig
from tasks.registry import build
from tests.tasks.dataset.format_rows import OPEN_INSTRUCT, ROWS, TRL, VERL, shown, source

USER = {"role": "user", "content": "What is 48 + 24?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_a_verl_row_is_a_chat_and_its_verifier_gets_every_column_and_the_nested_answer(tmp_path: Path) -> None:
    prompt = shown(tmp_path, "verl", VERL)
    assert list(prompt.messages) == VERL["prompt"]
    assert prompt.text == VERL["prompt"][0]["content"]  # type: ignore[index]
    assert prompt.problem == VERL | {"answer": "72", "ground_truth": "72"}
    assert prompt.verifier == "math"


def test_a_parquet_file_of_verl_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    parquet.write_table(arrow.Table.from_pylist([VERL, VERL]), path)
    options = {"path": str(path), "format": "verl", "heldout_fraction": 1e-9}
    prompt = build(TaskConfig(name="dataset", options=options), seed=0).prompt(0)
    assert list(prompt.messages) == VERL["prompt"]
    assert prompt.problem["extra_info"] == VERL["extra_info"]


@pytest.mark.parametrize(
    ("name", "row", "verifier"),
    [
        ("verl", VERL | {"data_source": "my/sums"}, "math"),
        ("verl", VERL | {"data_source": "codecontests"}, "codecontests"),
        ("verl", VERL | {"data_source": "searchR1_nq"}, "searchR1_nq"),
        ("open_instruct", OPEN_INSTRUCT | {"dataset": ["MATH"], "ground_truth": ["72"]}, "math"),
        ("open_instruct", OPEN_INSTRUCT | {"dataset": "ifeval", "ground_truth": "{}"}, "ifeval"),
        ("open_instruct", OPEN_INSTRUCT | {"dataset": ["math", "code"]}, "code"),
    ],
)
def test_a_row_that_another_kind_of_verifier_judges_names_it(
    tmp_path: Path, name: str, row: dict[str, Any], verifier: str
) -> None:
    assert shown(tmp_path, name, row).verifier == verifier
    assert shown(tmp_path, name, row, verifier="own.module:function").verifier == "own.module:function"


def test_the_answer_of_a_row_for_a_users_verifier_may_be_any_json(tmp_path: Path) -> None:
    numbers = {"target": 22, "numbers": [3, 7, 12]}
    prompt = shown(tmp_path, "verl", VERL | {"reward_model": {"ground_truth": numbers}})
    assert prompt.problem["ground_truth"] == numbers


def test_a_trl_row_keeps_all_turns_and_names_its_answer(tmp_path: Path) -> None:
    prompt = shown(tmp_path, "trl", TRL)
    assert list(prompt.messages) == TRL["prompt"]
    assert prompt.text == "system: Answer in \\boxed{}.\n\nuser: Find x.\n\nassistant: Given what?\n\nuser: 2x = 1"
    assert prompt.problem["answer"] == prompt.problem["solution"] == TRL["solution"]
    for column in ("answer", "solution", "ground_truth"):
        assert shown(tmp_path, "trl", {"prompt": "2x = 1", column: "1/2"}).problem["answer"] == "1/2"
    alone = shown(tmp_path, "trl", {"prompt": "Write a poem.", "words": 7})
    assert (alone.text, alone.messages) == ("Write a poem.", ())
    assert alone.problem == {"prompt": "Write a poem.", "words": 7}


def test_an_open_instruct_row_loses_the_answer_of_the_assistant(tmp_path: Path) -> None:
    answered = [SYSTEM, USER, {"role": "assistant", "content": "72"}]
    prompt = shown(tmp_path, "open_instruct", OPEN_INSTRUCT | {"messages": answered})
    assert list(prompt.messages) == [SYSTEM, USER]
    assert shown(tmp_path, "open_instruct", OPEN_INSTRUCT | {"ground_truth": ["72", "72.0"]}).problem["answer"] == [
        "72",
        "72.0",
    ]


def test_a_plain_row_may_be_a_chat_with_a_nested_answer_or_several(tmp_path: Path) -> None:
    row = {"chat": [SYSTEM, USER], "reward_model": {"ground_truth": ["72", 72.0]}}
    fields = {"prompt_field": "chat", "answer_field": "reward_model.ground_truth"}
    prompt, answer = source(tmp_path, "plain", row, **fields).demonstration(0)
    assert list(prompt.messages) == [SYSTEM, USER]
    assert (prompt.problem["answer"], answer) == (["72", 72.0], "72")
    with pytest.raises(ValueError, match=r"line 1: has no field 'reward_model.truth'; its fields are 'chat'"):
        source(tmp_path, "plain", row, prompt_field="chat", answer_field="reward_model.truth")


def test_the_prompt_template_changes_the_last_message(tmp_path: Path) -> None:
    prompt = shown(tmp_path, "verl", VERL | {"prompt": [SYSTEM, USER]}, prompt_template="{prompt} Think {{hard}}.")
    assert list(prompt.messages) == [SYSTEM, {"role": "user", "content": "What is 48 + 24? Think {hard}."}]


def test_columns_without_a_value_in_a_message_are_left_out(tmp_path: Path) -> None:
    message = USER | {"name": None, "tool_calls": None}
    assert list(shown(tmp_path, "verl", VERL | {"prompt": [message]}).messages) == [USER]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "must end in a message of the user"),
        ([SYSTEM], "must end in a message of the user"),
        ([USER, {"role": "assistant", "content": "72"}], "must end in a message of the user"),
        ([{"role": "user", "content": " "}], "must end in a message of the user"),
        ([USER, SYSTEM, USER], "message 2 must have the role user or assistant, got 'system'"),
        (
            [{"role": "tool", "content": "7"}, USER],
            "message 1 must have the role system or user or assistant, got 'tool'",
        ),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 must be an object with role and a text"),
        ([USER | {"tool_calls": [1]}], "message 1 must be an object with role and a text as content"),
        ([{"from": "human", "value": "?"}], "message 1 must be an object with role and a text as content"),
    ],
)
def test_messages_that_are_no_prompt_are_refused_with_line_field_and_reason(
    tmp_path: Path, messages: list[Any], reason: str
) -> None:
    with pytest.raises(ValueError) as caught:
        shown(tmp_path, "verl", VERL | {"prompt": messages})
    assert "verl.jsonl, line 1: field 'prompt'" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("verl", {"prompt": [USER]}, "field 'reward_model' must be an object with ground_truth, got None"),
        (
            "verl",
            VERL | {"reward_model": {"style": "rule"}},
            "field 'reward_model' must be an object with ground_truth",
        ),
        ("open_instruct", {"messages": [USER]}, "has no field 'ground_truth'"),
        ("open_instruct", {"ground_truth": "72"}, "has no field 'messages'"),
        ("trl", {"question": "?"}, "has no field 'prompt'"),
    ],
)
def test_a_chat_row_without_prompt_or_answer_is_refused(
    tmp_path: Path, name: str, row: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError) as caught:
        shown(tmp_path, name, row)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"plain", "code", "skywork"}))  # skywork: as verl
def test_rows_of_another_format_that_are_read_as_plain_name_their_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"line 1: .* \(did you mean task.options.format={name}\?\)$"):
        shown(tmp_path, "plain", ROWS[name])
