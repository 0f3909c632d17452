"""A sink in its own thread: calls keep their order, never wait, and are dropped and counted when too many wait."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

import orchestrator.sinks.own_thread
from orchestrator.sinks.own_thread import OwnThread


class Recorder:
    """A sink that notes its calls, and holds each until `gate` is set."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate, self.calls = gate, list[Any]()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.gate.wait(20)
        if values.get("fault"):
            raise RuntimeError("the service is gone")
        self.calls.append((step, values))

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.calls.append((step, name, rows))

    def alert(self, title: str, text: str) -> None:
        self.calls.append((title, text))

    def close(self, failed: bool = False) -> None:
        self.calls.append("failed" if failed else "close")

    def idle(self) -> None:
        self.calls.append("idle")


NEVER: dict[str, Any] = {"idle": lambda sink: None, "start_timeout_s": 20.0, "close_timeout_s": 1.0}
"""Arguments of a sink that does not start."""


def in_thread(
    gate: threading.Event,
    close_timeout_s: float = 20.0,
    wake: Callable[[], None] = lambda: None,
    abandon: Callable[[], None] | None = None,
    idle: Callable[[Recorder], None] = lambda sink: None,
) -> OwnThread[Recorder]:
    return OwnThread(
        "recorder",
        lambda: Recorder(gate),
        idle=idle,
        wake=wake,
        abandon=abandon or gate.set,
        start_timeout_s=20.0,
        close_timeout_s=close_timeout_s,
    )


def opened() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def test_calls_arrive_in_order_and_closing_waits_for_them() -> None:
    thread = in_thread(opened())
    thread.write(1, {"reward": 0.5})
    thread.table(1, "answers", [{"answer": "a"}])
    thread.alert("stop", "why")
    thread.close()
    assert thread.sink.calls == [(1, {"reward": 0.5}), (1, "answers", [{"answer": "a"}]), ("stop", "why"), "close"]


def test_a_sink_that_holds_drops_and_counts_calls_but_never_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.sinks.own_thread, "QUEUE_LIMIT", 5)
    gate = threading.Event()
    thread = in_thread(gate)
    for step in range(20):
        thread.write(step, {})
    assert 14 <= thread.dropped <= 15, "one call may be in the sink, five wait, the rest is dropped"
    gate.set()
    thread.close()
    assert len(thread.sink.calls) == 20 - thread.dropped + 1


def test_values_are_those_of_the_call_whatever_the_caller_does_with_them_later() -> None:
    gate = threading.Event()
    thread = in_thread(gate)
    values = {"reward": 0.5}
    thread.write(1, values)
    values["reward"] = 9.0
    gate.set()
    thread.close()
    assert thread.sink.calls[0] == (1, {"reward": 0.5})


def assert_raises_soon(thread: OwnThread[Recorder]) -> None:
    """Let the sink raise, and wait until a call raises the same."""
    thread.write(1, {"fault": 1.0})
    deadline = time.monotonic() + 20
    with pytest.raises(RuntimeError, match="the service is gone"):
        while time.monotonic() < deadline:
            thread.write(2, {})
            time.sleep(0.01)


def test_the_next_call_raises_what_the_sink_has_raised() -> None:
    thread = in_thread(opened())
    assert_raises_soon(thread)
    with pytest.raises(RuntimeError, match="the service is gone"):
        thread.close()


def test_the_processes_of_a_sink_are_ended_before_its_error_is_raised() -> None:
    # A process that ends beside the ending of W&B's service prints a traceback of W&B's exit handler.
    ended = list[str]()

    def end_slowly() -> None:
        time.sleep(0.2)
        ended.append("the service")

    assert_raises_soon(in_thread(opened(), abandon=end_slowly))
    assert ended == ["the service"]

    def refuse() -> Recorder:
        raise OSError("no such host")

    with pytest.raises(OSError, match="no such host"):
        OwnThread("recorder", refuse, **NEVER, wake=end_slowly, abandon=end_slowly)
    assert ended == ["the service"] * 2


def test_a_sink_that_wakes_up_at_the_end_gets_all_its_calls() -> None:
    gate = threading.Event()
    thread = in_thread(gate, close_timeout_s=0.1, wake=gate.set)
    thread.write(1, {})
    thread.close()
    assert thread.sink.calls == [(1, {}), "close"]


def test_closing_a_sink_that_holds_ends_its_processes_and_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.sinks.own_thread, "WAKE_TIMEOUT_S", 0.1)
    thread = in_thread(threading.Event(), close_timeout_s=0.1)
    thread.write(1, {})
    with pytest.raises(TimeoutError, match="did not end within"):
        thread.close()
    assert thread._closing.is_set() and not thread._thread.is_alive(), "the thread ended once its call returned"


def test_a_sink_that_cannot_be_started_raises_at_once() -> None:
    def refuse() -> Recorder:
        raise OSError("no such host")

    with pytest.raises(OSError, match="no such host"):
        OwnThread("recorder", refuse, **NEVER, wake=lambda: None, abandon=lambda: None)


def test_a_sink_that_does_not_start_is_given_up() -> None:
    gate = threading.Event()

    def wait() -> Recorder:
        gate.wait(20)
        return Recorder(gate)

    with pytest.raises(TimeoutError, match="did not start within"):
        OwnThread("recorder", wait, **NEVER | {"start_timeout_s": 0.1}, wake=lambda: None, abandon=gate.set)


def test_a_sink_is_told_whether_the_run_failed() -> None:
    thread = in_thread(opened())
    thread.close(failed=True)
    assert thread.sink.calls == ["failed"]


def test_a_sink_without_calls_has_time_for_other_work() -> None:
    thread = in_thread(opened(), idle=Recorder.idle)
    deadline = time.monotonic() + 20
    while not thread.sink.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.close()
    assert thread.sink.calls[0] == "idle" and thread.sink.calls[-1] == "close"
