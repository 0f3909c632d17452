"""Check at the start of a run that its directory is one folder on all nodes that write checkpoints.

On a node that does not share it, a learner rank would make the folder anew, and write its files of a checkpoint there.
"""

import asyncio
import secrets
import socket
from pathlib import Path

from actors.remote import Handle
from orchestrator.checkpoint import SEEN_S
from orchestrator.cluster import Roles

ANSWER_S = 30.0
"""Seconds beyond `SEEN_S` within which a role must answer: a file system that is gone may block it."""


async def check_shared(run_dir: Path, roles: Roles) -> None:
    """Check that each actor that writes files of checkpoints reads a file that was just written into the directory.

    Raises:
        ValueError: one does not; names the directory and the actor's node.
        RuntimeError: one does not answer.
    """
    token = secrets.token_hex(16)
    file = run_dir / f".shared.{token}"
    file.write_text(token)

    async def check(handle: Handle) -> None:
        reads = handle.actor.reads.remote(str(file), token, SEEN_S)
        host, seen = await handle.wait(reads, "reads", SEEN_S + ANSWER_S)
        if not seen:
            raise ValueError(
                f"runs: must be a folder that all nodes share, got {str(run_dir.parent)!r}: {handle.name} on {host} "
                f"does not see what the driver on {socket.gethostname()} writes into {run_dir}. For a remote place, "
                "set runs=SHARED_FOLDER mirror=URL"
            )

    try:
        await asyncio.gather(*map(check, _writers(roles)))
    finally:
        file.unlink(missing_ok=True)


def _writers(roles: Roles) -> list[Handle]:
    """Return the learner ranks, and the actors of references if one of these moves."""
    moves = any(reference.moves for reference in roles.cfg.references.values())
    return [*roles.ranks, *(roles.reference_actors.handles if moves and roles.reference_actors else [])]
