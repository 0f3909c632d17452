"""Generators that were started again: they serve the weights of the others before they get work."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actors.contracts import HostWeights
from actors.local import LocalGenerator, LocalLearner
from actors.presence import RoleLost
from actors.remote import Handle, RemoteGenerator
from actors.remote_learner import RemoteLearner
from configs.learner import LearnerConfig
from tests.actors.learning.learner_ranks import COEFFICIENTS, batch_of, joined, step
from tests.actors.weights.test_shared_memory import Rank, Receiver, generator_of, parameters_of

LONG_S = 60.0


class StoringRank(Rank):
    """A rank whose large arguments go through no store, and which computes beside the event loop."""

    async def call_stored(self, method: str, value: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(self.send, method, value, *arguments)


def learner_of(core: Any, *, checksum: bool = True) -> RemoteLearner:
    return RemoteLearner(
        [StoringRank(core)],
        core.config,
        transfer="host",
        tensor_parallel=1,
        checksum=checksum,
        publish_timeout_s=LONG_S,
    )


async def serves(generator: Any, core: Any) -> bool:
    found = await parameters_of(generator)
    return all(torch.equal(found[name], p) for name, p in core.policy.model.named_parameters())


class Dying(Receiver):
    """A receiver that is lost in its next update while `dies`."""

    dies = False

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "update_weights" and self.dies:
            raise RoleLost("generator 1: its process died before update_weights ended")
        return await super().call(method, *arguments, timeout_s=timeout_s)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("same_node", [(True, True), (True, False), (False, False)])
def test_a_publication_goes_on_without_a_lost_generator_which_gets_the_same_version_when_it_is_back(
    tiny_policy: Path, other_policy: Path, same_node: tuple[bool, bool], checksum: bool
) -> None:
    """`same_node`: whether the second generator is on the learner's node, before and after its loss."""
    core = joined(str(tiny_policy))
    first, second = (Dying(generator_of(other_policy), same_node=same) for same in (True, same_node[0]))
    learner, lost = learner_of(core, checksum=checksum), []

    def leave(generator: Any, error: Exception) -> bool:
        lost.append(generator)
        learner.receivers.leave(generator)
        return True

    async def run() -> None:
        await learner.connect([first, second])
        learner.receivers.lost = leave
        await learner.publish(0)
        step(core, batch_of(0))
        second.dies = True
        await learner.publish(1)
        assert lost == [second] and await serves(first.role, core)
        await second.role.close()
        second.role, second.same_node, second.dies = generator_of(other_policy), same_node[1], False
        got = len(first.received)
        await learner.join(second)
        assert await serves(second.role, core)
        assert second.received[-1].version == 1 and len(first.received) == got
        step(core, batch_of(1))
        await learner.publish(2)
        assert await serves(first.role, core) and await serves(second.role, core)
        await asyncio.gather(first.role.close(), second.role.close())

    asyncio.run(run())
    assert learner.shared == all(same_node)


@pytest.mark.parametrize("kind", ["remote", "local"])
def test_a_generator_that_is_back_during_an_update_gets_the_version_after_it_and_never_weights_in_between(
    tiny_policy: Path, other_policy: Path, kind: str
) -> None:
    core = joined(str(tiny_policy))
    learner: Any = learner_of(core) if kind == "remote" else LocalLearner(core, checksum=True)
    generators: list[Any] = [
        Receiver(generator_of(other_policy), same_node=True)
        if kind == "remote"
        else LocalGenerator(partial(generator_of, other_policy), f"generator {i}")
        for i in range(2)
    ]
    received: list[int] = []

    async def run() -> None:
        await learner.connect(generators)
        await learner.publish(0)
        learner.receivers.leave(generators[1])
        update = asyncio.ensure_future(learner.update(batch_of(0), COEFFICIENTS))
        while not learner.newcomers.changed:  # else it would get version 0 before the update begins
            await asyncio.sleep(0)
        inner = generators[1].update_weights

        async def noting(weights: HostWeights) -> int:
            received.append(weights.version)
            return int(await inner(weights))

        generators[1].update_weights = noting
        joining = asyncio.ensure_future(learner.join(generators[1]))
        await update
        await asyncio.sleep(0.1)
        assert not joining.done(), "the weights are those of no version"
        await learner.publish(1)
        await asyncio.wait_for(joining, LONG_S)
        assert received == [1]
        for generator in generators:
            own = generator.role if kind == "remote" else generator.generator
            assert await serves(own, core)
            await own.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["remote", "local"])
