"""Run any engine as a Generator: one background thread owns the engine and runs every call to it.

Submissions and weight updates are commands, which the thread runs between two decoding steps. The async methods only
queue commands and take results, so the event loop never blocks for the length of a step.
"""

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from actors.contracts import GenerationJob, HostWeights, SharedMemory, WeightsInfo
from actors.finished import EngineLoad, Finished
from actors.presence import RoleLost
from actors.weights.host import check_payload, span
from actors.weights.shared_memory import attached
from configs.checks import LOWEST_TEMPERATURE

GATHER_S = 0.03
"""Answers that finish within so many seconds are delivered together, unless nothing is left to decode: every delivery
costs a call of the generator and one of the grader."""
LOAD_S = 0.25
"""Seconds between two measurements of the engine's load while it decodes."""
EXIT_WAIT_S = 10.0
"""Longest wait for a decoding step when the process exits without `close`."""


class Engine(Protocol):
    """An inference engine. All of its methods are called from one thread, so it needs no locks."""

    version: int
    """Version of the weights served; -1 for those loaded from the policy's directory."""

    @property
    def busy(self) -> bool:
        """Whether any answer is unfinished and can be decoded now."""
        ...

    def submit(self, jobs: Sequence[GenerationJob]) -> None: ...

    def step(self) -> Finished | None:
        """Decode one step and return the answers that finished in it; None if there are none."""
        ...

    def workload(self) -> EngineLoad:
        """Return the load without the answers that are still commands of the thread."""
        ...

    def declare(self, info: WeightsInfo) -> None:
        """Set what later `load`s contain. Raise ValueError if these are not the parameters of the model."""
        ...

    def load(self, weights: HostWeights) -> None:
        """Replace all weights, or load a piece: the engine is not busy from the first piece of a version to the last.
        An exception ends the engine, which may hold a mixture of old and new weights."""
        ...

    def close(self) -> None: ...


E = TypeVar("E", bound=Engine)


