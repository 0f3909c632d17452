"""Empty remote places: in memory, in a folder, and in a server of S3."""

import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


def bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a bucket, and set the variables with which it is reached. Returns the URL of a place in it."""
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = f"b{secrets.token_hex(8)}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/{made}", method="PUT"), timeout=30).close()
    return f"s3://{made}/runs"


@pytest.fixture(scope="session")  # s3fs keeps its clients, and with them the address
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    if request.param == "memory":
        return f"memory://{secrets.token_hex(8)}"
    address = request.getfixturevalue("s3_server")
    return bucket(address, monkeypatch)
