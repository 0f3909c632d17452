"""A publication from GPU to GPU that fails or does not end, and which generator the error names."""

import asyncio
from collections.abc import Awaitable

import pytest

from actors.weights import watch
from actors.weights.watch import watched

EVER = 60.0
"""Longer than any test: seconds."""


class Receiver:
    """A generator that serves the version after a while, or whose process dies or hangs."""

    def __init__(self, number: int, *, serves_in_s: float = 0.0, dies: bool = False, hangs: bool = False) -> None:
        self.name = f"generator {number}"
        self.serves_in_s, self.dies, self.hangs = serves_in_s, dies, hangs

    async def served(self, version: int) -> None:
        if self.dies:
            raise ConnectionError("the actor died")
        await asyncio.sleep(EVER if self.hangs else self.serves_in_s)

    async def alive(self, timeout_s: float) -> None:
        if self.dies or self.hangs:
            raise RuntimeError(f"{self.name}: alive did not answer within {timeout_s:.0f} s")


async def sent() -> None:
    pass


async def stuck() -> None:
    """A rank in a collective that nobody else is in any more."""
    await asyncio.sleep(EVER)


async def refused() -> None:
    raise RuntimeError("learner 0: publish failed: the buffer is too small")


def publish(sends: list[Awaitable[None]], receivers: list[Receiver], timeout_s: float) -> None:
    asyncio.run(watched(sends, receivers, 7, timeout_s))


def test_a_publication_ends_when_all_ranks_have_sent_and_all_generators_serve_the_version() -> None:
    publish([sent(), sent()], [Receiver(0), Receiver(1, serves_in_s=0.01)], EVER)


def test_a_generator_that_dies_in_a_collective_is_named_at_once_though_the_ranks_never_return() -> None:
    with pytest.raises(RuntimeError, match=r"^generator 1: does not answer, and version 7 .*the actor died$"):
        publish([stuck(), sent()], [Receiver(0, hangs=False, serves_in_s=EVER), Receiver(1, dies=True)], EVER)


def test_a_generator_whose_process_hangs_is_named_when_the_limit_is_over() -> None:
    waiting = Receiver(0, serves_in_s=EVER)
    with pytest.raises(
        RuntimeError, match=r"^generator 1: does not answer, .* within 0 s \(placement.publish_timeout_s\)$"
    ):
        publish([stuck()], [waiting, Receiver(1, hangs=True)], 0.02)


def test_generators_that_answer_but_do_not_serve_the_version_are_named_after_the_limit() -> None:
    with pytest.raises(RuntimeError, match=r"^generator 1, generator 2: version 7 was not published within 0 s"):
        publish([stuck()], [Receiver(0), *(Receiver(i, serves_in_s=EVER) for i in (1, 2))], 0.02)


def test_a_rank_that_sends_too_late_is_named_after_the_limit() -> None:
    with pytest.raises(RuntimeError, match=r"^learner: version 7 was not published within 0 s"):
        publish([stuck()], [Receiver(0)], 0.02)


def test_the_error_of_a_rank_is_kept_where_all_generators_answer() -> None:
    with pytest.raises(RuntimeError, match=r"version 7 was not published: learner 0: publish failed: the buffer"):
        publish([refused()], [Receiver(0), Receiver(1)], EVER)


def test_a_rank_that_fails_because_a_generator_hangs_is_an_error_of_that_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "ALIVE_S", 0.01)
    with pytest.raises(RuntimeError, match=r"^generator 1: does not answer, .*learner 0: publish failed"):
        publish([refused()], [Receiver(0), Receiver(1, hangs=True)], EVER)
