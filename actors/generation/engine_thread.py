"""The Generator contract over any engine: one thread owns the engine, and everything that touches it runs there.

Submissions, aborts and weight updates are commands that run between two decoding steps. The async methods only
exchange with the thread, so an event loop never waits for a step.
"""

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from actors.contracts import Finished, GenerationJob, HostWeights, WeightsInfo
from actors.weights.host import check_payload

MIN_TEMPERATURE = 0.01
"""vLLM silently raises anything between 0 and this, and its log-probs would then be those of another distribution."""

EXIT_WAIT_S = 10.0
"""How long a process that exits without `close` waits for a step in progress."""


class Engine(Protocol):
    """What the thread drives; no method is ever called from another thread, or while another one runs."""

    version: int
    """Weight version served; -1 for the weights of the policy's directory."""

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        ...

    def submit(self, jobs: Sequence[GenerationJob]) -> None: ...

    def step(self) -> list[Finished]: ...

    def declare(self, info: WeightsInfo) -> None: ...

    def load(self, weights: HostWeights) -> None: ...

    def close(self) -> None: ...


E = TypeVar("E", bound=Engine)


class EngineThread(Generic[E]):
    """A Generator whose engine is built, driven and closed by one background thread.

    Raises what `build` raised. A ValueError of a command is its caller's; any other exception ends the engine, and
    every later call raises RuntimeError with it.
    """

    def __init__(self, build: Callable[[], E], *, max_length: int, timeout_s: float) -> None:
        self.max_length, self.timeout_s = max_length, timeout_s
        self._commands: SimpleQueue[tuple[Callable[[E], Any], Future[Any] | None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards all of the following
        self._finished: list[Finished] = []
        self._waiters: list[Future[None]] = []
        self._error: BaseException | None = None
        self._outstanding = 0
        self._progress = 0.0
        self._info: WeightsInfo | None = None
        built: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(build, built), name="generator", daemon=True)
        self._thread.start()
        built.result(timeout_s)
        # An interpreter that exits under a thread deep in native code aborts; closing later does no harm.
        atexit.register(self._stop, EXIT_WAIT_S)

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        for job in jobs:
            self._check_job(job)
        self._enqueue(lambda engine: engine.submit(jobs), None, answers=sum(len(job.seeds) for job in jobs))

    async def collect(self, wait_s: float) -> list[Finished]:
        waiter: Future[None] = Future()
        waiter.set_running_or_notify_cancel()  # from here on a cancelled caller cannot cancel it under the thread
        with self._lock:
            self._raise_if_ended()
            if not self._finished:
                self._waiters.append(waiter)
        if waiter in self._waiters:
            with suppress(TimeoutError):
                # not wait_for: in Python 3.11 it swallows a cancellation that meets a finished future
                async with asyncio.timeout(wait_s):
                    await asyncio.wrap_future(waiter)
        with self._lock:
            self._waiters = [other for other in self._waiters if other is not waiter]
            self._raise_if_ended()
            taken, self._finished = self._finished, []
            silent_s = time.monotonic() - self._progress
            if not taken and self._outstanding and silent_s > self.timeout_s:
                raise TimeoutError(
                    f"generator.timeout_s: {self._outstanding} answers are wanted and none finished in "
                    f"{silent_s:.0f} s, allowed are {self.timeout_s}"
                )
        return taken

    async def init_weights(self, info: WeightsInfo) -> None:
        await self._call(lambda engine: engine.declare(info))
        self._info = info

    async def update_weights(self, weights: HostWeights) -> int:
        info = self._info
        assert info is not None, "init_weights comes before update_weights"

        def update(engine: E) -> int:
            if weights.version < engine.version:
                raise ValueError(f"weights.version: must not go back from {engine.version}, got {weights.version}")
            if weights.version > engine.version:
                check_payload(info, weights)
                try:
                    engine.load(weights)
                except ValueError as error:  # a policy half loaded must not answer: this ends the engine
                    raise RuntimeError(f"loading weights of version {weights.version} failed: {error}") from error
            return engine.version

        version: int = await self._call(update)
        return version

    async def close(self) -> None:
        """End the thread after the step in progress and free the engine."""
        await asyncio.to_thread(self._stop, self.timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"generator.timeout_s: the engine did not end within {self.timeout_s} s")
        atexit.unregister(self._stop)

    def _stop(self, wait_s: float) -> None:
        self._commands.put(None)
        self._thread.join(wait_s)

    def _check_job(self, job: GenerationJob) -> None:
        wanted = len(job.prompt_tokens) + job.max_new_tokens
        if not (len(job.prompt_tokens) and job.max_new_tokens > 0 and wanted <= self.max_length):
            raise ValueError(
                f"sampling.max_prompt_tokens: prompt {job.prompt_id} must have at least 1 token and, with "
                f"{job.max_new_tokens} new ones, at most {self.max_length}, got {len(job.prompt_tokens)}"
            )
        if job.temperature < MIN_TEMPERATURE:
            raise ValueError(f"sampling.temperature: must be at least {MIN_TEMPERATURE}, got {job.temperature}")

    async def _call(self, function: Callable[[E], Any]) -> Any:
        """Run a command between two steps and return its result."""
        future: Future[Any] = Future()
        self._enqueue(function, future)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise TimeoutError(f"generator.timeout_s: the engine did not answer within {self.timeout_s} s") from None

    def _enqueue(self, function: Callable[[E], Any], future: Future[Any] | None, answers: int = 0) -> None:
        with self._lock:
            self._raise_if_ended()
            if answers and not self._outstanding:
                self._progress = time.monotonic()
            self._outstanding += answers
            self._commands.put((function, future))

    def _raise_if_ended(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"the generation engine has ended: {self._error!r}") from self._error

    def _run(self, build: Callable[[], E], built: Future[None]) -> None:
        try:
            engine = build()
        except BaseException as failure:
            built.set_exception(failure)
            return
        built.set_result(None)
        reason: BaseException = RuntimeError("it was closed")
        try:
            while self._run_commands(engine):
                if engine.busy:
                    self._deliver(engine.step())
        except BaseException as failure:
            reason = failure
        finally:
            self._end(reason)
            engine.close()

    def _run_commands(self, engine: E) -> bool:
        """Run what is queued, waiting for a command when there is nothing to decode; False when told to end."""
        while not engine.busy or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            function, future = command
            if future is None:
                function(engine)
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(engine))
                except ValueError as error:
                    future.set_exception(error)
                except BaseException as error:
                    future.set_exception(error)
                    raise
        return True

    def _deliver(self, done: list[Finished]) -> None:
        if not done:
            return
        with self._lock:
            self._finished += done
            self._outstanding -= len(done)
            self._progress = time.monotonic()
            self._wake()

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            while not self._commands.empty():
                command = self._commands.get()
                if command is not None and command[1] is not None and command[1].set_running_or_notify_cancel():
                    command[1].set_exception(RuntimeError(f"the generation engine has ended: {error!r}"))
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set_result(None)
        self._waiters = []
