"""What the driver does with a batch: the work is linear in its size, ranks get what they read, and all is put back."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.learning.rank_parts import (
    READ_BY_UPDATE,
    end_to_end,
    merge_columns,
    plan_scores,
    plan_updates,
    with_columns,
)
from configs.learner import LearnerConfig
from configs.load import load, presets
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from tests.objectives.random_answers import batch_for, credited, of, run, weights
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

AT_PLACES = {"aten::index", "aten::index_select", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
"""Operations that touch as many elements of their first tensor as they are given places."""


class Elements(TorchDispatchMode):
    """Counts the elements that torch operations read and write. Views touch none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        at_places, returned = function._schema.name in AT_PLACES, function._schema.returns
        if not any(each.alias_info is not None and not each.alias_info.is_write for each in returned):
            read = (*args[at_places:], *(kwargs or {}).values())
            self.count += sum(map(size, read)) + (0 if any(each.alias_info for each in returned) else size(found))
        return found


def size(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


def work(action: Callable[[], object]) -> tuple[int, int]:
    """Return the elements that an action touches, and the functions that it calls."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with Elements() as elements:
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            action()
        finally:
            sys.setprofile(before)
    return elements.count, calls


def groups_of_four(groups: int) -> list[Group]:
    draw = np.random.default_rng(0)

    def answer(prompt: np.ndarray, index: int) -> Trajectory:
        tokens = np.concatenate([prompt, draw.integers(9, size=draw.integers(1, 30))]).astype(np.int32)
        mask = np.arange(len(tokens)) >= len(prompt)
        return Trajectory(
            prompt_id="p",
            sample_index=index,
            tokens=tokens,
            mask=mask,
            logp_sampler=-mask.astype(np.float32),
            first_version=0,
            last_version=0,
            finish_reason="stop",
            seed=0,
            text="",
            grade=Grade(reward=float(index % 2), status="correct"),
            logp_reference=-mask.astype(np.float32),
        )

    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    prompts = [draw.integers(9, size=5) for _ in range(groups)]
    return [Group(prompt=prompt, trajectories=tuple(answer(p, i) for i in range(4))) for p in prompts]


def batches(small: int) -> list[Batch]:
    return [pack(groups_of_four(number)) for number in (small, 4 * small)]


def assert_linear(small: tuple[int, int], large: tuple[int, int]) -> None:
    for before, after in zip(small, large, strict=True):
        assert after < 5 * before, f"{after / before:.1f} times the work on 4 times the batch"


def test_packing_is_linear() -> None:
    small, large = (work(lambda groups=groups: pack(groups)) for groups in map(groups_of_four, (24, 96)))
    assert_linear(small, large)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_scores_of_all_ranks_are_put_back_in_the_order_of_the_batch(ranks: int) -> None:
    batch = pack(groups_of_four(2))
    divided, parts = plan_scores(batch, LearnerConfig(token_budget=1), ranks)
    assert [micro for rank in divided for micro in rank if not micro] == [[]] * (-8 % ranks)

    def scored(micro: Batch) -> dict[str, torch.Tensor]:
        per_token = {"logp_old": micro.tokens.float(), "distance/term": micro.logp_sampler}
        return per_token | {"value_old": micro.reward + micro.lengths}

    merged = with_columns(
        batch, merge_columns(batch, divided, [end_to_end([scored(micro) for micro in part]) for part in parts])
    )
    assert merged.logp_old is not None and torch.equal(merged.logp_old, batch.tokens.float())
    assert torch.equal(merged.distance["term"], batch.logp_sampler)
    assert merged.value_old is not None and torch.equal(merged.value_old, batch.reward + batch.lengths)


@pytest.mark.parametrize("preset", presets("method"))
def test_ranks_get_every_field_that_the_loss_of_a_preset_reads(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    whole, sent = (run(weights(), [each], cfg) for each in (batch, batch.reduced_to(READ_BY_UPDATE)))
    assert sent[0] == whole[0] and torch.equal(sent[1], whole[1]) and sent[2] == whole[2]


@pytest.mark.parametrize("linear_width", [0.0, 100.0])
@pytest.mark.parametrize("updates", [1, 3])
def test_planning_is_linear_in_a_batch_of_as_many_tokens_per_microbatch(linear_width: float, updates: int) -> None:
    config = LearnerConfig(token_budget=64, updates_per_batch=updates)

    def plan(batch: Batch) -> list[int]:
        planned = plan_updates(batch, config, 4, linear_width)
        return [len(update) for rank in planned for update in rank for _ in update]

    small, large = batches(24)
    assert len(plan(large)) > 2 * len(plan(small)), "the number of microbatches grows with the batch"
    assert_linear(*(work(lambda batch=batch: plan(batch)) for batch in (small, large)))


@pytest.mark.parametrize(
    "preset", ["grpo", "dapo", "apo", "sampo", "dpo", "f_dpg", "gtpo", "unlikeliness", "superhf", "kto"]
)
def test_crediting_is_linear_in_the_number_of_groups(preset: str) -> None:
    cfg = load([f"method={preset}"]).objective
    state = initial_state(cfg, 10)
    assert_linear(*(work(lambda batch=batch: credit(batch, cfg, state)) for batch in batches(24)))
