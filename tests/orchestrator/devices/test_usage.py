"""The use of all nodes: one process per node is asked, and no step waits for the answers."""

import asyncio
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import actors.machine.node_usage
import orchestrator.devices.usage
from actors.machine.node_usage import node_usage
from orchestrator.devices.usage import NodeUsage


class Process:
    """A role's process on a node (`actors.remote.Handle`), which counts how often it was asked."""

    def __init__(self, host: str, percent: float) -> None:
        self.host, self.percent, self.asked, self.dead = host, percent, 0, False
        self.actor = SimpleNamespace(usage=SimpleNamespace(remote=self._usage))
        self.gate = asyncio.Event()
        self.gate.set()

    async def _usage(self) -> tuple[str, dict[str, float]]:
        self.asked += 1
        await self.gate.wait()
        if self.dead:
            raise RuntimeError("its process died before usage ended")
        return self.host, {"cpu_percent": self.percent}

    async def wait(self, result: Any, method: str, timeout_s: float | None = None) -> Any:
        async with asyncio.timeout(timeout_s):
            return await result


async def reading(nodes: NodeUsage) -> dict[str, float]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if values := nodes.take():
            return values
        await asyncio.sleep(0.01)
    raise AssertionError("no reading")


def test_the_use_of_this_node_is_read() -> None:
    host, values = node_usage()
    assert host and 0 <= values["memory_percent"] <= 100 and values["memory_gib"] > 0
    assert 0 <= values["cpu_percent"] <= 100


def test_one_process_per_node_is_asked_and_all_again_where_one_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.devices.usage, "EVERY_S", 0.0)
    local, _ = node_usage()

    async def body() -> None:
        processes = [Process("a", 1.0), Process("a", 2.0), Process("b", 3.0)]
        nodes = NodeUsage(processes)
        values = await reading(nodes)
        assert values["system/b/cpu_percent"] == 3.0 and values["system/a/cpu_percent"] in (1.0, 2.0)
        assert f"system/{local}/memory_gib" in values
        await reading(nodes)
        assert sorted(process.asked for process in processes[:2]) in ([1, 2], [1, 3])
        processes[2].dead = True
        before = [process.asked for process in processes]
        for _ in range(4):
            values = await reading(nodes)
        assert "system/b/cpu_percent" not in values and "system/a/cpu_percent" in values
        assert all(process.asked > asked for process, asked in zip(processes, before, strict=True))

    asyncio.run(body())


def test_a_step_does_not_wait_for_a_node_that_does_not_answer() -> None:
    async def body() -> None:
        process = Process("a", 1.0)
        process.gate.clear()
        nodes = NodeUsage([process])
        for _ in range(5):
            assert nodes.take() == {}
            await asyncio.sleep(0.02)
        process.gate.set()
        assert "system/a/cpu_percent" in await reading(nodes)
        assert process.asked == 1 and nodes.take() == {}, "the next reading is not due"

    asyncio.run(body())


def test_gpus_are_read_through_nvml_and_a_value_that_the_driver_refuses_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NVMLError(Exception):
        pass

    def utilization(handle: int) -> Any:
        if handle == 1:
            raise NVMLError("not supported on a GPU that is divided")
        return SimpleNamespace(gpu=87, memory=40)

    nvml = ModuleType("pynvml")
    nvml.__dict__.update(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=utilization,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 * 2**30, free=60 * 2**30, used=20 * 2**30),
        nvmlDeviceGetPowerUsage=lambda handle: 350_000,  # milliwatts
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    actors.machine.node_usage._nvml.cache_clear()
    try:
        _, values = node_usage()
    finally:
        actors.machine.node_usage._nvml.cache_clear()
    gpus = {name: value for name, value in values.items() if name.startswith("gpu")}
    assert gpus == {
        "gpu0/utilization_percent": 87.0,
        "gpu0/memory_gib": 20.0,
        "gpu0/power_watts": 350.0,
        "gpu1/memory_gib": 20.0,
        "gpu1/power_watts": 350.0,
    }
