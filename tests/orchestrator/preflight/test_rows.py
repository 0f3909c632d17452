"""Every row before a run starts: tokenized and checked by its verifier once; faults name file, line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.preflight.rows import FOLDER
from tests.orchestrator.preflight.changed_policies import dataset, reported, rows, with_template

TIED = "CREATE TABLE s (name TEXT, score INTEGER); INSERT INTO s VALUES ('a', 9), ('b', 9), ('c', 7);"


def sums(count: int, **first: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{i} + 1?", "answer": str(i + 1)} | (first if i == 0 else {}) for i in range(count)]


def test_a_sql_gold_whose_limit_cuts_a_tie_is_named_with_file_line_and_field(tiny_policy: Path, tmp_path: Path) -> None:
    golds = ["SELECT name FROM s ORDER BY score LIMIT 1", "SELECT name FROM s ORDER BY score DESC LIMIT 1"]
    questions = [{"question": f"Q{i}", "schema_sql": TIED, "gold_sql": golds[i == 3]} for i in range(5)]
    path = rows(tmp_path / "rows.jsonl", *questions)
    lines = reported(tiny_policy, tmp_path, *dataset(path, format="sql"), "sampling.max_prompt_tokens=300")
    [fault] = [line for line in lines if "must not cut a tie" in line]
    assert fault.strip().startswith(
        f"{path}, line 4: field 'gold_sql': its LIMIT must not cut a tie, got ORDER BY score"
    )


def test_a_fault_names_the_column_of_the_file(tiny_policy: Path, tmp_path: Path) -> None:
    math = [{"problem": f"Find {i}.", "solution": f"\\boxed{{{i}}}"} for i in range(5)]
    path = rows(tmp_path / "rows.jsonl", *math, {"problem": "Find it.", "solution": "\\boxed{\\,}"})
    lines = reported(tiny_policy, tmp_path, *dataset(path, format="math"), "sampling.max_prompt_tokens=300")
    [fault] = [line for line in lines if "line 6" in line]
    assert fault.strip() == f"{path}, line 6: field 'solution': must not be empty, got '\\\\,'"


def test_tests_that_are_no_python_are_named(tiny_policy: Path, tmp_path: Path) -> None:
    row = {"kind": "assert", "question": "Double it.", "entry_point": "double", "tests": "assert double(4) == 8"}
    path = rows(tmp_path / "rows.jsonl", row, row, row | {"tests": "assert double(4) = 8"})
    lines = reported(tiny_policy, tmp_path, *dataset(path, format="code"), "sampling.max_prompt_tokens=300")
    assert any(f"{path}, line 3: field 'tests': must be Python" in line for line in lines)


def test_rows_are_refused_if_most_right_answers_cannot_be_used(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *[{"prompt": f"{i}?", "answer": "\\,"} for i in range(6)], *sums(3))
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: field 'answer': .* 6 of 9 rows are faulty"):
        reported(tiny_policy, tmp_path, *dataset(path))


def test_rows_with_long_prompts_are_counted_and_the_longest_is_given(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *sums(9, prompt="x" * 50))
    lines = reported(tiny_policy, tmp_path, *dataset(path))
    assert any("9 rows checked in" in line and line.endswith("the longest prompt has 50 tokens") for line in lines)
    assert "1 rows have prompts longer than sampling.max_prompt_tokens=32: skipped" in lines


def test_rows_that_are_all_too_long_are_refused_even_the_held_out_ones(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *sums(9))
    with pytest.raises(ValueError, match=r"^sampling.max_prompt_tokens: .* got 5 and prompts of 6 to 6 tokens"):
        reported(tiny_policy, tmp_path, *dataset(path), "sampling.max_prompt_tokens=5")


def test_a_row_that_the_chat_template_refuses_is_named(tiny_policy: Path, tmp_path: Path) -> None:
    template = "{% if 'Q' in messages[0].content %}{{ raise_exception('no Q') }}{% endif %}{{ messages[0].content }}"
    policy = with_template(tiny_policy, tmp_path / "policy", template)
    path = rows(tmp_path / "rows.jsonl", *sums(9))
    held = rows(tmp_path / "held.jsonl", {"prompt": "Q??", "answer": "1"})
    given = dataset(path, heldout_path=str(held))
    with pytest.raises(ValueError, match=r"held.jsonl, line 1: policy.chat_template: must render .*no Q"):
        reported(policy, tmp_path, *given, "policy.chat_template=true")


def test_a_row_that_is_rendered_already_is_named(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    path = rows(tmp_path / "rows.jsonl", *sums(9))
    held = rows(tmp_path / "held.jsonl", {"prompt": "<pad>user: 1 + 1?", "answer": "2"})
    with pytest.raises(ValueError, match=r"^policy.chat_template: must be false, .*held.jsonl, line 1 is already rend"):
        reported(policy, tmp_path, *dataset(path, heldout_path=str(held)), "policy.chat_template=true")


def test_a_result_is_kept_until_rows_settings_or_tokenizer_change(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *sums(9))
    policy = with_template(tiny_policy, tmp_path / "policy")

    def checked(*overrides: str) -> bool:
        """Whether the rows were checked, and not read from an earlier result."""
        [line] = [line for line in reported(policy, tmp_path, *dataset(path), *overrides) if "9 rows checked" in line]
        return "checked before" not in line

    assert checked()
    assert not checked()
    assert not checked("seed=4", "groups_per_step=3")
    assert checked("sampling.max_prompt_tokens=31")
    rows(path, *sums(9, answer="7"))
    assert checked()
    (policy / "tokenizer_config.json").write_text((policy / "tokenizer_config.json").read_text() + "\n")
    assert checked()
    assert not checked()
    for kept in (tmp_path / FOLDER).iterdir():
        kept.write_text("{")
    assert checked(), "a broken file is replaced"


def test_the_rows_of_a_mixture_and_of_a_replayed_task_are_checked(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *sums(9, answer="\\,"))
    replayed = rows(tmp_path / "replayed.jsonl", *sums(9))
    domains = [{"name": "countdown"}, {"name": "dataset", "options": {"path": str(path)}}]
    lines = reported(
        tiny_policy,
        tmp_path,
        "task.name=mixture",
        f"task.options={json.dumps({'domains': domains})}",
        "monitor.every=0",
        "objective.replay_weight=1",
        "replay.task=dataset",
        f"replay.options={json.dumps({'path': str(replayed)})}",
    )
    assert any(f"{path}, line 1: field 'answer': must not be empty" in line for line in lines)
    assert any(f"{replayed}: 9 rows checked" in line for line in lines)


def test_a_domain_whose_verifier_does_not_exist_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", *sums(9))
    domains = [{"name": "countdown", "weight": 500}, {"name": "dataset", "options": {"path": str(path)}}]
    domains[1]["options"] = {"path": str(path), "verifier": "mth"}
    with pytest.raises(
        ValueError, match=r"^task\.options\.domains\[1\]\.options\.verifier: must be one of .*'math'.* got 'mth'"
    ):
        reported(
            tiny_policy,
            tmp_path,
            "task.name=mixture",
            f"task.options={json.dumps({'domains': domains})}",
            "monitor.every=0",
        )
