"""Reference actors that are lost: others score their parts, and moved weights come back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.presence import RoleLost
from actors.reference import References
from actors.reference_parts import outputs
from actors.remote import Handle
from actors.remote_reference import RemoteReference
from tests.actors.learning.learner_ranks import joined
from tests.actors.random_batch import random_batch
from tests.actors.test_reference import reference
from trajectories.arrays import to_arrays

LONG_S = 10.0


class Actor(Handle):
    """A reference actor in this process, whose next calls are lost while `dead`."""

    def __init__(self, name: str, role: References) -> None:
        self.name, self.role, self.dead, self.methods = name, role, False, list[str]()

    async def started(self, timeout_s: float) -> float:
        return 0.0

    async def alive(self, timeout_s: float) -> None:
        if self.dead:
            raise RoleLost(f"{self.name}: its process died")

    def send(self, method: str, *arguments: Any) -> Any:
        self.methods.append(method)
        return getattr(self.role, method)(*arguments)

    async def computed(self, result: Any, method: str, timeout_s: float | None = None) -> None:
        await asyncio.sleep(0)

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        await asyncio.sleep(0)
        if self.dead:
            raise RoleLost(f"{self.name}: its process died before {method} ended")
        return self.send(method, *arguments)

    async def call_stored(self, method: str, value: Any, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        if self.dead:
            raise RoleLost(f"{self.name}: its process died before {method} ended")
        self.methods.append(method)
        return to_arrays(outputs(self.role.score(value, *arguments), *arguments))


def pool(policy: Path, actors: int) -> tuple[RemoteReference, list[Actor]]:
    """The proxy of so many actors, which goes on without those that are lost."""
    made = [Actor(f"reference {i}", reference(policy)) for i in range(actors)]
    remote = RemoteReference(made, LONG_S)

    def lost(actor: Any, error: Exception) -> bool:
        remote.presence.leave(actor)
        return True

    remote.presence.lost = lost
    return remote, made


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("actors", [1, 2])
def test_the_part_of_a_lost_reference_is_scored_by_another_or_by_itself_when_it_is_back(
    tiny_policy: Path, actors: int
) -> None:
    async def run() -> None:
        remote, made = pool(tiny_policy, actors)
        whole, _ = pool(tiny_policy, actors)
        batch = random_batch()
        expected = await whole.score(batch)
        made[0].dead = True
        scoring = asyncio.ensure_future(remote.score(batch))
        if actors == 1:
            await until(lambda: not remote.presence.present)
            assert not scoring.done()
            made[0].dead = False
            await remote.restore(made[0])
            remote.presence.enter(made[0])
        scored = await asyncio.wait_for(scoring, LONG_S)
        assert torch.equal(scored.logp_reference, expected.logp_reference)  # type: ignore[arg-type]
        assert sum(actor.methods.count("score") for actor in made) == actors

    asyncio.run(run())


@pytest.mark.parametrize("dies", ["before the move", "in the move", "alone in the move"])
def test_a_moving_reference_that_is_back_has_every_move_once(tiny_policy: Path, other_policy: Path, dies: str) -> None:
    actors = 1 if "alone" in dies else 2
    learner = joined(str(other_policy))
    info, weights = learner.master_info(), learner.master_weights()

    async def run() -> None:
        remote, made = pool(tiny_policy, actors)
        whole, _ = pool(tiny_policy, 1)
        for each in (remote, whole):
            await each.move("reference", info, weights, 0.5)
        last = made[-1]
        last.dead = True
        if dies == "before the move":
            remote.presence.leave(last)
        moving = asyncio.ensure_future(remote.move("reference", info, weights, 0.25))
        await whole.move("reference", info, weights, 0.25)
        await until(lambda: last not in remote.presence.present)
        if actors > 1:
            await moving
        last.role, last.dead = reference(tiny_policy), False
        await remote.restore(last)
        remote.presence.enter(last)
        await asyncio.wait_for(moving, LONG_S)
        found, expected = last.role.moved(), whole.handles[0].role.moved()  # type: ignore[attr-defined]
        assert found.keys() == expected.keys() == {"reference"}
        for key, values in expected["reference"].items():
            assert (found["reference"][key] == values).all(), key
        batch = random_batch()
        assert torch.equal(
            (await remote.score(batch)).logp_reference,  # type: ignore[arg-type]
            (await whole.score(batch)).logp_reference,  # type: ignore[arg-type]
        )

    asyncio.run(run())
