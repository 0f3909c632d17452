"""Measure CPU, memory and GPU use of the node that this process runs on."""

import contextlib
import functools
import socket
from typing import Any

import psutil

GIB = 2**30


def node_usage() -> tuple[str, dict[str, float]]:
    """Return the node's host name and its use: `cpu_percent` since the call before in this process, and of now
    `memory_percent`, `memory_gib`, and for each GPU `gpuN/utilization_percent`, `gpuN/memory_gib`, `gpuN/power_watts`.

    GPUs are left out without the package `pynvml`, which vLLM's CUDA build installs, and a value where the driver does
    not give it.
    """
    memory = psutil.virtual_memory()
    values = {
        "cpu_percent": psutil.cpu_percent(interval=None),
        "memory_percent": memory.percent,
        "memory_gib": (memory.total - memory.available) / GIB,
    }
    nvml = _nvml()
    for number in range(nvml.nvmlDeviceGetCount() if nvml else 0):
        for name, value in _gpu(nvml, number).items():
            values[f"gpu{number}/{name}"] = value
    return socket.gethostname(), values


@functools.cache
def _nvml() -> Any:
    """Return NVIDIA's management library, ready for calls; None on a node without it."""
    with contextlib.suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        return pynvml
    return None


def _gpu(nvml: Any, number: int) -> dict[str, float]:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    reads = {
        "utilization_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_gib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / GIB,
        "power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    values: dict[str, float] = {}
    for name, read in reads.items():
        with contextlib.suppress(nvml.NVMLError):  # such as utilization of a GPU that is divided (MIG)
            values[name] = float(read())
    return values
