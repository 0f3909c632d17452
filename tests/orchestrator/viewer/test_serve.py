"""The viewer's server: a page, summaries as they are written, and answers, for this machine only."""

import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from answer_lines import HOSTILE, row, write

from orchestrator.viewer import serve as serve_module
from orchestrator.viewer.serve import Server, serve
from tests.orchestrator.browser import opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(Server("run", tmp_path / "trajectories.jsonl", 0)) as found:
        yield found


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


class ChangingServer(Server):
    """A server before each of whose indices something happens, as long as there are `changes`."""

    def __init__(self, path: Path, *changes: Callable[[], object]) -> None:
        super().__init__("run", path, 0)
        self.changes = list(changes)

    def index(self, query: dict[str, int]) -> dict[str, Any]:
        if self.changes:
            self.changes.pop(0)()
        return super().index(query)


def get(server: Server, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(body) if is_json else body.decode()


def test_answers_appear_while_the_run_writes_them(server: Server, tmp_path: Path) -> None:
    status, page = get(server, "/")
    assert status == 200 and '"live": true' in page and "connect-src 'self'" in page
    assert get(server, "/index?generation=0&from=0")[1]["answers"] == []
    path = write(tmp_path / "trajectories.jsonl", row(1, texts=HOSTILE), row(2), end='{"step": 3')
    index = get(server, "/index?generation=0&from=0")[1]
    assert [each[0] for each in index["answers"]] == [1, 2] and not index["more"]
    write(path, end=', "status": "wrong"}\n')
    index = get(server, "/index?generation=0&from=2")[1]
    assert (index["from"], [each[0] for each in index["answers"]]) == (2, [3])
    status, found = get(server, "/answer?generation=0&number=0")
    assert status == 200 and found["tokens"]["texts"][:2] == list(HOSTILE[:2])


def test_a_replaced_file_is_sent_from_its_beginning_and_old_numbers_are_gone(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "trajectories.jsonl", row(1), row(2))
    get(server, "/index?generation=0&from=0")
    write(tmp_path / "new", row(5)).replace(path)
    index = get(server, "/index?generation=0&from=2")[1]
    assert (index["generation"], index["from"], [each[0] for each in index["answers"]]) == (1, 0, [5])
    assert get(server, "/answer?generation=0&number=0")[0] == 404
    assert get(server, "/answer?generation=1&number=0")[0] == 200


def test_a_long_index_comes_in_parts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "SUMMARIES_LIMIT", 2)
    write(tmp_path / "trajectories.jsonl", *map(row, range(3)))
    index = get(server, "/index?generation=0&from=0")[1]
    assert len(index["answers"]) == 2 and index["more"]
    assert not get(server, "/index?generation=0&from=2")[1]["more"]


@pytest.mark.parametrize(
    "path", ["/../config.yaml", "/index/", "/answer?number=9", "/answer?number=-1", "/answer?number=x"]
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    assert get(server, path)[0] == 404


def test_a_browser_that_goes_away_and_an_address_that_is_none_print_no_traceback(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        client.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    write(tmp_path / "trajectories.jsonl", *(row(i, texts=("x" * 400,) * 100) for i in range(200)))
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", server.server_port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
        client.sendall(b"GET /index?generation=0 HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\n")
        client.close()
    assert get(server, "/")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_page_under_another_name_cannot_read_the_answers(server: Server) -> None:
    assert get(server, "/index", Host="evil.example:80")[0] == 403
    assert get(server, "/index", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_port_in_use_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^--port: must be free, got {server.server_port}"):
        serve("run", tmp_path / "a.jsonl", server.server_port, print)


@pytest.mark.slow
def test_an_open_page_shows_answers_as_they_are_written_and_those_of_a_replaced_file_instead(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    changes = [lambda: None, lambda: write(path, row(1)), lambda: write(path, row(2, texts=HOSTILE), end='{"step": ')]
    with serving(ChangingServer(path, *changes)) as server:
        dom = opened(server.url, tmp_path)
    assert re.findall(r"<h2>(Step \d)", dom) == ["Step 2", "Step 1"] and "2 answers of 2 in 2 groups" in dom
    assert "<title>Answers of run</title>" in dom and "<img" not in dom

    for new, shown in ((write(tmp_path / "new", row(7)), ["Step 7"]), (write(tmp_path / "empty"), [])):
        with serving(ChangingServer(path, lambda: None, partial(new.replace, path))) as server:
            dom = opened(server.url, tmp_path)
        assert re.findall(r"<h2>(Step \d)", dom) == shown and not server.changes


@pytest.mark.slow
def test_an_open_page_goes_on_after_its_server_could_not_be_reached(tmp_path: Path) -> None:
    path = write(tmp_path / "trajectories.jsonl", row(1))

    def fails() -> None:
        raise ConnectionError  # Chromium asks once more by itself

    with serving(ChangingServer(path, lambda: None, *[fails] * 3, lambda: write(path, row(2)))) as server:
        dom = opened(server.url, tmp_path)
    assert re.findall(r"<h2>(Step \d)", dom) == ["Step 2", "Step 1"]

    with serving(ChangingServer(path, lambda: None, *[fails] * 3)) as server:
        dom = opened(server.url, tmp_path)
    [state] = re.findall(r'<div class="state">(.*?)</div>', dom)
    assert state.startswith("<span>2 answers of 2 in 2 groups</span>"), "there was nothing new after it"
