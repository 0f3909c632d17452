"""Join a Ray cluster, or start one on this machine. Importing this loads Ray, but not torch."""

import logging
import os
import socket
from urllib.parse import urlsplit

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError

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


ANSWER_S = 5.0
"""Limit on a first connection to a cluster."""


def connect() -> None:
    """Join the Ray cluster at RAY_ADDRESS, which Ray sets in a job, or start one on this machine.

    Without the variable no running cluster is searched for: Ray would find the address of the machine's last cluster
    and wait for it, even if it has ended.

    Raises:
        ValueError: there is no cluster at RAY_ADDRESS, or it rejects this machine.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
    else:
        check_address(address)
    # At every start it says that the cluster is protected by a token.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    if address != "local":
        # Ray itself uses the token of this machine for the address `auto` alone.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        ray.init(
            address,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            # In a job the working directory comes first on every worker's import path.
            runtime_env={"worker_process_setup_hook": "breadth.own_packages_first"},
        )
    except (AuthenticationError, ConnectionError) as error:
        rule = "must be the address of a running Ray cluster whose token this machine has (~/.ray/auth_token)"
        raise ValueError(f"RAY_ADDRESS: {rule}, got {address!r}: {str(error).partition(chr(10))[0]}") from None


def check_address(address: str) -> None:
    """Raise ValueError unless something answers at RAY_ADDRESS. Ray would try for minutes to reach it."""
    if address == "auto":
        return
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.scheme in ("http", "https"):
        rule = "must be a cluster's own address, head-node:6379 or auto (`breadth submit` takes a dashboard's)"
        raise ValueError(f"RAY_ADDRESS: {rule}, got {address!r}")
    try:
        socket.create_connection((url.hostname, url.port), timeout=ANSWER_S).close()
    except (OSError, ValueError, TypeError) as error:
        rule = "must be the address of a running Ray cluster, such as head-node:6379"
        raise ValueError(f"RAY_ADDRESS: {rule}, got {address!r}: {error}") from None


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
