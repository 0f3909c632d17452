"""Mixtures: quotas, order, names and sides of the prompts of several tasks."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import load
from configs.task import TaskConfig
from orchestrator.commands.paths import absolute
from tasks.mixture import PERIOD_LIMIT, interleaved, quotas
from tasks.registry import build
from tasks.source import Source
from trajectories.trajectory import domain

SMALL = {"name": "countdown", "weight": 3, "label": "small"}
LARGE = {"name": "countdown", "weight": 1, "label": "large", "options": {"numbers": 4}}


def mixture(*parts: dict[str, Any], seed: int = 0, verifier: str = "") -> Source:
    return build(TaskConfig(name="mixture", options={"parts": list(parts)}, verifier=verifier), seed)


def rows(folder: Path, name: str, count: int) -> dict[str, Any]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{name} {i}?", "answer": str(i)}) + "\n" for i in range(count)))
    return {"path": str(path)}


def test_every_period_holds_each_part_exactly_by_its_weight() -> None:
    one = mixture(SMALL, LARGE | {"weight": 2})
    for period in range(20):
        labels = Counter(domain(one.prompt(period * 5 + turn).id) for turn in range(5))
        assert labels == {"small": 3, "large": 2}


def test_the_order_within_a_period_is_its_own_and_fixed_by_the_seed() -> None:
    sources = [mixture(SMALL, LARGE, seed=seed) for seed in (0, 0, 1)]
    orders = [[domain(one.prompt(position).id) for position in range(200)] for one in sources]
    assert orders[0] == orders[1] != orders[2]
    periods = {tuple(orders[0][start : start + 4]) for start in range(0, 200, 4)}
    assert len(periods) == 4, "one part of four may stand at any of four turns"


def test_a_part_gives_its_own_stream_without_gap_or_repeat() -> None:
    one, small = mixture(SMALL, LARGE), build(TaskConfig(name="countdown"), 0)
    texts = [p.text for p in map(one.prompt, range(400)) if domain(p.id) == "small"]
    assert texts == [small.prompt(i).text for i in range(300)]


def test_a_position_alone_determines_the_prompt() -> None:
    positions = [3, 999, 3, 0, 10**12, 500]
    one = mixture(SMALL, LARGE)
    assert [one.prompt(p) for p in positions] == [mixture(SMALL, LARGE).prompt(p) for p in positions]
    assert [one.prompt(p).position for p in positions] == positions
    with pytest.raises(ValueError, match=r"position: must not be negative, got -1"):
        one.prompt(-1)


def test_ids_begin_with_the_label_and_are_unique_across_parts_of_one_task(tmp_path: Path) -> None:
    parts = [
        {"name": "dataset", "label": "sums", "options": rows(tmp_path, "sums", 60) | {"heldout_fraction": 0.3}},
        {"name": "dataset", "options": rows(tmp_path, "products", 60) | {"heldout_fraction": 0.3}},
        {"name": "countdown"},
    ]
    one = mixture(*parts)
    prompts = [*map(one.prompt, range(60)), *one.heldout(9)]
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert {domain(prompt.id) for prompt in prompts} == {"sums", "dataset", "countdown"}
    assert {prompt.id.split("/")[1] for prompt in prompts} == {"train", "heldout"}
    assert all(prompt.text.startswith("sums") for prompt in prompts if domain(prompt.id) == "sums")


def test_held_out_prompts_are_interleaved_by_weight_for_every_seed_and_disjoint_from_training(tmp_path: Path) -> None:
    parts = [
        {"name": "dataset", "weight": 2, "options": rows(tmp_path, "rows", 60) | {"heldout_fraction": 0.4}},
        {"name": "countdown", "weight": 1},
    ]
    held = mixture(*parts).heldout(15)
    assert [prompt.position for prompt in held] == list(range(15))
    assert Counter(domain(prompt.id) for prompt in held) == {"dataset": 10, "countdown": 5}
    assert Counter(domain(prompt.id) for prompt in held[:3]) == {"dataset": 2, "countdown": 1}
    assert mixture(*parts, seed=7).heldout(15) == held
    assert mixture(*parts).heldout(6) == held[:6]
    one = mixture(*parts)
    train = {one.prompt(position).text for position in range(150)}
    assert not train & {prompt.text for prompt in held}


def test_demonstrations_pass_through_and_a_part_without_them_is_named(tmp_path: Path) -> None:
    one = mixture(SMALL, LARGE)
    for position in range(8):
        prompt, answer = one.demonstration(position)
        assert prompt == one.prompt(position)
        assert eval(answer) == prompt.problem["target"]
    row = {"kind": "assert", "question": "?", "tests": "assert f()"}
    (tmp_path / "code.jsonl").write_text(json.dumps(row) + "\n")
    options = {"path": str(tmp_path / "code.jsonl"), "format": "code", "heldout_fraction": 1e-9}
    with pytest.raises(ValueError, match=r"^task.options.parts\[1\].options.format: must be a format whose rows hold"):
        other = mixture(SMALL, {"name": "dataset", "options": options})
        [other.demonstration(position) for position in range(2 * 4)]


def test_a_part_may_have_a_verifier_of_its_own_and_the_task_one_for_all() -> None:
    parts = (SMALL | {"verifier": "my.module:small"}, LARGE)
    verifiers = {domain(p.id): p.verifier for p in map(mixture(*parts).prompt, range(8))}
    assert verifiers == {"small": "my.module:small", "large": "countdown"}
    assert {p.verifier for p in mixture(*parts, verifier="one.for:all").heldout(8)} == {"one.for:all"}


weights = st.lists(st.integers(1, 500) | st.floats(1e-6, 1e6), min_size=1, max_size=6)


@given(weights)
def test_quotas_follow_the_weights_to_a_ten_thousandth(given_weights: list[float]) -> None:
    counts = quotas(given_weights)
    assert min(counts) >= 1
    assert sum(counts) <= PERIOD_LIMIT + len(counts)
    for weight, count in zip(given_weights, counts, strict=True):
        assert abs(weight / sum(given_weights) - count / sum(counts)) <= len(counts) / PERIOD_LIMIT


@pytest.mark.parametrize(
    ("given_weights", "counts"),
    [
        ([0.5, 0.3, 0.2], [5, 3, 2]),
        ([2, 4, 6], [1, 2, 3]),
        ([7.0], [1]),
        ([0.1, 1e-9], [10_000, 1]),
        ([1 / 3, 1 / 7], [7000, 3000]),
    ],
)
def test_quotas_are_the_smallest_whole_numbers_in_the_ratio(given_weights: list[float], counts: list[int]) -> None:
    assert quotas(given_weights) == counts


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 120))
@settings(max_examples=50)
def test_every_beginning_of_the_held_out_turns_is_in_proportion(counts: list[int], length: int) -> None:
    turns = interleaved(counts, length)
    for end in range(length + 1):
        for part, count in enumerate(counts):
            assert abs(turns[:end].count(part) - end * count / sum(counts)) < len(counts)
    whole = interleaved(counts, sum(counts))
    assert Counter(whole) == dict(enumerate(counts))
    assert all(one != other for one, other in pairwise(interleaved([1, 1], length)))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "task.options.parts: must hold at least one part, got []"),
        ([{}], "task.options.parts[0].name: must be the name of a task, got ''"),
        ([{"name": "countdwn"}], "task.options.parts[0].name: must be one of countdown"),
        ([{"name": "countdwn"}], "(did you mean 'countdown'?), got 'countdwn'"),
        ([{"name": "mixture"}], "task.options.parts[0].name: must not be a mixture"),
        ([SMALL, LARGE | {"weight": 0}], "task.options.parts[1].weight: must be above 0 and finite, got 0.0"),
        ([SMALL | {"weight": -1}], "task.options.parts[0].weight: must be above 0 and finite, got -1.0"),
        ([SMALL | {"weight": float("nan")}], "task.options.parts[0].weight: must be above 0 and finite, got nan"),
        ([SMALL | {"weight": float("inf")}], "task.options.parts[0].weight: must be above 0 and finite, got inf"),
        ([SMALL, SMALL], "task.options.parts[1].label: must differ from that of part 0"),
        ([SMALL | {"label": "a/b"}], "task.options.parts[0].label: must be letters, digits, - and _"),
        ([SMALL | {"label": "low"}], "task.options.parts[0].label: must be letters, digits, - and _"),
        ([SMALL | {"wieght": 2}], "wieght"),
        ([SMALL | {"options": {"nubers": 3}}], "task.options.parts[0].options.nubers: unknown option"),
        ([SMALL | {"options": {"numbers": 1}}], "task.options.parts[0].options.numbers: must be between 2 and 8"),
        ([SMALL, {"name": "dataset"}], "task.options.parts[1].options.path: must not be empty"),
    ],
)
def test_bad_parts_are_refused_by_field(parts: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        mixture(*parts)
    assert said in str(caught.value)


def test_too_few_held_out_problems_of_a_part_are_said_of_that_part(tmp_path: Path) -> None:
    one = mixture(SMALL, {"name": "dataset", "weight": 3, "options": rows(tmp_path, "few", 30)})
    with pytest.raises(ValueError, match=r"^task.options.parts\[1\].heldout_prompts: must be at most the \d+ held-out"):
        one.heldout(80)


def test_paths_in_parts_become_absolute_and_the_parts_can_be_given_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows(tmp_path, "rows", 40)
    given = "[{name: dataset, weight: 0.5, options: {path: rows.jsonl}}, {name: countdown, weight: 0.5}]"
    task = absolute(load(["task.name=mixture", f"task.options.parts={given}"])).task
    assert task.options["parts"][0]["options"]["path"] == str(tmp_path / "rows.jsonl")
    one = build(task, 0)
    assert {domain(one.prompt(i).id) for i in range(2)} == {"dataset", "countdown"}
