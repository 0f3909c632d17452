"""What is refused for lack of memory, and the changes that are named."""

import re

import pytest

from configs.load import load
from orchestrator.planning.memory import memory_plan
from orchestrator.planning.nearest_change import COUNTS, lacking, nearest_changes, refusal
from orchestrator.planning.phases import Host
from tests.orchestrator.planning.known_models import shapes_of

CASES = [
    ("72B", ["scale=8gpu"]),
    ("14B", ["scale=8gpu"]),
    ("7B", ["scale=8gpu", "learner.gradient_checkpointing=false"]),
    ("7B", ["scale=1gpu"]),
    ("32B", ["scale=16gpu", "placement.learners=8"]),
    ("1.5B", ["scale=1gpu", "generator.memory_fraction=0.9"]),
    ("72B", ["scale=8gpu", "learner.layout=pad", "sampling.max_new_tokens=120000"]),
]


@pytest.mark.parametrize(("name", "words"), CASES)
def test_every_change_that_is_named_solves_its_problem(name: str, words: list[str]) -> None:
    shapes, cfg = shapes_of(name), load(words)
    problems = lacking(memory_plan(cfg, shapes, 80e9))
    assert problems
    for problem in problems:
        changes = nearest_changes(cfg, shapes, 80e9, problem)
        assert changes, problem
        for change in changes:
            assert problem not in lacking(memory_plan(load([*words, *change.split()]), shapes, 80e9)), change


def test_the_named_number_of_learners_is_the_smallest_that_fits() -> None:
    shapes, cfg = shapes_of("72B"), load(["scale=8gpu"])
    changes = nearest_changes(cfg, shapes, 80e9, "learner")
    [found] = [int(change.removeprefix("placement.learners=")) for change in changes if ".learners=" in change]
    before = COUNTS[COUNTS.index(found) - 1]
    assert "learner" in lacking(memory_plan(load(["scale=8gpu", f"placement.learners={before}"]), shapes, 80e9))


def test_a_refusal_shows_a_sum_that_adds_up() -> None:
    text = refusal(load(["scale=8gpu"]), shapes_of("72B"), 80e9)
    first = text.splitlines()[0]
    assert first.startswith("placement: a learner GPU (4 of them) must hold ")
    got, total = re.search(r"got (.*) = ([\d.]+) GB\. It fits with placement\.learners=", first).groups()  # type: ignore[union-attr]
    assert sum(float(term.split()[-1]) for term in got.split(" + ")) == pytest.approx(float(total), abs=0.5)
    assert "generator.memory_fraction: must leave room for one sequence" in text
    assert refusal(load(["scale=8gpu"]), shapes_of("7B"), 80e9) == ""


def test_a_larger_gpu_needs_no_change() -> None:
    assert "learner" in refusal(load(["scale=8gpu"]), shapes_of("14B"), 80e9)
    assert refusal(load(["scale=8gpu"]), shapes_of("14B"), 141e9) == ""


def test_a_policy_for_which_no_change_is_enough_is_refused_with_the_sum_alone() -> None:
    text = refusal(load(["scale=1gpu"]), shapes_of("72B"), 80e9)
    assert " GB. No change of two settings fits: take a scale with more GPUs, or a smaller policy" in text


def test_a_host_without_the_memory_is_refused_and_no_change_moves_the_states_to_it() -> None:
    """14B: the states of 4 ranks are 16 x 14.8 GB = 236 GB, beside a checkpoint of 177 GB."""
    cfg, shapes = load(["scale=8gpu", "learner.token_budget=4096", "sampling.max_new_tokens=2048"]), shapes_of("14B")
    small, large = Host(memory=300e9), Host(memory=1000e9)
    assert "learner.offload_states=true" in nearest_changes(cfg, shapes, 60e9, "learner", large)
    assert "learner.offload_states=true" not in nearest_changes(cfg, shapes, 60e9, "learner", small)
    offloaded = load(["scale=8gpu", "learner.offload_states=true"])
    text = refusal(offloaded, shapes, 141e9, small)
    assert text.startswith(
        "placement: a host of 4 learner, 3 generator, 1 reference must hold an update in 300.0 GB, got "
    )
    assert "states of the learner 236" in text and "learner.offload_states=false" in text.split("It fits with")[1]
    assert lacking(memory_plan(offloaded, shapes, 141e9, small)) == ["host"]
    assert refusal(offloaded, shapes, 141e9, large) == ""


def test_a_host_with_fewer_gpus_holds_fewer_ranks() -> None:
    cfg = load(["scale=8gpu", "learner.offload_states=true"])
    of_two, of_eight = (memory_plan(cfg, shapes_of("7B"), 80e9, Host(memory=1e12, gpus=n)).hosts[0] for n in (2, 8))
    assert of_two.name == "2 learner"
    states = [place.peak.parts["states of the learner"] for place in (of_two, of_eight)]
    assert states[1] == 2 * states[0]
