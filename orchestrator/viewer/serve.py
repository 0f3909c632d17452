"""Serve the page of the rollout viewer to browsers of this machine, until Ctrl-C."""

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from orchestrator.viewer.answer_file import AnswerFile
from orchestrator.viewer.page import page

HOST = "127.0.0.1"
SUMMARIES_LIMIT = 2_000
"""Summaries in one response."""
TIMEOUT_S = 30.0
"""Longest wait for a browser's request on an open connection."""


class Server(ThreadingHTTPServer):
    """Serves `/` (the page), `/index` (summaries from a number on) and `/answer` (one answer) on 127.0.0.1.

    Args:
        name: of the run.
        path: its trajectories.jsonl, which may not exist yet.
        port: 0 for a free one.
    """

    daemon_threads = True

    def __init__(self, name: str, path: Path, port: int) -> None:
        super().__init__((HOST, port), Handler)
        self.answers, self.lock = AnswerFile(path), threading.Lock()
        self.page = page(name, {"live": True, "answers": [], "rows": [], "left_out": 0, "broken": 0}).encode()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a browser that has gone away, as when its page is closed; else the traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def index(self, query: dict[str, int]) -> dict[str, Any]:
        """Return summaries of the answers from number `from` of `generation` on; from the first one on, if the file
        was replaced."""
        with self.lock:
            unread, answers = self.answers.refresh(), self.answers
            same = query.get("generation") == answers.generation
            first = max(query.get("from", 0) if same else 0, answers.first)
            found = islice(answers.summaries, first - answers.first, first - answers.first + SUMMARIES_LIMIT)
            rows = [each.shown() for each in found]
            more = unread or first + len(rows) < answers.end
            counts = {"left_out": answers.first, "broken": answers.broken}
            return {"generation": answers.generation, "from": first, "answers": rows, "more": more, **counts}

    def answer(self, query: dict[str, int]) -> dict[str, Any] | None:
        """Return the answer `number` of `generation`; None if it is gone."""
        with self.lock:
            if query.get("generation") != self.answers.generation:
                return None
            try:
                return self.answers.answer(query.get("number", -1))
            except IndexError:
                return None


class Handler(BaseHTTPRequestHandler):
    """Answers one browser's requests."""

    server: Server
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the page, summaries or an answer."""
        # A page of another site may reach this server under a name of its own, and would then read the answers.
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        try:
            address = urlsplit(self.path)
        except ValueError:
            self._send(400, b"no address", "text/plain")
            return
        query = {k: int(v[-1]) for k, v in parse_qs(address.query).items() if v[-1].isdecimal() and len(v[-1]) < 16}
        if host not in (HOST, "localhost"):
            self._send(403, b"only for this machine", "text/plain")
        elif address.path == "/":
            self._send(200, self.server.page, "text/html; charset=utf-8")
        elif address.path == "/index":
            self._send_json(self.server.index(query))
        elif address.path == "/answer":
            self._send_json(self.server.answer(query))
        else:
            self._send(404, b"not found", "text/plain")

    def _send_json(self, value: Any) -> None:
        body = b"gone" if value is None else json.dumps(value, allow_nan=False).encode()
        self._send(404 if value is None else 200, body, "text/plain" if value is None else "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal shows the address."""


def serve(name: str, path: Path, port: int, report: Callable[[str], None]) -> None:
    """Serve the answers of a run until Ctrl-C.

    Raises:
        ValueError: the port is in use.
    """
    try:
        server = Server(name, path, port)
    except OSError as error:
        raise ValueError(f"--port: must be free, got {port} ({error.strerror})") from None
    with server:
        report(f"{server.url} shows the answers of {name}; Ctrl-C ends it")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            report("ended")
