"""Mixtures: quotas, order, ids and held-out prompts of several domains."""

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

SMALL = {"name": "countdown", "weight": 3, "domain": "small"}
LARGE = {"name": "countdown", "weight": 1, "domain": "large", "options": {"numbers": 4}}


def mixture(*domains: dict[str, Any], seed: int = 0, verifier: str = "") -> Source:
    return build(TaskConfig(name="mixture", options={"domains": list(domains)}, verifier=verifier), seed)


def rows(folder: Path, name: str, count: int) -> dict[str, Any]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{name} {i}?", "answer": str(i)}) + "\n" for i in range(count)))
    return {"path": str(path)}


def test_every_period_holds_each_domain_exactly_by_its_weight() -> None:
    one = mixture(SMALL, LARGE | {"weight": 2})
    for period in range(20):
        counts = Counter(domain(one.prompt(period * 5 + offset).id) for offset in range(5))
        assert counts == {"small": 3, "large": 2}


def test_each_period_has_its_own_order_fixed_by_the_seed() -> None:
    sources = [mixture(SMALL, LARGE, seed=seed) for seed in (0, 0, 1)]
    orders = [[domain(one.prompt(position).id) for position in range(200)] for one in sources]
    assert orders[0] == orders[1] != orders[2]
    periods = {tuple(orders[0][start : start + 4]) for start in range(0, 200, 4)}
    assert len(periods) == 4, "the one prompt of `large` may be at any of four places"


def test_a_domain_gives_its_own_stream_without_gap_or_repeat() -> None:
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


def test_ids_begin_with_the_domain_and_are_unique_across_domains_of_one_task(tmp_path: Path) -> None:
    domains = [
        {"name": "dataset", "domain": "sums", "options": rows(tmp_path, "sums", 60) | {"heldout_fraction": 0.3}},
        {"name": "dataset", "options": rows(tmp_path, "products", 60) | {"heldout_fraction": 0.3}},
        {"name": "countdown"},
    ]
    one = mixture(*domains)
    prompts = [*map(one.prompt, range(60)), *one.heldout(9)]
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert {domain(prompt.id) for prompt in prompts} == {"sums", "dataset", "countdown"}
    assert {prompt.id.split("/")[1] for prompt in prompts} == {"train", "heldout"}
    assert all(prompt.text.startswith("sums") for prompt in prompts if domain(prompt.id) == "sums")


def test_held_out_prompts_are_interleaved_by_weight_for_every_seed_and_disjoint_from_training(tmp_path: Path) -> None:
    domains = [
        {"name": "dataset", "weight": 2, "options": rows(tmp_path, "rows", 60) | {"heldout_fraction": 0.4}},
        {"name": "countdown", "weight": 1},
    ]
    held = mixture(*domains).heldout(15)
    assert [prompt.position for prompt in held] == list(range(15))
    assert Counter(domain(prompt.id) for prompt in held) == {"dataset": 10, "countdown": 5}
    assert Counter(domain(prompt.id) for prompt in held[:3]) == {"dataset": 2, "countdown": 1}
    assert mixture(*domains, seed=7).heldout(15) == held
    assert mixture(*domains).heldout(6) == held[:6]
    one = mixture(*domains)
    train = {one.prompt(position).text for position in range(150)}
    assert not train & {prompt.text for prompt in held}


def test_demonstrations_are_those_of_the_domains_and_an_error_names_the_domain_without_any(tmp_path: Path) -> None:
    one = mixture(SMALL, LARGE)
    for position in range(8):
        prompt, answer = one.demonstration(position)
        assert prompt == one.prompt(position)
        assert eval(answer) == prompt.problem["target"]
    row = {"kind": "assert", "question": "?", "tests": "assert f()"}
    (tmp_path / "code.jsonl").write_text(json.dumps(row) + "\n")
    options = {"path": str(tmp_path / "code.jsonl"), "format": "code", "heldout_fraction": 1e-9}
    with pytest.raises(
        ValueError, match=r"^task.options.domains\[1\].options.format: must be a format whose rows hold"
    ):
        other = mixture(SMALL, {"name": "dataset", "options": options})
        [other.demonstration(position) for position in range(2 * 4)]


