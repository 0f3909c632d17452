"""vLLM's four weight-transfer calls, sent to several independent engines.

Imports no vllm, so that a driver and tests can use it without one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol


class WeightReceiver(Protocol):
    """The calls of a weight transfer to one generator. Each call blocks until the generator is done."""

    def init_transfer(self, info: dict[str, Any]) -> None: ...

    def start_update(self) -> None: ...

    def receive(self, info: dict[str, Any]) -> None: ...

    def finish_update(self, version: int) -> int: ...


class TransferClient:
    """Satisfies vLLM's `VLLMWeightSyncClient`, and gives every engine ranks of its own in the transfer group.

    Each call runs on all generators at once: `init_transfer` and `receive` end only when every worker has joined the
    same collective. vLLM sends every engine the same `rank_offset`, 1, and separates the engines by their data-parallel
    index. Our engines are independent and all have index 0, so engine i gets the offset 1 + i * tensor_parallel.
    """

    def __init__(self, receivers: Sequence[WeightReceiver], *, tensor_parallel: int) -> None:
        self.receivers, self.tensor_parallel = list(receivers), tensor_parallel
        self.version = -1
        """Version that the next `finish_weight_update` sends to the generators."""

    @property
    def world_size(self) -> int:
        """Size of the NCCL group: the sending learner rank and every worker of every generator."""
        return 1 + len(self.receivers) * self.tensor_parallel

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.receivers]
        if "rank_offset" in init_info:
            for i, info in enumerate(infos):
                info["rank_offset"] = 1 + i * self.tensor_parallel
        self._all(lambda i: self.receivers[i].init_transfer(infos[i]))

    def start_weight_update(self) -> None:
        self._all(lambda i: self.receivers[i].start_update())

    def update_weights(self, update_info: Any) -> None:
        self._all(lambda i: self.receivers[i].receive(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = self.version if weight_version is None else int(weight_version)
        self._all(lambda i: self.receivers[i].finish_update(version))

    def _all(self, call: Callable[[int], Any]) -> None:
        """Run the call for every receiver in parallel. Re-raise the exception of the first that failed."""
        with ThreadPoolExecutor(len(self.receivers)) as pool:
            list(pool.map(call, range(len(self.receivers))))
