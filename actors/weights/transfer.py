"""vLLM's four weight-transfer calls over several independent engines, as its trainer side expects them.

Imports no vllm, so that it can be tested, and built by a driver, where there is none.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol


class TransferDoor(Protocol):
    """One generator as a learner reaches it; every call blocks until the generator has done it."""

    def init_transfer(self, info: dict[str, Any]) -> None: ...

    def start_update(self) -> None: ...

    def receive(self, info: dict[str, Any]) -> None: ...

    def finish_update(self, version: int) -> int: ...


class TransferClient:
    """Satisfies vLLM's `VLLMWeightSyncClient`. Each call reaches all generators at once, since the first and the third
    end only when every worker has joined the same collective.

    vLLM tells every engine the same `rank_offset`, 1, and counts ranks inside from the engine's data-parallel index.
    Our engines do not know of each other, so the i-th of them gets 1 + i * tensor_parallel.
    """

    def __init__(self, doors: Sequence[TransferDoor], *, tensor_parallel: int) -> None:
        self.doors, self.tensor_parallel = list(doors), tensor_parallel
        self.version = -1
        """Given to the generators by the next `finish_weight_update`."""

    @property
    def world_size(self) -> int:
        """Of the NCCL group: the sending learner and every worker."""
        return 1 + len(self.doors) * self.tensor_parallel

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.doors]
        if "rank_offset" in init_info:
            for i, info in enumerate(infos):
                info["rank_offset"] = 1 + i * self.tensor_parallel
        self._all(lambda i: self.doors[i].init_transfer(infos[i]))

    def start_weight_update(self) -> None:
        self._all(lambda i: self.doors[i].start_update())

    def update_weights(self, update_info: Any) -> None:
        self._all(lambda i: self.doors[i].receive(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = self.version if weight_version is None else int(weight_version)
        self._all(lambda i: self.doors[i].finish_update(version))

    def _all(self, call: Callable[[int], Any]) -> None:
        """Raises what the first generator that failed raised."""
        with ThreadPoolExecutor(len(self.doors)) as pool:
            list(pool.map(call, range(len(self.doors))))
