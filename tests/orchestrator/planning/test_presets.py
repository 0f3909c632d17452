"""Every scale preset fits the policies it is made for, on GPUs of 80 GB."""

import pytest

from configs.load import load
from orchestrator.planning.memory import memory_plan
from orchestrator.planning.nearest_change import refusal
from tests.orchestrator.planning.known_models import shapes_of


@pytest.mark.parametrize(
    ("scale", "model"),
    [("1gpu", "1.5B"), ("8gpu", "7B"), ("8gpu_colocated", "7B"), ("16gpu", "14B"), ("64gpu", "32B")],
)
def test_a_scale_holds_its_policy_and_decodes_many_answers_at_a_time(scale: str, model: str) -> None:
    cfg, shapes = load([f"scale={scale}", "policy.path=/policy"]), shapes_of(model)
    assert refusal(cfg, shapes, 80e9) == ""
    plan = memory_plan(cfg, shapes, 80e9)
    assert all(place.fits for place in plan.gpus)
    assert plan.sequences >= 64
