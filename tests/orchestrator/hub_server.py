"""A Hugging Face Hub on this machine: the requests that fetch a repository, and what it refuses."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_this_test"


class HubServer(ThreadingHTTPServer):
    """Serves the repository `org/tiny`, and a gated one, `org/gated`, to those that have TOKEN."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(files)
        self.commit = hashlib.sha1(b"".join(self.files.values())).hexdigest()
        self.sent: list[str] = []
        """Names of the files that were sent, once for each time."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if "org/gated" in path and not allowed:
            return self.send(b"", body, 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if "org/tiny" not in path and "org/gated" not in path:
            return self.send(b"", body, 404, {"X-Error-Code": "RepoNotFound"})
        if path.startswith("api/") and "/tree/" in path:
            tree = [{"type": "file", "path": n, "size": len(c), "oid": oid(c)} for n, c in self.server.files.items()]
            return self.send(json.dumps(tree).encode(), body)
        if path.startswith("api/"):
            return self.send(json.dumps({"id": "org/tiny", "sha": self.server.commit}).encode(), body)
        name = path.partition("/resolve/")[2].partition("/")[2]
        content = self.server.files[name]
        if body:
            self.server.sent.append(name)
        self.send(content, body, 200, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": self.server.commit})

    def send(self, content: bytes, body: bool, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub_server(files: Mapping[str, bytes]) -> Iterator[HubServer]:
    """Serve these files until the end."""
    with HubServer(files) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(timeout=10)
