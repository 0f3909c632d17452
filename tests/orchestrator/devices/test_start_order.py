"""In which order the actors of a run on shared GPUs are built, with handles that only note it."""

import asyncio
from typing import Any

import pytest

from actors.remote import Handle, RemoteGenerator
from actors.remote_reference import RemoteReference
from configs.load import load
from orchestrator.cluster import Roles


class Address:
    """The method `address` of an actor."""

    def remote(self) -> str:
        return "address"


class Actor:
    address = Address()


class Noting:
    """Notes when the actor begins and ends to build its role, and what is called of it."""

    name: str
    events: list[str]

    def begin(self, after: Any = None) -> None:
        self.events.append(f"begin {self.name}")

    async def started(self, timeout_s: float) -> float:
        await asyncio.sleep(0.01)
        self.events.append(f"built {self.name}")
        return 1.0

    async def wait(self, result: Any, method: str, timeout_s: float | None = None) -> Any:
        return "10.0.0.1", 5

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        self.events.append(f"{method} {self.name}")


class NotingHandle(Noting, Handle):  # type: ignore[misc]
    def __init__(self, name: str, events: list[str]) -> None:
        Handle.__init__(self, Actor(), name, 10.0)
        self.events = events


class NotingGenerator(Noting, RemoteGenerator):  # type: ignore[misc]
    def __init__(self, name: str, events: list[str]) -> None:
        RemoteGenerator.__init__(self, Actor(), name, 10.0, 10.0)
        self.events = events


class Group:
    """A placement group that is reserved."""

    async def ready(self) -> None:
        pass


class NoLearner:
    """The methods of a learner that `Turns` wraps."""

    async def score(self) -> None: ...

    async def update(self) -> None: ...

    async def publish(self) -> None: ...

    async def publish_again(self) -> None: ...


def events_of(*words: str) -> tuple[list[str], Roles]:
    cfg = load(["policy.path=p", "generator.engine=vllm", *words])
    events: list[str] = []
    roles = Roles(cfg, ["generator", "learner", "reference"], "p", group=Group())  # type: ignore[arg-type]
    roles.generators = [NotingGenerator("generator 0", events)]
    roles.ranks = [NotingHandle("learner 0", events), NotingHandle("learner 1", events)]
    reference = NotingHandle("reference 0", events)
    roles.reference = RemoteReference([reference], 10.0)
    roles.learner = NoLearner()  # type: ignore[assignment]
    roles.handles = [*roles.generators, *roles.ranks, reference]  # type: ignore[list-item]
    seconds = asyncio.run(roles.ready())
    assert {"generator 0", "learner 0", "learner 1"} <= seconds.keys()
    return events, roles


@pytest.mark.parametrize("lag", [0, 1])
def test_on_shared_gpus_an_engine_begins_when_the_learner_has_its_policy_there_and_the_references_are_loaded(
    lag: int,
) -> None:
    events, roles = events_of("scale=1gpu", f"lag={lag}")
    *before, begin, built = events
    assert (begin, built) == ("begin generator 0", "built generator 0")
    assert set(before) == {
        "built learner 0",
        "built learner 1",
        "join learner 0",
        "join learner 1",
        "built reference 0",
    }
    assert before.index("join learner 0") > before.index("built learner 1")
    assert (roles.turns is not None) == (lag == 0)


def test_elsewhere_engines_are_built_beside_the_learner_and_nobody_waits_for_the_references() -> None:
    events, roles = events_of("scale=8gpu")
    assert "begin generator 0" not in events, "`create` has begun it"
    assert "built reference 0" not in events
    assert events.index("built generator 0") < events.index("join learner 0")
    assert roles.turns is None
