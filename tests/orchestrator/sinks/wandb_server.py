"""The part of a W&B server that a run talks to: starts and resumes runs, keeps their history and console lines."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """A server of one project whose answers have the fields that the installed W&B asks for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.history: dict[int, dict[str, Any]] = {}
        """Records of the run's history by line."""
        self.console: list[str] = []
        self.exit_codes: list[int] = []
        """Of the processes of the run that have ended."""
        self.artifacts: list[str] = []
        """Names of the artifacts that were made."""
        self.upserts: list[dict[str, Any]] = []
        """Variables of each creation or change of the run."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def data(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the data of the answer to a GraphQL request."""
        project = {"id": "p", "name": "breadth", "entity": {"id": "e", "name": "me"}}
        if operation == "UpsertBucket":
            self.upserts.append(variables)
            run = {"id": "r", "name": variables["name"], "displayName": variables["displayName"], "config": "{}"}
            run |= {"sweepName": None, "historyLineCount": len(self.history), "project": project}
            return {"upsertBucket": {"bucket": run, "inserted": not self.history}}
        if operation == "RunResumeStatus":
            return {"model": project | {"bucket": self._resumed(variables["name"]) if self.history else None}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            viewer = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}, "apiKeys": {"edges": []}}}
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "CreateArtifact":  # one that the server has already, so that no file of it is sent
            self.artifacts.append(variables["input"]["artifactCollectionName"])
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
            return {"createArtifact": {"artifact": artifact}}
        return {}

    def _resumed(self, name: str) -> dict[str, Any]:
        last = json.dumps({"_step": max(record["_step"] for record in self.history.values()), "_runtime": 1})
        counts = {"logLineCount": len(self.console), "historyLineCount": len(self.history), "eventsLineCount": 0}
        tails = {"summaryMetrics": last, "historyTail": json.dumps([last]), "eventsTail": "[]"}
        return counts | tails | {"id": "r", "name": name, "config": "{}", "tags": [], "wandbConfig": '{"t": 1}'}


def _operation(body: dict[str, Any]) -> str:
    """Return the name of the operation of a GraphQL request."""
    found = re.match(r"\s*(?:query|mutation)\s+(\w+)", body["query"])
    return found[1] if found else ""


class Handler(BaseHTTPRequestHandler):
    """One request to the server."""

    server: WandbServer

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            self._answer({"data": self.server.data(_operation(body), body.get("variables") or {})})
            return
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                lines = enumerate(chunk["content"], start=chunk["offset"])
                self.server.history |= {number: json.loads(line) for number, line in lines}
            elif name == "output.log":
                self.server.console += chunk["content"]
        if body.get("complete"):
            self.server.exit_codes.append(body["exitcode"])
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def _body(self) -> dict[str, Any]:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        try:
            body = json.loads(raw)
        except ValueError:  # a file, or a report to W&B about its own program
            return {}
        return body if isinstance(body, dict) else {}

    def _answer(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Run a server until the block ends."""
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
