"""Variables and secrets of a submitted job. Importing this loads no Ray.

Ray stores the variables of a job's runtime environment with the job, and `ray job list` prints them. A secret is
therefore none of them: it goes to the cluster's key-value store under a random name, the job's driver removes it from
there when it starts, and the job's variables hold the name alone. The driver passes those of `--secret` on to the roles
(`orchestrator/devices/environment.py`).
"""

import json
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

SECRETS = ("WANDB_API_KEY", "HF_TOKEN")
"""Variables of the user that are sent as secrets where they are set."""
KEY_VARIABLE = "BREADTH_SECRETS"
"""Variable of a job with the name of its secrets in the cluster's key-value store."""
ROLES_VARIABLE = "BREADTH_SECRETS_OF_ROLES"
"""Variable of a job with the names of `--secret`, which its roles get, too."""
STOP_VARIABLE = "BREADTH_STOP"
"""Variable of a job with the key under which `breadth submit --stop` asks its driver to stop."""
SUBMIT_VARIABLE = "BREADTH_SUBMIT"
"""Variable of a job with the `breadth submit` and its options that sent it, for the command that continues its run."""
POLL_S = 2.0
"""Seconds between two looks for that request."""
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_WAIT_S = 900
"""Seconds between SIGTERM and SIGKILL when a job is stopped: time for a step and a checkpoint. Ray's own are 3."""
RAY_STOP_WAIT_S = 3
LOOKS_SECRET = re.compile(r"(KEY|TOKEN)(_|\Z)|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""Names of variables with secrets. TOKENIZERS_PARALLELISM is none."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def variables(given: Sequence[str]) -> dict[str, str]:
    """Return the variables of a job from the words of `--env`, `NAME=VALUE`.

    Raises:
        ValueError: a word has another form, or looks like a secret.
    """
    found = {STOP_WAIT: str(STOP_WAIT_S)}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not NAME.match(name):
            raise ValueError(f"--env: must be NAME=VALUE, got {word.partition('=')[0]!r}")
        if LOOKS_SECRET.search(name):
            raise ValueError(
                f"--env: must not hold a secret, which `ray job list` would print, got {name}. Set {name} here and "
                f"pass --secret {name}"
            )
        found[name] = value
    wait = found[STOP_WAIT]
    if not wait.isdecimal():
        raise ValueError(f"--env: {STOP_WAIT} must be a whole number of seconds, got {wait!r}")
    return found


def found_secrets(asked: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets to send, by name: those of `--secret`, and of SECRETS those that are set.

    Raises:
        ValueError: a variable of `--secret` is not set.
    """
    missing = [name for name in asked if not (NAME.match(name) and environment.get(name))]
    if missing:
        names = [name.partition("=")[0] for name in missing]  # NAME=VALUE would print the secret
        raise ValueError(f"--secret: must name variables that are set here, got {', '.join(names)}")
    return {name: environment[name] for name in (*SECRETS, *asked) if environment.get(name)}


def new_key() -> str:
    """Return a name for the secrets of a job in the cluster's key-value store, which nobody can guess."""
    return f"gcs://breadth_{secrets.token_hex(16)}.zip"


def encoded(values: Mapping[str, str]) -> bytes:
    return json.dumps(values).encode()


class Store(Protocol):
    """A key-value store whose calls raise after a time limit."""

    def has(self, key: str) -> bool:
        """Return whether a key has a value that is not empty."""

    def take(self, key: str) -> bytes | None:
        """Return the value of a key and remove it; None if there is none."""


def receive(store: Store) -> list[str]:
    """Set the secrets of this job as variables of this process, and return their names.

    Raises:
        ValueError: the store does not have them; a job's driver takes them once.
    """
    key = os.environ.pop(KEY_VARIABLE)
    value = store.take(key)
    if not value:
        raise ValueError(f"{KEY_VARIABLE}: must name the secrets of this job in the cluster's store, got {key!r}")
    values: dict[str, str] = json.loads(value)
    os.environ.update(values)
    return list(values)


def watch_for_stop(store: Store) -> None:
    """Send SIGTERM to this process when its stop is asked for, from a thread that the end does not wait for.

    Ray's own stop sends SIGTERM to all processes below the job's command, and so to the service of W&B, which then ends
    before the last step is recorded.
    """
    key = os.environ.pop(STOP_VARIABLE)
    threading.Thread(target=_watch, args=(store, key), daemon=True, name="stop request").start()


def _watch(store: Store, key: str) -> None:
    while True:
        time.sleep(POLL_S)
        try:
            if store.has(key):
                os.kill(os.getpid(), signal.SIGTERM)
                return
        except Exception:  # The store may be away for a moment; Ray ends the driver if it stays so.
            continue
