"""Run a sink in a thread of its own, behind a bounded queue, so that no service it talks to can hold up training."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from orchestrator.sinks.sink import Sink

QUEUE_LIMIT = 1_000
"""Calls that wait for a sink. Further ones are dropped and counted."""
WAKE_TIMEOUT_S = 5.0
"""Longest further wait for a sink that did not end in time, after its processes were told to continue."""
ABANDON_TIMEOUT_S = 10.0
"""Longest wait for the thread of a sink whose processes were ended because it did not return."""

AnySink = TypeVar("AnySink", bound=Sink)


class OwnThread(Generic[AnySink]):
    """A sink whose calls run in a thread, in order. No call waits for it but the constructor and `close`.

    An exception of the sink ends the thread, and is raised by the next call.

    Args:
        name: of the sink, for errors.
        start: makes the sink, in the thread.
        wake: lets processes that the sink has started continue if they are stopped.
        idle: called with the sink, in the thread, where no call waits.
        abandon: ends these processes, so that a call that waits for them returns; also called before an error of the
            sink is raised. Both are called from any thread.
        start_timeout_s: longest wait for `start`.
        close_timeout_s: longest wait for all calls in the queue and for the sink's `close`.

    Raises:
        TimeoutError: `start` did not return in time. Its processes are ended.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], AnySink],
        *,
        idle: Callable[[AnySink], None],
        wake: Callable[[], None],
        abandon: Callable[[], None],
        start_timeout_s: float,
        close_timeout_s: float,
    ) -> None:
        self.name, self.dropped = name, 0
        self._idle, self._wake, self._abandon, self._close_timeout_s = idle, wake, abandon, close_timeout_s
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(QUEUE_LIMIT)
        self._closing, self._failed = threading.Event(), False
        self._error: BaseException | None = None
        started: Future[AnySink] = Future()
        # A daemon, since a thread that waits for a service must not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(start, started), name=f"sink {name}", daemon=True)
        self._thread.start()
        try:
            self.sink = started.result(start_timeout_s)
        except TimeoutError:
            self._closing.set()
            self._end_processes()
            raise TimeoutError(f"it did not start within {start_timeout_s:.0f} s") from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._add("write", step, dict(values))

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._add("table", step, name, list(rows))

    def alert(self, title: str, text: str) -> None:
        self._add("alert", title, text)

    def files(self, *arguments: Any) -> None:
        """As in `WandbSink.files`; only for a sink that has this method."""
        self._add("files", *arguments)

    def close(self, failed: bool = False) -> None:
        """Let the thread do the calls in the queue and close the sink, and wait until it has ended.

        Raises:
            TimeoutError: it did not end in time. Its processes are ended.
        """
        self._failed = failed
        self._closing.set()
        self._thread.join(self._close_timeout_s)
        if self._thread.is_alive():
            self._wake()
            self._thread.join(WAKE_TIMEOUT_S)
        if self._thread.is_alive():
            left = self._calls.qsize()
            self._end_processes()
            raise TimeoutError(
                f"it did not end within {self._close_timeout_s:.0f} s, and its processes were ended; {left} calls left"
            )
        if self._error is not None:
            raise self._error

    def _add(self, method: str, *arguments: Any) -> None:
        if self._error is not None:
            raise self._error
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self.dropped += 1

    def _run(self, start: Callable[[], AnySink], started: "Future[AnySink]") -> None:
        try:
            sink = start()
        except BaseException as error:
            self._abandon()
            started.set_exception(error)
            return
        started.set_result(sink)
        try:
            while (call := self._next(sink)) is not None:
                method, arguments = call
                getattr(sink, method)(*arguments)
            sink.close(self._failed)
        except BaseException as error:
            # Before the error is known: the process may end as soon as it is, and must not end beside this.
            self._abandon()
            self._error = error  # raised by the next call

    def _next(self, sink: AnySink) -> tuple[str, tuple[Any, ...]] | None:
        """Return the next call; None if there is none and the sink is closed."""
        while True:
            closing = self._closing.is_set()  # read first: no call is added after it
            try:
                return self._calls.get(timeout=0 if closing else 0.2)
            except queue.Empty:
                if closing:
                    return None
                self._idle(sink)

    def _end_processes(self) -> None:
        """End the sink's processes, and give its thread some time to see it."""
        deadline = time.monotonic() + ABANDON_TIMEOUT_S
        self._abandon()
        self._thread.join(max(deadline - time.monotonic(), 0.0))
