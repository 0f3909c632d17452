"""Options of tasks: their types, the paths among them, and the names that errors give them."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from configs.load import load
from orchestrator.commands.paths import absolute
from tasks.options import KINDS, PATH, VERIFIER, options_with, settings_named
from tasks.registry import TASKS, Changes, map_paths


def test_errors_can_describe_the_type_of_every_option() -> None:
    for schema, _ in TASKS.values():
        for name, hint in get_type_hints(schema).items():
            assert hint in KINDS or is_dataclass(get_args(hint)[0]), f"{schema.__name__}.{name}"


def test_the_paths_of_a_dataset_are_declared_in_its_options() -> None:
    declared = {name: options_with(schema, PATH) for name, (schema, _) in TASKS.items()}
    assert sorted(declared.pop("dataset")) == ["database_dir", "heldout_path", "path"]
    assert not any(declared.values())
    named_verifiers = {name: options_with(schema, VERIFIER) for name, (schema, _) in TASKS.items()}
    assert {name for name, options in named_verifiers.items() if options} == {"dataset"}
    named = [f.name for schema, _ in TASKS.values() for f in fields(schema) if "path" in f.name or "dir" in f.name]
    assert sorted(named) == ["database_dir", "heldout_path", "path"], "whatever is named as a path is declared as one"


def test_paths_are_mapped_by_the_task_that_declares_them() -> None:
    domains = [
        {"name": "dataset", "options": {"path": "a", "format": "b"}},
        {"name": "countdown", "options": {"path": "c"}},
        {"name": "dataset"},
        {"name": "dataset", "verifier": "v", "options": {"verifier": "w"}},
    ]
    seen = []

    def upper(setting: str, path: str) -> str:
        seen.append(setting)
        return path.upper()

    changes = Changes(path=upper, rows=upper, verifier=lambda setting, name: name.title())
    mapped = map_paths("mixture", {"domains": domains}, changes)["domains"]
    assert seen == ["task.options.domains[0].options.path"]
    assert mapped == [
        domains[0] | {"options": {"path": "A", "format": "b"}},
        *domains[1:3],
        {"name": "dataset", "verifier": "V", "options": {"verifier": "W"}},
    ]
    assert map_paths("countdown", {"path": "a"}, changes) == {"path": "a"}
    assert map_paths("unknown", {"path": "a"}, changes) == {"path": "a"}
    for odd in (3, [3], [{"name": 3, "options": {"path": "a"}}], [{"options": 3}]):
        assert map_paths("mixture", {"domains": odd}, changes) == {"domains": odd}
    assert map_paths("dataset", {"path": ["a"]}, changes) == {"path": ["a"]}


def test_paths_of_task_and_replay_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = absolute(
        load(
            [
                *("task.name=dataset", "task.options.path=rows-*", "task.options.format=bird"),
                *("task.options.database_dir=databases", "task.options.heldout_path=/held.jsonl"),
                "replay.task=mixture",
                "replay.options.domains=[{name: dataset, options: {path: right.jsonl}}]",
            ]
        )
    )
    assert cfg.task.options == {
        "path": str(tmp_path / "rows-*"),
        "format": "bird",
        "database_dir": str(tmp_path / "databases"),
        "heldout_path": "/held.jsonl",
    }
    assert cfg.replay.options["domains"][0]["options"] == {"path": str(tmp_path / "right.jsonl")}


@pytest.mark.parametrize(
    ("message", "renamed"),
    [
        ("task.name: must be x", "replay.task: must be x"),
        ("task.options.a: not with task.options.b=1", "replay.options.a: not with replay.options.b=1"),
        ("task.options: must be", "replay.options: must be"),
        ("rows.jsonl, line 1: my.task.options, subtask.name", "rows.jsonl, line 1: my.task.options, subtask.name"),
        ("task.heldout_prompts: must be", "task.heldout_prompts: must be"),
    ],
)
def test_errors_name_the_settings_of_the_place_that_configures_the_task(message: str, renamed: str) -> None:
    with pytest.raises(ValueError) as caught, settings_named("replay.task", "replay.options"):
        raise ValueError(message)
    assert str(caught.value) == renamed
