"""The W&B server is not there, does not answer, or goes away during a run: training goes on."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.subject import Subject
from tests.orchestrator.sinks.wandb_server import wandb_server

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


@pytest.fixture
def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def online(folder: Path, url: str) -> Subject:
    home = folder / "home"
    home.mkdir()
    variables = {"HOME": str(home), "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url}
    return Subject(folder, ["placement.kind=in_process", "logbook.wandb=online"], variables)


@pytest.mark.parametrize("port", ["silent_port", "closed_port"])
def test_a_run_is_written_offline_where_wandb_does_not_answer_at_the_start(
    port: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    subject = online(tmp_path, f"http://127.0.0.1:{request.getfixturevalue(port)}")
    try:
        ended = subject.run()
        assert ended.status == 0 and "written offline" in ended.output, ended.output[-3000:]
        subject.check()
    finally:
        subject.close()


def test_a_run_goes_on_to_its_end_when_the_wandb_server_goes_away(tmp_path: Path) -> None:
    with wandb_server() as server:
        subject = online(tmp_path, server.url)
        process = subject.start()
        try:
            subject.wait_for_step(2)
            server.shutdown()
            server.server_close()
            output, _ = process.communicate(timeout=150)
            assert process.returncode == 0, output
            subject.check()
        finally:
            process.kill()
            subject.close()