class EngineThread(Generic[E]):
    """A Generator whose engine is built, run and closed by one background thread.

    A ValueError in a command is raised to its caller, and the engine continues. Any other exception in the thread ends
    the engine; from then on every method but `close` raises RoleLost with it as the cause.

    Args:
        build: creates the engine, inside the thread. The constructor re-raises its exception.
        max_length: most tokens of a prompt and its answer together.
        timeout_s: limit on every command, and on the time in which an engine with answers generates no token.
    """

    def __init__(self, build: Callable[[], E], *, max_length: int, timeout_s: float) -> None:
        self.max_length, self.timeout_s = max_length, timeout_s
        self._commands: SimpleQueue[tuple[Callable[[E], Any], Future[Any] | None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards all of the following
        self._finished: list[Finished] = []
        self._first_finish = 0.0
        """When the first of them finished."""
        self._ready = False
        """Whether they are delivered now."""
        self._waiters: list[Future[None]] = []
        self._error: BaseException | None = None
        self._outstanding = 0
        self._decoding = False
        self._progress = 0.0
        """When decoding began, or a token was last generated."""
        self._load = EngineLoad()
        self._load_time = 0.0  # when it was measured
        self._info: WeightsInfo | None = None
        self._attached: np.ndarray | None = None
        self._next_tensor = 0
        """The first tensor of the next piece of weights; 0: the last version is loaded as a whole."""
        built: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(build, built), name="generator", daemon=True)
        self._thread.start()
        built.result()  # `placement.start_timeout_s` bounds the start of every role
        # Exiting the interpreter while the thread runs native code aborts the process, so wait for the thread at exit.
        atexit.register(self._stop, EXIT_WAIT_S)

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        for job in jobs:
            self._check_job(job)
        self._enqueue(lambda engine: engine.submit(jobs), None, answers=sum(len(job.seeds) for job in jobs))

    async def collect(self, wait_s: float) -> Finished:
        waiter: Future[None] = Future()
        # In state "running" the future cannot be cancelled, so the thread can always set its result.
        waiter.set_running_or_notify_cancel()
        with self._lock:
            self._raise_if_ended()
            if not self._ready:
                self._waiters.append(waiter)
        if waiter in self._waiters:
            with suppress(TimeoutError):
                # Not asyncio.wait_for: in Python 3.11 it drops a cancellation that comes when the future is done.
                async with asyncio.timeout(wait_s):
                    await asyncio.wrap_future(waiter)
        with self._lock:
            self._waiters = [other for other in self._waiters if other is not waiter]
            self._raise_if_ended()
            taken, self._finished, self._ready = self._finished, [], False
            idle_s = time.monotonic() - self._progress
            if not taken and self._decoding and idle_s > self.timeout_s:
                raise TimeoutError(
                    f"generator.timeout_s: {self._outstanding} answers are in flight and no token was generated for "
                    f"{idle_s:.0f} s, allowed are {self.timeout_s} s"
                )
            load = replace(self._load, waiting=max(0, self._outstanding - self._load.running))
        return replace(Finished.joined(taken), load=load)

    async def init_weights(self, info: WeightsInfo) -> None:
        await self._call(lambda engine: engine.declare(info))
        self._info = info

    async def attach_weights(self, memory: SharedMemory) -> bool:
        """Map the learner's memory, for updates without bytes. Return False if it is not possible here."""
        self._attached = attached(memory)
        return self._attached is not None

    async def detach_weights(self) -> None:
        """Unmap the learner's memory."""
        self._attached = None

    async def update_weights(self, weights: HostWeights) -> int:
        info = self._info
        assert info is not None, "init_weights comes before update_weights"
        if weights.data is None:
            weights = replace(weights, data=self._attached)

        def update(engine: E) -> int:
            if weights.version < engine.version:
                raise ValueError(f"weights.version: must not go back from {engine.version}, got {weights.version}")
            if weights.version > engine.version:
                first, end = span(info, weights)
                assert first == self._next_tensor, f"the piece must begin with tensor {self._next_tensor}, not {first}"
                check_payload(info, weights)
                try:
                    engine.load(weights)
                except ValueError as error:
                    # Not a ValueError any more: a partly loaded policy must not generate, so the engine has to end.
                    raise RuntimeError(f"loading weights of version {weights.version} failed: {error}") from error
                self._next_tensor = end % len(info.names)
            return engine.version

        version: int = await self._call(update)
        return version

    async def close(self) -> None:
        """End the thread after the current decoding step and free the engine. Unfinished answers are dropped."""
        await asyncio.to_thread(self._stop, self.timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"generator.timeout_s: the engine did not end within {self.timeout_s} s")
        atexit.unregister(self._stop)

    def _stop(self, wait_s: float) -> None:
        self._commands.put(None)
        self._thread.join(wait_s)

    def _check_job(self, job: GenerationJob) -> None:
        length = len(job.prompt_tokens) + job.max_new_tokens
        if not (len(job.prompt_tokens) and job.max_new_tokens > 0 and length <= self.max_length):
            raise ValueError(
                f"sampling.max_prompt_tokens: prompt {job.prompt_id} must have at least 1 token and, with "
                f"{job.max_new_tokens} new ones, at most {self.max_length}, got {len(job.prompt_tokens)}"
            )
        if job.temperature < LOWEST_TEMPERATURE and job.temperature != 0:
            raise ValueError(
                f"sampling.temperature: must be at least {LOWEST_TEMPERATURE}, or 0 (greedy), got {job.temperature}"
            )

    async def _call(self, function: Callable[[E], Any]) -> Any:
        """Run a command in the thread, between two steps, and return its result."""
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
            self._outstanding += answers
            self._commands.put((function, future))

    def _raise_if_ended(self) -> None:
        if self._error is not None:
            raise RoleLost(f"the generation engine has ended: {self._error!r}") from self._error

    def _run(self, build: Callable[[], E], built: Future[None]) -> None:
        try:
            engine = build()
        except BaseException as failure:
            built.set_exception(failure)
            return
        self._load = engine.workload()
        built.set_result(None)
        reason: BaseException = RuntimeError("it was closed")
        try:
            while self._run_commands(engine):
                if engine.busy:
                    self._count_as_decoding(True)
                    done = engine.step()
                    self._measure_load(engine)
                    self._deliver(done, last=not engine.busy)
        except BaseException as failure:
            reason = failure
        finally:
            self._end(reason)
            engine.close()

    def _run_commands(self, engine: E) -> bool:
        """Run the queued commands; if there is nothing to decode, wait for one. Return False after the command to end.

        A command is (function of the engine, future of its result or None), or None to end.
        """
        while not engine.busy or not self._commands.empty():
            self._count_as_decoding(engine.busy)  # not while it waits for a command, as to wake up
            command = self._commands.get()
            if command is None:
                return False
            function, future = command
            del command
            if future is None:
                function(engine)
            elif future.set_running_or_notify_cancel():
                try:
                    result = function(engine)
                    del function  # it may hold weights, which are freed before the caller sends more
                    future.set_result(result)
                except ValueError as error:
                    future.set_exception(error)
                except BaseException as error:
                    future.set_exception(error)
                    raise
        return True

    def _count_as_decoding(self, decoding: bool) -> None:
        with self._lock:
            if decoding and not self._decoding:
                self._progress, self._load_time = time.monotonic(), 0.0
            self._decoding = decoding

    def _measure_load(self, engine: E) -> None:
        now = time.monotonic()
        if now - self._load_time >= LOAD_S or not engine.busy:
            load = engine.workload()
            with self._lock:
                if load.tokens > self._load.tokens:
                    self._progress = now
                self._load, self._load_time = load, now

    def _deliver(self, done: Finished | None, *, last: bool) -> None:
        """Add the answers of a step; wake `collect` after the last step, or if the first has waited for GATHER_S."""
        now = time.monotonic()
        with self._lock:
            if done:
                self._first_finish = self._first_finish if self._finished else now
                self._finished.append(done)
                self._outstanding -= len(done)
            if self._finished and (last or now - self._first_finish >= GATHER_S):
                self._ready = True
                self._wake()

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            while not self._commands.empty():
                command = self._commands.get()
                if command is not None and command[1] is not None and command[1].set_running_or_notify_cancel():
                    command[1].set_exception(RoleLost(f"the generation engine has ended: {error!r}"))
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set_result(None)
        self._waiters = []
