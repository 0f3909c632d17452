"""Sources with another extraction mode: which problems get it, which mode wins, and where it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.task import TaskConfig
from tasks.changed import extraction_modes, with_extraction
from tasks.registry import build
from tasks.source import ListedSource, Source
from trajectories.trajectory import Prompt, domain

MATH = {"name": "word_problems", "domain": "words"}
SUMS = {"name": "countdown"}


def mixture(*domains: dict[str, Any], **settings: str) -> Source:
    return build(TaskConfig(name="mixture", options={"domains": list(domains)}, **settings), seed=0)  # type: ignore[arg-type]


def modes(prompts: list[Prompt]) -> dict[str, set[Any]]:
    """Return the extraction modes in the problems of each domain."""
    found: dict[str, set[Any]] = {}
    for prompt in prompts:
        found.setdefault(domain(prompt.id), set()).add(prompt.problem.get("extraction"))
    return found


def first(source: Source) -> list[Prompt]:
    return [source.prompt(position) for position in range(20)]


def test_every_prompt_of_a_task_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": f"{i}"}) + "\n" for i in range(40)))
    options = {"path": str(path), "heldout_fraction": 0.3}
    source = build(TaskConfig(name="dataset", options=options, extraction="boxed"), seed=0)
    assert isinstance(source, ListedSource)
    prompts = [*first(source), *source.heldout(3), source.demonstration(5)[0], *(one.prompt for one in source.listed())]
    assert modes(prompts) == {"dataset": {"boxed"}}
    plain = build(TaskConfig(name="dataset", options=options), seed=0)
    assert modes(first(plain)) == {"dataset": {None}}
    assert [prompt.text for prompt in first(source)] == [prompt.text for prompt in first(plain)]


def test_only_problems_whose_verifier_reads_the_mode_get_it() -> None:
    assert modes(first(mixture(MATH, SUMS, extraction="boxed"))) == {"words": {"boxed"}, "countdown": {None}}
    as_math = build(TaskConfig(name="few_shot_sums", verifier="math", extraction="last_number"), seed=0)
    assert modes(first(as_math)) == {"few_shot_sums": {"last_number"}}


def test_domains_have_modes_of_their_own_unless_the_task_overrides_them() -> None:
    domains = (MATH | {"extraction": "tag:answer"}, {"name": "word_problems"})
    assert modes(first(mixture(*domains))) == {"words": {"tag:answer"}, "word_problems": {None}}
    assert modes(first(mixture(*domains, extraction="boxed"))) == {"words": {"boxed"}, "word_problems": {"boxed"}}


def test_held_out_prompts_can_be_read_in_another_mode_than_those_of_training() -> None:
    source = build(TaskConfig(name="word_problems", extraction="boxed"), seed=0)
    strict = with_extraction(source, "strict", "monitor.extraction")
    assert modes(strict.heldout(3)) == {"word_problems": {None}}
    assert modes(source.heldout(3)) == {"word_problems": {"boxed"}}
    assert with_extraction(source, "", "monitor.extraction") is source


def test_the_modes_of_prompts_are_those_that_their_verifiers_read() -> None:
    domains = MATH | {"extraction": "tag:answer"}, {"name": "word_problems"}, SUMS
    assert extraction_modes(first(mixture(*domains))) == ["strict", "tag:answer"]
    assert extraction_modes(first(mixture(*domains, extraction="boxed"))) == ["boxed"]
    assert extraction_modes(first(build(TaskConfig(name="countdown"), seed=0))) == []


@pytest.mark.parametrize("verifier", ["", "rewards.py:mine", "first_number"])
def test_a_mode_that_no_verifier_reads_is_refused(verifier: str) -> None:
    name = verifier or "countdown"
    with pytest.raises(ValueError) as caught:
        build(TaskConfig(name="countdown", verifier=verifier, extraction="boxed"), seed=0)
    rule = "must be left out unless prompts have the verifier math"
    assert str(caught.value) == f"task.extraction: {rule}; these have ['{name}'], got 'boxed'"


def test_a_mode_of_a_domain_is_refused_by_the_domains_setting() -> None:
    where = r"^task.options.domains\[1\].extraction: must be "
    with pytest.raises(ValueError, match=where + "left out unless prompts have the verifier math; these have"):
        mixture(MATH, SUMS | {"extraction": "boxed"})
    with pytest.raises(ValueError, match=where + "strict, boxed, last_number or tag:NAME .*, got 'box'"):
        mixture(MATH, {"name": "word_problems", "extraction": "box"})
