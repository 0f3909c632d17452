"""The loop of a worker of an async verifier: it judges many answers at a time, in one event loop."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from typing import Any

from rewards.registry import VerifyAsync
from rewards.verdict import wrong
from rewards.workers.frames import pack, values

CALLS = 64
"""Answers that a worker of an async verifier judges at a time."""


def serve(connection: socket.socket, verify: VerifyAsync) -> None:
    """Judge the tasks of `connection` until the parent closes it."""
    asyncio.run(_judge_many(connection, verify))


async def _judge_many(connection: socket.socket, verify: VerifyAsync) -> None:
    """Judge the tasks of an async verifier as they arrive."""
    reader, writer = await asyncio.open_connection(sock=connection)
    running: set[asyncio.Task[None]] = set()

    async def frame() -> dict[str, Any]:
        message: dict[str, Any] = json.loads(
            await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])
        )
        return message

    async def judge(task: dict[str, Any]) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(task["limit_s"]):
                verdict = await verify(task["answer"], task["problem"], task["context"])
        except TimeoutError:
            verdict = wrong(f"no verdict within {task['limit_s']:g} s", "timeout")
        writer.write(pack({"call": task["call"], "verdict": values(verdict, time.perf_counter() - started, 0.0)}))

    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            judging = asyncio.create_task(judge(await frame()))
            running.add(judging)
            judging.add_done_callback(running.discard)