def test_a_domain_may_have_its_own_verifier_and_the_task_one_for_all_domains() -> None:
    domains = (SMALL | {"verifier": "my.module:small"}, LARGE)
    verifiers = {domain(p.id): p.verifier for p in map(mixture(*domains).prompt, range(8))}
    assert verifiers == {"small": "my.module:small", "large": "countdown"}
    assert {p.verifier for p in mixture(*domains, verifier="one.for:all").heldout(8)} == {"one.for:all"}


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
def test_every_beginning_of_the_held_out_order_is_in_proportion(counts: list[int], length: int) -> None:
    order = interleaved(counts, length)
    for end in range(length + 1):
        for index, count in enumerate(counts):
            assert abs(order[:end].count(index) - end * count / sum(counts)) < len(counts)
    whole = interleaved(counts, sum(counts))
    assert Counter(whole) == dict(enumerate(counts))
    assert all(one != other for one, other in pairwise(interleaved([1, 1], length)))


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ([], "task.options.domains: must hold at least one domain, got []"),
        ([{}], "task.options.domains[0].name: must be the name of a task, got ''"),
        ([{"name": "countdwn"}], "task.options.domains[0].name: must be one of countdown"),
        ([{"name": "countdwn"}], "(did you mean 'countdown'?), got 'countdwn'"),
        ([{"name": "mixture"}], "task.options.domains[0].name: must not be a mixture"),
        ([SMALL, LARGE | {"weight": 0}], "task.options.domains[1].weight: must be above 0 and finite, got 0.0"),
        ([SMALL | {"weight": -1}], "task.options.domains[0].weight: must be above 0 and finite, got -1.0"),
        ([SMALL | {"weight": float("nan")}], "task.options.domains[0].weight: must be above 0 and finite, got nan"),
        ([SMALL | {"weight": float("inf")}], "task.options.domains[0].weight: must be above 0 and finite, got inf"),
        (
            [SMALL, SMALL],
            "domains[1].domain: must differ from that of domains[0], because ids and metrics are named by",
        ),
        ([SMALL | {"domain": "a/b"}], "task.options.domains[0].domain: must be letters, digits, - and _"),
        ([SMALL | {"domain": "low"}], "task.options.domains[0].domain: must be letters, digits, - and _"),
        ([SMALL | {"wieght": 2}], "task.options.domains[0].wieght: unknown option (did you mean 'weight'?), got 2"),
        ([SMALL, SMALL | {"weight": "big"}], "task.options.domains[1].weight: must be a number, got 'big'"),
        ([SMALL | {"options": 3}], "task.options.domains[0].options: must be a mapping, got 3"),
        ([SMALL | {"options": {"numbers": "many"}}], "domains[0].options.numbers: must be a whole number, got 'many'"),
        (
            ["countdown"],
            "task.options.domains[0]: must be a mapping of name, weight, options, verifier, extraction, domain, got",
        ),
        (
            [SMALL | {"options": {"target_low": 5_000, "target_high": 6_000}}],
            "domains[0].options: must admit train problems",
        ),
        ([SMALL | {"options": {"nubers": 3}}], "task.options.domains[0].options.nubers: unknown option"),
        ([SMALL | {"options": {"numbers": 1}}], "task.options.domains[0].options.numbers: must be between 2 and 8"),
        ([SMALL, {"name": "dataset"}], "task.options.domains[1].options.path: must not be empty"),
        (
            [SMALL, {"name": "dataset", "options": {"path": "x", "format": "math", "prompt_field": "y"}}],
            "domains[1].options.prompt_field: must be left out with task.options.domains[1].options.format=math",
        ),
    ],
)
def test_errors_of_domains_name_the_option_as_the_user_wrote_it(domains: list[Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        mixture(*domains)
    assert str(caught.value).startswith("task.options.domains")
    assert message in str(caught.value)


def test_a_malformed_row_of_a_domain_is_refused_with_domain_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[]\n")
    with pytest.raises(ValueError) as caught:
        mixture(SMALL, {"name": "dataset", "options": {"path": str(path)}})
    assert str(caught.value).startswith(f"task.options.domains[1]: {path}, line 1: ")


@pytest.mark.parametrize(("options", "got"), [({"domains": 5}, "5"), ({"domains": {"small": SMALL}}, "{small: ")])
def test_domains_must_be_a_list(options: dict[str, Any], got: str) -> None:
    with pytest.raises(ValueError, match=rf"^task.options.domains: must be a list, got {got}"):
        build(TaskConfig(name="mixture", options=options), 0)


def test_too_few_held_out_problems_of_a_domain_are_refused_by_its_name(tmp_path: Path) -> None:
    one = mixture(SMALL, {"name": "dataset", "weight": 3, "options": rows(tmp_path, "few", 30)})
    message = (
        r"^task.heldout_prompts: those of task.options.domains\[1\] must be at most the \d+ held-out rows of "
        r".*few.jsonl \(task.options.domains\[1\].options.heldout_fraction\), got 40$"
    )
    with pytest.raises(ValueError, match=message):
        one.heldout(80)


def test_paths_in_domains_become_absolute_and_the_domains_can_be_given_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows(tmp_path, "rows", 40)
    given = "[{name: dataset, weight: 0.5, options: {path: rows.jsonl}}, {name: countdown, weight: 0.5}]"
    task = absolute(load(["task.name=mixture", f"task.options.domains={given}"])).task
    assert task.options["domains"][0]["options"]["path"] == str(tmp_path / "rows.jsonl")
    one = build(task, 0)
    assert {domain(one.prompt(i).id) for i in range(2)} == {"dataset", "countdown"}