def test_a_generator_that_is_lost_again_in_the_publication_for_which_it_waits_does_not_enter_with_older_weights(
    tiny_policy: Path, other_policy: Path, kind: str
) -> None:
    core = joined(str(tiny_policy))
    learner: Any = learner_of(core) if kind == "remote" else LocalLearner(core, checksum=True)
    role = generator_of(other_policy)
    newcomer: Any = Receiver(role, same_node=True) if kind == "remote" else LocalGenerator(lambda: role, "generator 0")

    async def lost(weights: HostWeights) -> int:
        raise RoleLost("generator 0: update_weights did not answer within 8 s")

    async def run() -> None:
        await learner.connect([newcomer])
        learner.receivers.lost = lambda generator, error: True  # the supervisor knows that it is absent
        await learner.publish(0)
        learner.receivers.leave(newcomer)
        update = asyncio.ensure_future(learner.update(batch_of(0), COEFFICIENTS))
        while not learner.newcomers.changed:
            await asyncio.sleep(0)
        joining = asyncio.ensure_future(learner.join(newcomer))
        await update
        while newcomer not in learner.receivers.present:
            await asyncio.sleep(0)
        newcomer.update_weights = lost
        await learner.publish(1)
        with pytest.raises(RoleLost, match="lost again"):
            await asyncio.wait_for(joining, LONG_S)
        assert learner.receivers.present == []
        await role.close()

    asyncio.run(run())


def test_a_generator_that_is_back_before_the_first_publication_gets_no_weights(
    tiny_policy: Path, other_policy: Path
) -> None:
    core = joined(str(tiny_policy))
    receiver, learner = Receiver(generator_of(other_policy), same_node=True), learner_of(core)

    async def run() -> None:
        await learner.connect([receiver])
        learner.receivers.leave(receiver)
        await learner.join(receiver)
        assert receiver.received == [], "the reference may still be presampled"
        await learner.publish(0)
        assert await serves(receiver.role, core)
        await receiver.role.close()

    asyncio.run(run())


class SendingRank(Handle):
    """A learner rank that sends from GPU to GPU, which notes the members of each transfer group and what it sends."""

    def __init__(self, events: list[Any]) -> None:
        def note(name: str, value: Callable[..., Any]) -> Any:
            return SimpleNamespace(remote=lambda *arguments: events.append((name, value(*arguments))))

        self.actor = SimpleNamespace(
            address=SimpleNamespace(remote=lambda: ("10.0.0.1", 5)),
            init_transfer=note("group", lambda actors, *others: sorted(actors)),
            send_weights=note("send", lambda version: version),
        )

    async def wait(self, result: Any, method: str, timeout_s: float | None = None, given_up: Any = None) -> Any:
        return result


class GpuReceiver(RemoteGenerator):
    """A generator that serves every version at once."""

    def __init__(self, name: str) -> None:
        self.name, self.actor = name, None

    async def served(self, version: int) -> None:
        pass


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_from_gpu_to_gpu_no_group_has_a_lost_member_and_one_that_is_back_is_in_a_group_of_all(
    tiny_policy: Path, backend: str
) -> None:
    events: list[Any] = []
    generators = [GpuReceiver(f"generator {i}") for i in range(2)]
    names = [generator.name for generator in generators]
    learner = RemoteLearner(
        [SendingRank(events)],
        LearnerConfig(),
        transfer=backend,
        tensor_parallel=1,
        checksum=False,
        publish_timeout_s=LONG_S,
    )

    async def run() -> None:
        await learner.connect(generators)
        await learner.publish(0)
        assert events == [("group", names), ("send", 0)]
        learner.receivers.leave(generators[1])
        await learner.publish(1)
        assert events[2:] == [("group", names[:1]), ("send", 1)]
        await learner.join(generators[1])
        assert events[4:] == [("group", names), ("send", 1)], "it gets the version that the other one serves"
        await learner.publish(2)
        assert events[6:] == [("send", 2)], "the group stays"
        learner.receivers.leave(generators[1])
        await learner.join(generators[1])
        assert events[7:] == [("group", names), ("send", 2)], "a process that was started again is another member"
        for generator in generators:
            learner.receivers.leave(generator)
        await learner.publish(3)
        assert len(events) == 9, "nobody is there"

    asyncio.run(run())
