"""References that are averaged or move towards the policy: closed forms, and their checkpoints."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.local import LocalReference
from actors.policy_files.reading import load_model
from actors.reference import References, soup
from actors.weights.host import pack, weights_info
from configs.references import ReferenceConfig
from orchestrator.references import ReferenceSchedule
from tests.actors.learning.learner_ranks import config_of
from tests.actors.random_batch import random_batch
from tests.conftest import make_policy
from trajectories.trajectory import ROUTES


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return make_policy(folder / "one", seed=1), make_policy(folder / "two", seed=2)


def references(**policies: dict[str, float]) -> References:
    return References(policies, config=config_of(), dtype="float32", temperature=1.0, device="cpu")


def parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def move(target: References, name: str, policy: Path, mixing_weight: float) -> None:
    named = list(load_model(str(policy)).named_parameters())
    target.move(name, weights_info(named), pack(named, 0), mixing_weight)


def test_a_soup_is_the_weighted_average_of_its_policies(pair: tuple[Path, Path]) -> None:
    one, two = (str(path) for path in pair)
    mixed = parameters(soup({one: 0.25, two: 0.75}, torch.float32))
    expected = 0.25 * parameters(load_model(one)) + 0.75 * parameters(load_model(two))
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert not torch.allclose(mixed, parameters(load_model(one)), atol=1e-3)


def test_a_soup_of_one_policy_or_of_equal_ones_is_that_policy(pair: tuple[Path, Path], tmp_path: Path) -> None:
    one = str(pair[0])
    again = str(make_policy(tmp_path / "again", seed=1))
    assert torch.equal(parameters(soup({one: 1.0}, torch.float32)), parameters(load_model(one)))
    assert torch.allclose(parameters(soup({one: 0.5, again: 0.5}, torch.float32)), parameters(load_model(one)))


def test_n_soft_updates_multiply_the_distance_by_1_minus_the_mixing_weight_to_the_n(pair: tuple[Path, Path]) -> None:
    one, two = pair
    moving = references(slow={str(one): 1.0})
    start, goal = (parameters(load_model(str(path))) for path in pair)
    for _ in range(3):
        move(moving, "slow", two, 0.6)
    # reference = policy - (1 - 0.6)^3 (policy - reference_0)
    assert torch.allclose(parameters(moving.policies["slow"].model), goal - 0.4**3 * (goal - start), atol=1e-6)


def test_updates_to_the_average_give_the_mean_of_the_start_and_every_iterate(pair: tuple[Path, Path]) -> None:
    one, two = pair
    moving = references(average={str(one): 1.0})
    start, goal = (parameters(load_model(str(path))) for path in pair)
    average = ReferenceConfig(update="average", every=2, iterates=8)
    schedule = ReferenceSchedule({"average": average}, {})
    for step in range(1, 11):
        for name, mixing_weight in schedule.after(step, {}).items():
            move(moving, name, two, mixing_weight)
    # 5 updates, after steps 2, 4, ..., 10, from a policy that stays at `goal`: (start + 5 goal) / 6
    assert torch.allclose(parameters(moving.policies["average"].model), (start + 5 * goal) / 6, atol=1e-6)


def test_a_mixing_weight_of_1_copies_the_policy_and_does_not_change_other_references(pair: tuple[Path, Path]) -> None:
    one, two = pair
    moving = references(reference={str(one): 1.0}, slow={str(one): 1.0})
    batch = random_batch(rehearsed=0)
    before = moving.score(batch, ["reference", "slow"])
    assert before.logp_reference is not None
    assert torch.equal(before.logp_reference, before.anchors["slow"])
    move(moving, "slow", two, 1.0)
    after = moving.score(batch, ["reference", "slow"])
    other = references(reference={str(two): 1.0}).score(batch).logp_reference
    assert other is not None and after.logp_reference is not None
    assert torch.equal(after.logp_reference, before.logp_reference)
    assert torch.allclose(after.anchors["slow"], other, atol=1e-6)
    assert not torch.allclose(after.anchors["slow"], before.anchors["slow"], atol=1e-2)


@pytest.mark.slow
def test_small_updates_are_not_lost_in_a_reference_that_computes_in_bfloat16(pair: tuple[Path, Path]) -> None:
    one, two = (str(path) for path in pair)
    moving = References({"slow": {one: 1.0}}, config=config_of(), dtype="bfloat16", temperature=1.0, device="cpu")
    for _ in range(200):
        move(moving, "slow", pair[1], 0.002)
    start, goal = parameters(load_model(one)), parameters(load_model(two))
    expected = goal - 0.998**200 * (goal - start)
    assert torch.allclose(parameters(moving.policies["slow"].model).float(), expected, atol=4e-3)


def test_moved_references_are_restored_by_load(pair: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = pair
    moving = LocalReference(references(reference={str(one): 1.0}, slow={str(one): 1.0}))
    move(moving.references, "slow", two, 0.3)
    asyncio.run(moving.save(str(tmp_path)))
    fresh = references(reference={str(one): 1.0}, slow={str(one): 1.0})
    asyncio.run(LocalReference(fresh).load(str(tmp_path)))
    saved, loaded = (parameters(r.policies["slow"].model) for r in (moving.references, fresh))
    assert torch.equal(saved, loaded)
    move(fresh, "slow", two, 0.3)
    move(moving.references, "slow", two, 0.3)
    saved, loaded = (parameters(r.policies["slow"].model) for r in (moving.references, fresh))
    assert torch.equal(saved, loaded)


def test_rehearsed_answers_have_no_log_probs_of_other_references(pair: tuple[Path, Path]) -> None:
    batch = references(teacher={str(pair[0]): 1.0}).score(replace(random_batch(rehearsed=2)), ["teacher"])
    rehearsed = (batch.route != 0)[batch.seq]
    assert batch.anchors["teacher"][rehearsed].isnan().all()
    assert not batch.anchors["teacher"][~rehearsed].isnan().any()


def test_solutions_have_log_probs_of_every_reference(pair: tuple[Path, Path]) -> None:
    batch = replace(random_batch(rehearsed=2))
    batch.route[-2] = ROUTES.index("imitate")
    scored = references(reference={str(pair[0]): 1.0}, teacher={str(pair[1]): 1.0}).score(
        batch, ["reference", "teacher"]
    )
    solution = (batch.route == ROUTES.index("imitate"))[batch.seq]
    assert scored.logp_reference is not None
    for logps, path in ((scored.logp_reference, pair[0]), (scored.anchors["teacher"], pair[1])):
        explored = replace(batch, route=torch.zeros_like(batch.route))
        alone = references(reference={str(path): 1.0}).score(explored).logp_reference
        assert alone is not None and not alone.isnan().any()
        torch.testing.assert_close(logps[solution], alone[solution])
