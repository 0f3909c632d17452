"""Every known set, on hand-made rows in its own columns and files, from a cache of the Hugging Face Hub."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_cache import HubCache, hub_cache

from configs.load import load
from configs.sets import known_set, set_names
from configs.task import TaskConfig
from orchestrator.preflight.named import check_training
from orchestrator.preflight.rows import report_missing
from rewards.judge import judge_all
from tasks.dataset.formats import FORMATS
from tasks.registry import build
from tasks.source import EvaluationOnly, Source, first_prompts
from tests.tasks.dataset.format_rows import make_databases
from tests.tasks.dataset.set_rows import EXAMPLES, texts
from trajectories.trajectory import Prompt


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    make_databases(tmp_path)
    return hub_cache(tmp_path / "home", monkeypatch)


def posed(cache: HubCache, name: str, **options: object) -> Source:
    """Return the source of a set, chosen as a user chooses it, from a cache with its example."""
    example = EXAMPLES[name]
    cache.add("dataset", example.repository, {"README.md": example.card} | texts(example.files))
    if example.heldout:
        repository, files = example.heldout
        cache.add("dataset", repository, texts(files))
    databases = {"database_dir": str(cache.home.parent / "databases")} if name in ("spider", "bird") else {}
    task = load([f"task={name}"]).task
    options = task.options | databases | options
    if "path" in options and "heldout_path" not in options:
        options["heldout_fraction"] = 1e-9  # all rows are trained on
    return build(replace(task, options=options), seed=0)


def first(source: Source, name: str) -> Prompt:
    """Return the prompt of the example: a held-out one if the set has held-out rows of its own."""
    held = "heldout_path" in known_set(name).options
    return source.heldout(1)[0] if held else min((source.prompt(i) for i in range(20)), key=lambda p: p.id)


def test_every_known_set_has_an_example_here() -> None:
    assert sorted(EXAMPLES) == set_names()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_prompt_of_a_set_reads_as_its_yaml_says(cache: HubCache, name: str) -> None:
    prompt, known = first(posed(cache, name), name), known_set(name)
    assert prompt.text == EXAMPLES[name].prompt
    assert prompt.id.startswith(f"{name}/")
    assert prompt.verifier == known.options["verifier"] == FORMATS[known.options["format"]].verifier


def columns_of(row: Any) -> dict[Any, Any]:
    """Return the columns of a row by name; those of an array by index."""
    return dict(enumerate(row)) if isinstance(row, list) else row


def cut(files: dict[str, list[Any]], columns: list[Any]) -> dict[str, list[Any]]:
    """Return files of rows with these columns alone."""
    return {
        path: [
            [row[index] for index in columns] if isinstance(row, list) else {c: row[c] for c in columns if c in row}
            for row in rows
        ]
        for path, rows in files.items()
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_columns_that_a_set_names_are_in_its_rows_and_are_all_that_a_prompt_is_made_of(
    cache: HubCache, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    example, columns = EXAMPLES[name], known_set(name).columns
    files = [*example.files.values(), *(example.heldout[1].values() if example.heldout else ())]
    assert any(set(columns) <= columns_of(row).keys() for rows in files for row in rows)
    whole = first(posed(cache, name), name)
    heldout = example.heldout and (example.heldout[0], cut(example.heldout[1], columns))
    monkeypatch.setitem(EXAMPLES, name, replace(example, files=cut(example.files, columns), heldout=heldout))
    alone = first(posed(cache, name), name)
    assert (alone.text, alone.messages, alone.verifier) == (whole.text, whole.messages, whole.verifier)
    assert alone.problem.items() <= whole.problem.items()


@pytest.mark.parametrize("verifier", ["math", "sql", "code"])
def test_right_answers_to_a_set_pass_and_wrong_ones_fail(cache: HubCache, verifier: str) -> None:
    names = [name for name in EXAMPLES if known_set(name).options["verifier"] == verifier]
    assert len(names) >= 2
    asked = [(name, first(posed(cache, name), name).problem) for name in names]
    cases = [(name, problem, text, True) for name, problem in asked for text in EXAMPLES[name].right]
    cases += [(name, problem, text, False) for name, problem in asked for text in EXAMPLES[name].wrong]
    verdicts = judge_all(verifier, [(problem, text) for _, problem, text, _ in cases], require=0)
    judged = [(name, text, verdict.reward == 1) for (name, _, text, _), verdict in zip(cases, verdicts, strict=True)]
    assert judged == [(name, text, right) for name, _, text, right in cases]
    assert all(verdict.status != "grader_error" for verdict in verdicts)


def test_private_tests_of_livecodebench_are_read_plain_and_packed(cache: HubCache) -> None:
    plain, packed = sorted(posed(cache, "livecodebench").heldout(2), key=lambda prompt: prompt.id)
    assert (plain.id, packed.id) == (
        "livecodebench/heldout/test.jsonl/line-1",
        "livecodebench/heldout/test6.jsonl/line-1",
    )
    assert plain.problem == packed.problem and len(packed.problem["tests"]) == 2


def test_the_three_forms_of_tests_of_deepcoder_are_read(cache: HubCache) -> None:
    source = posed(cache, "deepcoder")
    problems = {prompt.text.partition(".")[0]: prompt.problem for prompt in map(source.prompt, range(3))}
    assert set(problems) == {"Print the square", "Add", "Square"}
    right = "```python\nprint(int(input()) ** 2)\n```"
    added, wrong = "```python\ndef add(a, b):\n    return a + b\n```", "```python\ndef add(a, b):\n    return a\n```"
    asked = [(problems["Square"], right), (problems["Add"], added), (problems["Add"], wrong)]
    assert [verdict.reward for verdict in judge_all("code", asked, require=0)] == [1, 1, 0]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not known_set(name).trains])
def test_a_set_for_evaluation_is_measured_and_not_trained_on(cache: HubCache, name: str) -> None:
    source = posed(cache, name)
    assert first_prompts(source, 4) == source.heldout(1)
    rows = len(source.heldout(known_set(name).options["heldout_rows"]))  # all that there are
    assert 1 <= rows <= 2
    with pytest.raises(ValueError, match=rf"^task.heldout_prompts: must be at most the {rows} held-out rows"):
        source.heldout(3)
    rule = f"^task.options.path: must name rows to train on; {name} has rows for evaluation only"
    with pytest.raises(EvaluationOnly, match=rule):
        source.prompt(0)
    with pytest.raises(ValueError, match=rule):
        check_training(load([f"task={name}"]))
    insists = posed(cache, name, path=known_set(name).options["heldout_path"], heldout_path="")
    assert insists.prompt(0).id.startswith(f"{name}/train/")


def test_a_train_row_of_a_set_that_is_held_out_too_is_left_out(cache: HubCache) -> None:
    files = EXAMPLES["gsm8k"].files
    train, test = list(files)[:2]
    both = files | {train: files[train] + files[test]}
    cache.add("dataset", "openai/gsm8k", {"README.md": EXAMPLES["gsm8k"].card} | texts(both))
    source = build(load(["task=gsm8k"]).task, seed=0)
    assert {source.prompt(position).text.partition("\n")[0] for position in range(8)} == {"One and one?"}


@pytest.mark.parametrize("name", ["spider", "bird"])
def test_a_set_of_queries_says_where_its_databases_are_published(cache: HubCache, name: str) -> None:
    with pytest.raises(ValueError) as caught:
        posed(cache, name, database_dir="")
    words = str(caught.value)
    assert words.startswith(
        f"task.options.database_dir: must be the folder of the databases with task.options.format={name}"
    )
    assert re.search(r"published at https://\S+, got ''", words)


def test_malformed_rows_of_a_set_are_left_out_unless_all_are(cache: HubCache) -> None:
    example = EXAMPLES["deepscaler"]
    [path] = example.files
    cache.add("dataset", example.repository, texts({path: [{"problem": "?"}, *example.files[path]]}))
    task = load(["task=deepscaler", "task.options.heldout_fraction=1e-9"]).task
    assert build(task, seed=0).prompt(0).id == "deepscaler/train/line-2"
    cache.add("dataset", example.repository, texts({path: [{"problem": "?"}], "README.md": []}))
    with pytest.raises(ValueError, match=r"line 1: must have the field 'answer', or a filled"):
        build(task, seed=0)


def test_fewer_rows_than_a_set_has_are_reported() -> None:
    lines: list[str] = []
    task = load(["task=gsm8k"]).task
    report_missing(task, 7473 + 1319, lines.append)
    report_missing(TaskConfig(name="dataset", options={"path": "mine.jsonl"}), 1, lines.append)
    assert lines == []
    report_missing(task, 7473, lines.append)
    mixture = load(["task=mixture", "task.options.domains=[{name: gsm8k}, {name: aime25}]"]).task
    report_missing(mixture, 8821, lines.append)
    assert lines == [
        "task gsm8k: 7,473 rows, where 8,792 are expected: files are cut short, or rows malformed",
        "task mixture: 8,821 rows, where 8,822 are expected: files are cut short, or rows malformed",
    ]


def test_a_set_and_its_benchmark_are_domains_of_one_mixture(cache: HubCache) -> None:
    for name in ("gsm8k", "deepscaler"):
        posed(cache, name)
    words = "task.options.domains=[{name: gsm8k}, {name: deepscaler, options: {heldout_fraction: 1.0e-9}}]"
    source = build(load(["task=mixture", words]).task, seed=0)
    assert {source.prompt(position).id.partition("/")[0] for position in range(2)} == {"gsm8k", "deepscaler"}
