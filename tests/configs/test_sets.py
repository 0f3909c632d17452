"""`task=NAME`: known sets as presets, what overrides them, and what they replace."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from configs.config import Config
from configs.heldout import Decoding
from configs.heldout_task import HeldOutTaskConfig
from configs.load import load, to_yaml
from configs.sets import known_set, set_names
from configs.task import TaskConfig
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


FURTHER = ("evaluate.tasks", "monitor.also")


def further(cfg: Config, section: str) -> dict[str, HeldOutTaskConfig]:
    return cfg.evaluate.tasks if section == "evaluate.tasks" else cfg.monitor.also


@pytest.mark.parametrize("section", FURTHER)
@pytest.mark.parametrize("name", NAMED)
def test_a_set_that_is_a_further_task_is_posed_as_it_is_alone(section: str, name: str) -> None:
    alone = load([f"task={name}"]).task
    task = further(load([f"{section}.a.name={name}"]), section)["a"]
    assert {field.name: getattr(task, field.name) for field in fields(TaskConfig)} == asdict(alone)


@pytest.mark.parametrize("section", FURTHER)
def test_what_is_given_for_a_further_task_overrides_its_set(section: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    outer, inner = section.split(".")
    file.write_text(f"{outer}: {{{inner}: {{a: {{name: math500, extraction: boxed}}}}}}\n")
    words = [f"{section}.a.heldout_prompts=64", f"{section}.a.options.heldout_path=mine.jsonl"]
    task = further(load(words, str(file)), section)["a"]
    assert (task.name, task.extraction, task.heldout_prompts) == ("math500", "boxed", 64)
    assert task.options == known_set("math500").options | {"heldout_path": "mine.jsonl"}
    replaced = load([f"{section}.a={{name: gsm8k, answers: 2}}"], str(file))
    assert further(replaced, section)["a"] == further(load([f"{section}.a={{name: gsm8k, answers: 2}}"]), section)["a"]
    record = tmp_path / "config.yaml"
    record.write_text(to_yaml(load(words, str(file))))
    assert load([], str(record)) == load(words, str(file))
    also = further(load([f"{section}.b.name=aime24"], str(record)), section)
    assert (also["a"], also["b"].heldout_prompts) == (task, 30)
    domains = [f"{section}.a.name=mixture", f"{section}.a.options.domains=[{{name: gsm8k}}]"]
    [domain] = further(load(domains), section)["a"].options["domains"]
    assert domain["options"] == known_set("gsm8k").options


@pytest.mark.parametrize("section", FURTHER)
def test_a_further_task_that_is_no_section_is_refused_as_any_other(section: str) -> None:
    with pytest.raises(ValueError, match=rf"^{section}.a: must be a section .*did you mean {section}.a.name=aime24"):
        load([f"{section}.a=aime24"])
    with pytest.raises(ValueError, match=rf"^{section}: must be a mapping, got 'aime24'"):
        load([f"{section}=aime24"])


def test_answers_to_a_set_that_is_a_further_task_may_be_as_long_as_it_needs() -> None:
    words = ["monitor.also.a.name=aime24", "monitor.sampling.temperature=0", "monitor.kl_to_base=false"]

    def decoding(*more: str) -> Decoding:
        cfg = load([*words, *more])
        found = cfg.monitor.also["a"].decoding(cfg.monitor.sampling, cfg.sampling)
        assert cfg.longest_answer == max(found.max_new_tokens, cfg.sampling.max_new_tokens)
        return found

    assert decoding() == Decoding(temperature=0.0, max_new_tokens=3072)
    assert decoding("scale=64gpu") == Decoding(temperature=0.0, max_new_tokens=7168)
    own = decoding("monitor.also.a.sampling={max_new_tokens: 64, top_p: 0.9}")
    assert own == Decoding(temperature=1.0, max_new_tokens=64, top_p=0.9)
    assert load(words).sampling == load([]).sampling, "training is as it was"


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
