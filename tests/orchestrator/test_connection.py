"""Joining a cluster that rejects the token of this machine, with a real server of gRPC in the place of the cluster's.
The end of roles in a cluster of this process, with another process in the place of its daemon."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import psutil
import pytest

from orchestrator import connection

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"
CODE = """
from orchestrator.connection import connect
try:
    connect()
except ValueError as error:
    print(error)
"""


class Guarded(grpc.GenericRpcHandler):
    """Answers every call as Ray's GCS does: one without the cluster's token is rejected with a reason."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        given = dict(handler_call_details.invocation_metadata).get("authorization", "")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if given != f"Bearer {TOKEN}":
                context.abort(
                    grpc.StatusCode.UNAUTHENTICATED, f"InvalidAuthToken: {'wrong' if given else 'missing'}\nMore."
                )
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no cluster")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Guarded(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=0).wait(timeout=10)


@pytest.mark.parametrize(("variables", "said"), [({"RAY_AUTH_TOKEN": "f" * 32}, "wrong"), ({}, "missing")])
def test_a_token_that_the_cluster_rejects_is_one_line_before_ray_tries_to_join(
    variables: dict[str, str], said: str, address: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "RAY_ADDRESS": address} | variables,
    )
    rule = "must be the address of a running Ray cluster whose token this machine has (RAY_AUTH_TOKEN or "
    assert done.stdout == f"RAY_ADDRESS: {rule}~/.ray/auth_token), got '{address}': InvalidAuthToken: {said}\n"
    assert done.stderr == ""


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A process in the place of a daemon of this process's own cluster."""
    with subprocess.Popen(["sleep", "600"]) as process:
        monkeypatch.setattr(connection, "_daemons", [psutil.Process(process.pid)])
        yield connection._daemons[0]
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_end_of_roles_is_not_waited_for_when_a_daemon_ends_or_stops_meanwhile(
    number: signal.Signals, daemon: psutil.Process
) -> None:
    seen = []

    async def ending() -> None:
        seen.append("began")
        daemon.send_signal(number)
        await asyncio.get_running_loop().create_future()  # as a call of Ray that waits for the daemon
        seen.append("ended")

    async def bounded() -> None:
        await asyncio.wait_for(connection.while_it_works(ending()), timeout=20.0)
        await asyncio.wait_for(connection.while_it_works(ending()), timeout=20.0)

    asyncio.run(bounded())
    assert seen == ["began"], "with a dead or stopped daemon, no call is made"


@pytest.mark.parametrize("own", [True, False], ids=["own cluster", "joined cluster"])
def test_the_end_of_roles_in_a_cluster_that_works_is_waited_for_and_raises_its_own_error(
    own: bool, daemon: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own:
        monkeypatch.setattr(connection, "_daemons", [])

    async def ending() -> None:
        await asyncio.sleep(2 * connection.WATCH_S)
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError, match=r"^ended$"):
        asyncio.run(connection.while_it_works(ending()))
