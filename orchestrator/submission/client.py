"""Submit jobs to a Ray cluster, and read their status and logs. Every request has a time limit.

Raises:
    ValueError: the cluster cannot be used: nothing answers, the token is missing or wrong, or it refuses a request.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import requests
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from orchestrator.submission.names import COMMAND, RUN, Job

DEFAULT = "http://127.0.0.1:8265"
"""Address of a dashboard that `ray start --head` starts on this machine."""
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_S, ANSWER_S = 5.0, 60.0
"""Limits on a connection, and on silence in an answer. An upload has none in all, as long as it moves."""
STORE_S = 20
"""Limit on a call to the key-value store of the cluster."""
QUIET = (
    "_private.authentication.authentication_token_setup",
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
)
"""Loggers of Ray that tell of tokens, uploads and closed connections."""
NO_TOKEN = (
    "the cluster at {address} requires its token, and none was found. Copy ~/.ray/auth_token from its head node to "
    "this machine, or set RAY_AUTH_TOKEN (and RAY_AUTH_MODE=token)"
)
WRONG_TOKEN = (
    "the cluster at {address} rejects this machine's token. It must be that of the head node (`ray get-auth-token`), "
    "in RAY_AUTH_TOKEN or ~/.ray/auth_token"
)


class _Bounded(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, with a time limit on each request. Ray's own has none."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **options)


class RayCluster:
    """A `Cluster`: the one whose dashboard is at an address.

    Args:
        given: `--address`; empty: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the cluster on this machine.
    """

    def __init__(self, given: str) -> None:
        self._source, self.address = resolved(given, os.environ)
        # As `ray.init` does for a local cluster: a token that lies on this machine is used, without a further variable.
        for name in QUIET:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        with self._faults(), _only_address(self.address):
            try:
                self._client = _Bounded(self.address)
            except (KeyError, TypeError):  # an answer in JSON of another program
                raise ConnectionError from None
        self.version = str(self._client._server_ray_version)

    def resources(self) -> dict[str, float]:
        with self._faults():
            answer = self._client._do_request("GET", "/nodes?view=summary")
        total: dict[str, float] = {}
        try:  # This page is no public interface of Ray.
            for node in answer.json()["data"]["summary"]:
                if node["raylet"].get("state") == "ALIVE":
                    for name, amount in node["raylet"]["resourcesTotal"].items():
                        if name in ("CPU", "GPU"):
                            total[name] = total.get(name, 0.0) + float(amount)
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}  # of all nodes, or unknown: of some of them a run that fits would be refused
        return total

    def upload(self, package: Path) -> str:
        with self._faults():
            return str(self._client._upload_package_if_needed(str(package), include_gitignore=False, is_file=True))

    def store(self, key: str, value: bytes) -> None:
        with self._faults():
            path = f"/api/packages/gcs/{key.removeprefix('gcs://')}"
            answer = self._client._do_request("PUT", path, data=value)
            if answer.status_code != 200:
                raise RuntimeError("the secrets could not be stored")  # The answer's text could hold them.

    def submit(self, job_id: str, entrypoint: str, runtime: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        with self._faults():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=dict(runtime), metadata=dict(metadata)
            )

    def jobs(self) -> list[Job]:
        with self._faults():
            return [_job(details) for details in self._client.list_jobs() if details.submission_id]

    def job(self, job_id: str) -> Job:
        with self._faults():
            return _job(self._client.get_job_info(job_id))

    def stop(self, job_id: str) -> None:
        with self._faults():
            self._client.stop_job(job_id)

    def output(self, job_id: str) -> str:
        with self._faults():
            return str(self._client.get_job_logs(job_id))

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        try:
            async for text in self._client.tail_job_logs(job_id):
                yield text
        except (OSError, RuntimeError) as error:  # aiohttp's errors of a connection are OSErrors
            raise ValueError(
                f"{self._source}: the log of {job_id} could not be read from {self.address}: {error}"
            ) from None

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn the errors of Ray and of the connection into one line, which begins with the setting of the address."""
        try:
            yield
        except AuthenticationError as error:
            text = NO_TOKEN if "401" in str(error) or "required" in str(error) else WRONG_TOKEN
            raise ValueError(f"{self._source}: {text.format(address=self.address)}") from None
        except (OSError, ConnectionError) as error:
            late = " in time" if isinstance(error, requests.exceptions.Timeout) else ""
            rule = "must be the address of a Ray dashboard that answers, such as http://head-node:8265"
            raise ValueError(f"{self._source}: {rule}, got {self.address}, where no cluster answers{late}") from None
        except RuntimeError as error:
            raise ValueError(f"{self._source}: the cluster at {self.address} refuses: {_first_line(error)}") from None


def resolved(given: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the setting that holds the address of the dashboard, and the address.

    Raises:
        ValueError: it is not that of a dashboard.
    """
    named = {name: environment[name] for name in ADDRESS_VARIABLES if environment.get(name)}
    source, address = ("--address", given) if given else next(iter(named.items()), ("--address", DEFAULT))
    if address in ("auto", "local"):
        return source, DEFAULT
    url = urlparse(address if "://" in address else f"http://{address}")
    dashboard = url.scheme in ("http", "https") and bool(url.hostname)
    if not dashboard:
        rule = "must be the address of a Ray dashboard, such as http://head-node:8265"
        raise ValueError(f"{source}: {rule}, got {address!r}")
    return source, url.geturl().rstrip("/")


@contextlib.contextmanager
def _only_address(address: str) -> Iterator[None]:
    """Let Ray's client use this address: it prefers the variable to its argument."""
    name = ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _job(details: JobDetails) -> Job:
    metadata, runtime = details.metadata or {}, details.runtime_env or {}
    return Job(
        id=details.submission_id or "",
        status=str(details.status),
        entrypoint=details.entrypoint,
        run=metadata.get(RUN, ""),
        command=metadata.get(COMMAND, ""),
        message=details.message or "",
        start=(details.start_time or 0) / 1000,
        end=(details.end_time or 0) / 1000,
        exit_code=details.driver_exit_code,
        variables=dict(runtime.get("env_vars") or {}),
    )


def _first_line(error: Exception) -> str:
    """Return the last line of a server's traceback, or else the first line of a message.

    The text of one server may be quoted by another, with `\\n` for its line breaks.
    """
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip(" .'\"")]
    traced = any("Traceback (most recent call last)" in line for line in lines)
    return (lines[-1] if traced else lines[0]) if lines else type(error).__name__


class JobStore:
    """The key-value store of the cluster of this job."""

    def __init__(self) -> None:
        self._client = GcsClient(address=os.environ.get("RAY_ADDRESS", ""))

    def has(self, key: str) -> bool:
        return bool(self._client.internal_kv_get(key.encode(), None, timeout=STORE_S))

    def take(self, key: str) -> bytes | None:
        value = self._client.internal_kv_get(key.encode(), None, timeout=STORE_S)
        self._client.internal_kv_del(key.encode(), False, None, timeout=STORE_S)
        return value if value is None else bytes(value)
