"""Roles without a learner, of an evaluation or a presampling: started, and again if they are lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from actors.contracts import Generator, Reference, WeightsInfo
from actors.local import init_host_weights, publish_host_weights
from actors.policy_files.reading import load_model
from actors.presence import Presence
from actors.weights.file_names import as_in_files, meta_in_files
from actors.weights.host import weights_info
from actors.weights.pieces import pieces_of
from configs.config import Config
from orchestrator import cluster
from orchestrator.console.screen import Screen
from orchestrator.placement import MAIN
from orchestrator.rollout.rollouts import Rollouts, rollouts_for
from orchestrator.supervision.members import supervised, supervised_references


class PolicyFiles:
    """Publishes policies from their directories, one after another, as a learner publishes its own weights.

    Policies that differ in their weights alone, from host memory. Before the first publication the generators serve
    the policy that they were started with.
    """

    def __init__(self, cfg: Config, generators: Sequence[Generator]) -> None:
        self.cfg, self.receivers = cfg, Presence(generators)
        self.version = -1
        """The version published last; -1: none."""
        self._path = ""
        """Directory of the policy that is published; empty: none."""
        self._info: WeightsInfo | None = None
        """Of all policies; None before the first publication."""
        self._at_work = asyncio.Lock()

    async def publish(self, path: str) -> None:
        """Have the generators that are present serve the policy of a directory. Its files must stay until `withdraw`.

        Another generator gets it when it is started again.
        """
        async with self._at_work:
            self.version, self._path = self.version + 1, path
            await self._send(self.receivers)

    async def withdraw(self) -> None:
        """Note that all answers of the published policy are there. A generator that is started again after this gets no
        weights before the next publication, so the files may be removed."""
        async with self._at_work:
            self._path = ""

    async def join(self, generator: Generator) -> None:
        """Give a generator that was started again the weights that the others serve."""
        async with self._at_work:
            if self._info is not None:
                await generator.init_weights(self._info)
            if self._path:
                await self._send(Presence([generator]))
            self.receivers.enter(generator)

    async def _send(self, receivers: Presence[Generator]) -> None:
        """Publish the policy, a piece at a time, which bounds the memory of this process and of Ray's object store."""
        model = await asyncio.to_thread(self._read)
        if self._info is None:
            self._info = weights_info(meta_in_files(model, model.dtype))
            await init_host_weights(receivers, self._info)
        pieces = pieces_of(model, model.dtype)
        for number, piece in enumerate(pieces, 1):
            named = [(name, p) for name, p in model.named_parameters() if name in piece.parameters]
            packed = await asyncio.to_thread(
                piece.packed, self._info, as_in_files(model, named), self.version, self.cfg.generator.checksum
            )
            weights = cluster.store_once(self.cfg, packed)
            await publish_host_weights(receivers, weights, self.version, last=number == len(pieces))
            del packed, weights  # memory and Ray's object store hold one piece at a time

    def _read(self) -> Any:
        model = load_model(self._path)
        return {"float32": model.float, "bfloat16": model.bfloat16}[self.cfg.policy.dtype]()


@asynccontextmanager
async def answering_roles(
    cfg: Config, policy_path: str, verifiers: Sequence[str], folder: Path, log: Callable[[str], None]
) -> AsyncIterator[tuple[Rollouts, PolicyFiles]]:
    """Start generators with the policy of a directory, and graders; start those again that are lost, and end all.

    Args:
        verifiers, folder: as for `supervised`.
        log: called with a line for each loss and each return.
    """
    with Screen.of(log).phase("starting generators and graders", "started generators and graders"):
        roles = await cluster.start(cfg, ["generator", "grader"], policy_path=policy_path)  # long on a full cluster
    try:
        async with rollouts_for(cfg, roles.generators, roles.graders) as rollouts:
            policies = PolicyFiles(cfg, roles.generators)
            async with supervised(roles, rollouts, policies, verifiers, folder, partial(_tell, log)):
                yield rollouts, policies
    finally:
        await roles.close()


@asynccontextmanager
async def scoring_role(
    cfg: Config, policy_path: str, folder: Path, log: Callable[[str], None]
) -> AsyncIterator[Reference]:
    """Start a reference role with the policy of a directory; start its actors again that are lost, and end all.

    Args:
        folder: as for `supervised`.
        log: called with a line for each loss and each return.
    """
    roles = await cluster.start(cfg, ["reference"], policy_path=policy_path, references={MAIN: {policy_path: 1.0}})
    try:
        assert roles.reference is not None
        async with supervised_references(roles, folder, partial(_tell, log)):
            yield roles.reference
    finally:
        await roles.close()


def _tell(log: Callable[[str], None], title: str, text: str) -> None:
    log(f"{title}: {text}")
