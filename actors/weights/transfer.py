"""Send vLLM's four weight-transfer calls to several independent engines.

Imports no vllm, so that a driver and tests can use it without one.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
BUFFER_BYTES = 2**28
"""Bytes of a buffer of the transfer, or those of the largest tensor, as no tensor is divided. The sending rank and each
generator hold two of them for nccl, each learner rank holds one for ipc."""
NAMING_S = 5.0
"""Longest wait for the name of the generator that has failed, in seconds."""


class WeightReceiver(Protocol):
    """Interface of a generator that receives weights. Each call returns when the generator has finished it.

    A RuntimeError of a call names the generator.
    """

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
        self.failed: Future[Any] = Future()
        """Done, with the error, when a call to a generator has failed."""

    @property
    def world_size(self) -> int:
        """Size of the NCCL group: the sending learner rank and every worker of every generator."""
        return 1 + len(self.receivers) * self.tensor_parallel

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.receivers]
        if "rank_offset" in init_info:
            for i, info in enumerate(infos):
                info["rank_offset"] = 1 + i * self.tensor_parallel
        self._all("init_transfer", lambda i: self.receivers[i].init_transfer(infos[i]))

    def start_weight_update(self) -> None:
        self._all("start_update", lambda i: self.receivers[i].start_update())

    def update_weights(self, update_info: Any) -> None:
        self._all("receive", lambda i: self.receivers[i].receive(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = self.version if weight_version is None else int(weight_version)
        self._all("finish_update", lambda i: self.receivers[i].finish_update(version))

    def _all(self, what: str, call: Callable[[int], Any]) -> None:
        """Run the call for every receiver in parallel.

        It ends with the first failure, although the others may wait for the one that failed: a collective that lacks a
        member never ends.

        Raises:
            RuntimeError: a call failed; names the generator. `failed` then holds the same error.
        """
        pool = ThreadPoolExecutor(len(self.receivers))
        calls = [pool.submit(call, i) for i in range(len(self.receivers))]
        wait(calls, return_when=FIRST_EXCEPTION)
        pool.shutdown(wait=False)
        for i, one in enumerate(calls):
            cause = one.exception() if one.done() else None
            if cause is not None:
                named = isinstance(cause, RuntimeError)
                error = cause if named else RuntimeError(f"generator {i}: {what} failed: {cause!r}")
                if not self.failed.done():
                    self.failed.set_exception(error)
                raise error from (None if named else cause)


def unless_failed(function: Callable[[], T], client: TransferClient) -> T:
    """Run a function that sends weights through the client, and return its result.

    A collective in it may wait forever for a generator that has failed. So it runs in a thread, which is left behind
    then; the learner's process has to be ended.

    Raises:
        RuntimeError: a call to a generator failed; names the generator.
        Exception: whatever the function raises.
    """
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="weights", daemon=True).start()
    wait([result, client.failed], return_when=FIRST_COMPLETED)
    if result.done() and result.exception() is not None:
        wait([client.failed], NAMING_S)  # a collective may end with an error before Ray knows which generator is gone
    if client.failed.done():
        client.failed.result()
    value: T = result.result()
    return value
