"""`task=NAME`: known sets as presets, what overrides them, and what they replace."""

from pathlib import Path

import pytest

from configs.load import load, to_yaml
from configs.sets import known_set, set_names
from orchestrator.commands.paths import absolute

ROOT = Path(__file__).resolve().parents[2]
NAMED = [
    *("gsm8k", "math", "math500", "aime24", "aime25", "amc23", "olympiadbench", "minerva", "humaneval", "mbpp"),
    *("livecodebench", "spider", "bird", "dapo-math-17k", "deepscaler", "orz", "skywork-or1", "deepcoder"),
]


def test_the_known_sets_are_these() -> None:
    assert set_names() == sorted(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_a_set_is_chosen_by_one_word_and_says_what_it_needs(name: str) -> None:
    cfg, known = load([f"task={name}"]), known_set(name)
    assert cfg == load([f"task.name={name}"])
    assert cfg.task.name == name and cfg.task.options == known.options
    assert cfg.sampling.max_prompt_tokens >= 512 and cfg.sampling.max_new_tokens >= 1024
    assert {"format", "prompt_template", "verifier"} <= known.options.keys() and known.columns and known.license
    if not known.trains:
        assert cfg.task.heldout_prompts == known.options["heldout_rows"]


def test_options_are_overridden_beside_the_name_in_any_order() -> None:
    for words in (["task=gsm8k", "task.options.rows=5"], ["task.options.rows=5", "task=gsm8k"]):
        cfg = load([*words, "task.options.heldout_path=mine.jsonl", "sampling.max_new_tokens=64"])
        assert cfg.task.options == known_set("gsm8k").options | {"rows": 5, "heldout_path": "mine.jsonl"}
        assert cfg.sampling.max_new_tokens == 64


def test_a_scale_with_longer_answers_keeps_them() -> None:
    assert load(["task=gsm8k"]).sampling.max_new_tokens == known_set("gsm8k").max_new_tokens
    assert load(["task=gsm8k", "scale=64gpu"]).sampling.max_new_tokens == 7168


def test_a_file_names_a_set_and_changes_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("task: aime25\n")
    assert load([], str(file)) == load(["task=aime25"])
    file.write_text("task: {name: aime25, options: {heldout_rows: 5}, heldout_prompts: 5}\n")
    cfg = load([], str(file))
    assert (cfg.task.heldout_prompts, cfg.task.options["format"]) == (5, "math")
    assert load(["task=amc23"], str(file)).task == load(["task=amc23"]).task


def test_the_record_of_a_run_is_read_as_it_was_written_and_measured_on_another_set(tmp_path: Path) -> None:
    record = tmp_path / "config.yaml"
    cfg = load(["task=gsm8k", "task.options.path=mine.jsonl", "task.extraction=boxed"])
    record.write_text(to_yaml(cfg))
    assert load([], str(record)) == cfg == load(["task=gsm8k"], str(record))
    other = load(["task=aime25"], str(record))
    assert other.task == load(["task=aime25"]).task
    assert other.sampling == cfg.sampling  # a record sets every section
    assert load(["task=countdown"], str(record)).task.options == {}


def test_sets_are_tasks_wherever_a_task_is_named() -> None:
    words = [
        *("task=mixture", "task.options.domains=[{name: gsm8k}, {name: math, options: {rows: 3}}]"),
        *("replay.task=mbpp", "inspect_task.others.benchmark.task=math500"),
    ]
    cfg = load(words)
    domains = cfg.task.options["domains"]
    assert domains[0]["options"] == known_set("gsm8k").options
    assert domains[1]["options"] == known_set("math").options | {"rows": 3}
    assert cfg.replay.options == known_set("mbpp").options
    assert cfg.inspect_task.others["benchmark"].options == known_set("math500").options


@pytest.mark.parametrize(("word", "near"), [("aime52", "aime25"), ("gsmk8", "gsm8k"), ("contdown", "countdown")])
def test_a_name_that_is_no_task_is_refused_with_the_names(word: str, near: str) -> None:
    with pytest.raises(ValueError) as caught:
        absolute(load([f"task={word}"]))
    assert str(caught.value).startswith("task.name: must be one of countdown, ")
    assert f"or of the sets aime24, aime25, amc23, {''}" in str(caught.value)
    assert f"(did you mean '{near}'?), got '{word}'" in str(caught.value)


def test_a_question_mark_answers_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"^task.name: must be one of countdown, .*gsm8k.*, got '\?'$"):
        absolute(load(["task=?"]))


def test_sets_are_in_the_wheel() -> None:
    assert '"sets/*.yaml"' in (ROOT / "pyproject.toml").read_text()
