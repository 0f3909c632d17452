"""Join a Ray cluster, or start one on this machine. Importing this loads Ray, but not torch."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray._private.ray_logging import global_worker_stdstream_dispatcher

from orchestrator.planning.phases import UNKNOWN, Host

OWN_CLUSTER = {
    # Ray gives its workers the lowest priority, so that a busy machine leaves them no time beside other programs.
    "RAY_worker_niceness": "0",
    # Ray would start one worker per core at once. Every role needs an environment of its own, so none would be used.
    "RAY_prestart_worker_first_driver": "false",
    # Ray would keep a record of each of its calls, 20 a step, and grow by 20 kB a step.
    "RAY_task_events_report_interval_ms": "0",
}
"""Settings of Ray, as environment variables, of a cluster that is started here. Those of the user win."""


def connect(output: Callable[[Mapping[str, Any]], None] | None = None) -> None:
    """Join the Ray cluster at RAY_ADDRESS, which Ray sets in a job, or start one on this machine.

    Without the variable no running cluster is searched for: Ray would find the address of the machine's last cluster
    and wait for it, even if it has ended.

    Args:
        output: called, by a thread, with what the workers of this process print, on all nodes.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        # At every start it says that the cluster is protected by a token.
        logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    ray.init(
        address,
        include_dashboard=False,
        log_to_driver=output is not None,
        configure_logging=False,
        # In a job the working directory comes first on every worker's import path.
        runtime_env={"worker_process_setup_hook": "breadth.own_packages_first"},
    )
    if output is not None:
        global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")  # which prints them
        global_worker_stdstream_dispatcher.add_handler("breadth", output)


def own_cores() -> int:
    """Return the cores of this machine that Ray may use, if it is a cluster of its own; else 0."""
    if "RAY_ADDRESS" in os.environ:
        return 0
    # Ray's number respects the limits of a container.
    return min(int(ray.cluster_resources().get("CPU", 1)), len(os.sched_getaffinity(0)))


def smallest_host() -> Host:
    """Return the host with least memory for each of its GPUs, in the cluster that this process has joined: unknown if
    it has joined none, or one without GPUs."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    # Ray divides the memory of a node between its object store and the rest.
    hosts = [
        Host(memory=node.get("memory", 0.0) + node.get("object_store_memory", 0.0), gpus=int(node["GPU"]))
        for node in nodes
        if node.get("GPU", 0) >= 1
    ]
    return min(hosts, key=lambda host: host.memory / host.gpus, default=UNKNOWN)
