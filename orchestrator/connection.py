"""Join a Ray cluster, or start one on this machine. Importing this loads Ray, but not torch."""

import asyncio
import atexit
import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import grpc
import psutil
import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from actors.machine import scratch, stack_signal
from orchestrator.planning.phases import UNKNOWN, Host
from orchestrator.preflight.machine import ANSWER_S, check_address
from orchestrator.recovery.interrupt import interrupt_at_sigterm

OWN_CLUSTER = {
    # Ray gives its workers the lowest priority, so that a busy machine leaves them no time beside other programs.
    "RAY_worker_niceness": "0",
    # Ray would start one worker per core at once. Every role needs an environment of its own, so none would be used.
    "RAY_prestart_worker_first_driver": "false",
    # Ray would keep a record of each of its calls, 20 a step, and grow by 20 kB a step.
    "RAY_task_events_report_interval_ms": "0",
}
"""Settings of Ray, as environment variables, of a cluster that is started here. Those of the user win."""
START_S = 300.0
"""Seconds after which the processes of a cluster that does not start are killed."""
END_S = 30.0
"""Seconds after which the processes of a cluster that is started here are killed, if it does not end."""
WATCH_S = 0.2
"""Seconds between two looks at the daemons of that cluster while the roles end."""
TOKEN_RULE = (
    "must be the address of a running Ray cluster whose token this machine has (RAY_AUTH_TOKEN or ~/.ray/auth_token)"
)

_daemons: list[psutil.Process] = []
"""Ray's daemons on this machine that this process has started."""
_exit_status = [1]
"""That of an uncaught exception, until `exits_with`."""


def connect(output: Callable[[Mapping[str, Any]], None] | None = None) -> None:
    """Join the Ray cluster at RAY_ADDRESS, which Ray sets in a job, or start one on this machine.

    Without the variable no running cluster is searched for: Ray would find the address of the machine's last cluster
    and wait for it, even if it has ended.

    Args:
        output: called, by a thread, with what the workers of this process print, on all nodes.

    Raises:
        ValueError: there is no cluster at RAY_ADDRESS, or it rejects this machine.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Ray would color its lines in files and logs too
    address = os.environ.get("RAY_ADDRESS", "local")
    local = address == "local"
    # At every start it says that the cluster is protected by a token.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    if local:
        sweeper = _own_folder()
        os.environ.setdefault("RAY_TMPDIR", os.environ[scratch.SCRATCH])
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
    else:
        check_address(address)
        # Ray itself uses the token of this machine for the address `auto` alone.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        _check_token(address)
    with _refusing(address), bounded(START_S):
        ray.init(
            address,
            include_dashboard=False,
            log_to_driver=output is not None,
            configure_logging=False,
            # In a job the working directory comes first on every worker's import path.
            runtime_env={"worker_process_setup_hook": "breadth.own_packages_first"},
        )
    interrupt_at_sigterm()  # Ray's handler would print the stack of its own code
    if output is not None:
        global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")  # which prints them
        global_worker_stdstream_dispatcher.add_handler("breadth", output)
    # Ray's own hook would send the traceback to the cluster, and wait for an answer when the cluster hangs.
    sys.excepthook = sys.__excepthook__
    if local:
        _daemons[:] = [child for child in psutil.Process().children() if child.name() in ("raylet", "gcs_server")]
        atexit.register(_disconnect, sweeper)  # before Ray's own, as it is registered later
    else:  # only now, as Ray looks for the cluster `auto` in the temporary folder
        atexit.register(scratch.end, _own_folder(), 2 * scratch.KILL_S)


def _own_folder() -> "subprocess.Popen[bytes]":
    """Make the temporary folder of this process and of all that it starts, and return the folder's sweeper."""
    scratch.sweep_dead()
    folder = scratch.make()
    stack_signal.register()
    return scratch.start_sweeper(folder)


def _disconnect(sweeper: "subprocess.Popen[bytes]") -> None:
    """End the cluster that was started here, in a bounded time, and all that is left of it."""
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    works = not _broken()
    if works:
        with bounded(END_S):
            ending.start()
            ending.join(2 * END_S)
    atexit.unregister(ray.shutdown)  # it has ended, or never will
    scratch.end(sweeper, 2 * scratch.KILL_S if works else 0.0)  # Ray may end this process with its raylet
    if not works or ending.is_alive():  # Ray's threads would crash the interpreter's end
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(_exit_status[0])


def exits_with(status: int) -> None:
    """Note the exit status of this process, for an end without a working cluster."""
    _exit_status[0] = status


@contextlib.contextmanager
def bounded(limit_s: float) -> Iterator[None]:
    """Kill the processes of the cluster that was started here if what is done inside takes longer than `limit_s`.

    Calls of Ray have no timeout of their own when its raylet hangs; they return or raise when it is dead.
    """
    timer = threading.Timer(limit_s, _kill_own_cluster)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


async def while_it_works(ending: Coroutine[Any, Any, None]) -> None:
    """Await the calls of Ray that end actors, unless a daemon of the cluster that was started here is dead or stopped.

    Such calls may not return, and Ray ends a process that has waited for its GCS for 60 s. The processes of the actors
    then end with that of the driver, as do the other daemons: killing the raylet would end the driver at once.

    Args:
        ending: makes the calls that may not return in other threads, such as those of `in_own_thread`.
    """
    calls = asyncio.ensure_future(ending)
    try:
        with bounded(END_S):
            while not _broken():
                if (await asyncio.wait([calls], timeout=WATCH_S))[0]:
                    return calls.result()
    finally:
        calls.cancel()


def _broken() -> bool:
    """Return whether a daemon of the cluster that was started here is dead or stopped, so that Ray may not answer."""
    for daemon in _daemons:
        try:
            if daemon.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED):
                return True
        except psutil.NoSuchProcess:
            return True
    return False


def _kill_own_cluster() -> None:
    """Kill the daemons of the cluster that was started here, and all that they have started."""
    for daemon in _daemons:
        with contextlib.suppress(psutil.Error):
            for process in [*daemon.children(recursive=True), daemon]:
                with contextlib.suppress(psutil.Error):
                    process.kill()


@contextlib.contextmanager
def _refusing(address: str) -> Iterator[None]:
    """Raise ValueError where Ray cannot join the cluster at `address`."""
    try:
        yield
    except (AuthenticationError, ConnectionError) as error:
        raise ValueError(f"RAY_ADDRESS: {TOKEN_RULE}, got {address!r}: {_first_line(str(error))}") from None


def _check_token(address: str) -> None:
    """Raise ValueError if the cluster at `host:port` rejects the token of this machine, or requires one.

    Ray itself would try for 20 s, and print a line of its C++ log at each attempt.
    """
    if address == "auto" or "://" in address:
        return
    channel = init_grpc_channel(address)
    try:
        NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=ANSWER_S)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise ValueError(f"RAY_ADDRESS: {TOKEN_RULE}, got {address!r}: {_first_line(error.details())}") from None
        # Other errors are left to Ray, which waits for a cluster that is starting.
    finally:
        channel.close()


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


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
