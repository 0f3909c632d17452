"""The client of a cluster beside addresses where no dashboard is, and answers that are not what they should be."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.submission import client
from orchestrator.submission.client import RayCluster

VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
TAKEN = "ValueError: Job with submission_id a already exists. Please use a different submission_id"
TRACEBACK = f"Traceback (most recent call last):\n  File 'job_agent.py', line 50, in submit_job\n{TAKEN}\n"
NO_CLUSTER = r"^--address: must be the address of a Ray dashboard that answers, .* where no cluster answers"


@contextmanager
def answering(answers: Mapping[str, str]) -> Iterator[str]:
    """Serve texts by path, status 404 for other paths, and status 500 with the text `POST` for what is sent."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = answers.get(self.path)
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()
            self.wfile.write(answers["POST"].encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(timeout=10)


@pytest.mark.parametrize("text", ["<html>a login page</html>", "{}", "[]", '"text"'])
def test_another_program_that_answers_is_no_cluster(text: str) -> None:
    with answering({"/api/version": text}) as address, pytest.raises(ValueError, match=NO_CLUSTER + "$"):
        RayCluster(address)


def test_a_program_without_that_page_is_refused_with_its_status() -> None:
    with answering({}) as address, pytest.raises(ValueError, match=r"^--address: the cluster at .* refuses: .*404"):
        RayCluster(address)


@pytest.mark.parametrize("closes", [True, False])
def test_a_port_that_speaks_another_protocol_is_refused_in_time(closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            if closes:
                connection.close()
            kept.append(connection)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        with pytest.raises(ValueError, match=NO_CLUSTER + (r"$" if closes else r" in time$")):
            RayCluster(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(timeout=10)
        for connection in kept:
            connection.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TRACEBACK, TAKEN),
        (f"Traceback (most recent call last):\n  x\nRuntimeError: failed with status code 400: {TRACEBACK!r}", TAKEN),
        ("No available agent to submit job, please try again later.", "500: No available agent to submit job"),
    ],
)
def test_a_job_that_is_refused_is_one_line_with_the_reason(text: str, said: str) -> None:
    with answering({"/api/version": json.dumps(VERSION), "POST": text}) as address:
        cluster = RayCluster(address)
        with pytest.raises(ValueError, match=r"^--address: the cluster at http://127.0.0.1:\d+ refuses: ") as caught:
            cluster.submit("a", "true", {}, {})
    assert said in str(caught.value) and "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_resources_are_those_of_all_nodes_that_are_up_or_unknown() -> None:
    def node(cpus: float, state: str = "ALIVE") -> dict[str, object]:
        return {"raylet": {"state": state, "resourcesTotal": {"CPU": cpus, "memory": 9.0}}}

    def resources(*nodes: object) -> dict[str, float]:
        answers = {"/nodes?view=summary": json.dumps({"data": {"summary": nodes}}), "/api/version": json.dumps(VERSION)}
        with answering(answers) as address:
            return RayCluster(address).resources()

    assert resources(node(4.0), node(8.0), node(2.0, "DEAD")) == {"CPU": 12.0}
    assert resources(node(4.0), {"raylet": {"state": "ALIVE"}}) == {}, "a part of the cluster would refuse what fits"
    assert resources(node(4.0), None) == {}


def test_every_fault_names_the_setting_that_the_address_was_given_by(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/api/version": json.dumps(VERSION)}
    for name in client.ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("--address", *reversed(client.ADDRESS_VARIABLES)):
        with answering(answers) as address:
            if name != "--address":
                monkeypatch.setenv(name, address)
            cluster = RayCluster(address if name == "--address" else "")
            for ask in (cluster.jobs, partial(cluster.store, "gcs://a", b"")):
                with pytest.raises(ValueError, match=rf"^{name}: the cluster at {address} refuses"):
                    ask()
        with pytest.raises(ValueError, match=rf"^{name}: must be the .*, got {address}, where no cluster answers$"):
            cluster.jobs()
