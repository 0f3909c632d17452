"""Places of runs outside of this machine: their URLs, and the local folders of such runs. Loads no fsspec."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")


def is_url(place: str) -> bool:
    """Return whether a place is a URL, such as s3://bucket/prefix, and no path."""
    return bool(SCHEME.match(place))


def check_url(setting: str, place: str) -> None:
    """Raise ValueError for a URL that holds a password, which config.yaml would keep, or names no bucket or folder."""
    url = urlparse(place)
    if url.password or url.username:
        rule = "must hold no credentials, which belong into environment variables"
        raise ValueError(f"{setting}: {rule}, got a URL with '@'")
    if not (url.netloc + url.path).strip("/"):
        raise ValueError(f"{setting}: must be a URL such as s3://bucket/prefix, got {place!r}")


def work_folder(url: str) -> Path:
    """Return the local folder for the runs of a remote place. Each place has its own, the same at every call."""
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", url.rstrip("/")).strip("-")[-40:].strip("-")
    return Path.home() / ".cache" / "breadth" / "runs" / f"{words}-{digest}"


def setting_of(runs: str, mirror: str) -> str:
    """Return the setting that named the place to which a run is copied: `runs`, whose URL is its `mirror`, or `mirror`.

    Args:
        runs, mirror: as `orchestrator.commands.paths.absolute` returns them.
    """
    return "runs" if Path(runs) == work_folder(mirror) else "mirror"


def split_run(url: str) -> tuple[str, str]:
    """Return the place and the name of a run from the URL of its directory."""
    place, _, name = url.rstrip("/").rpartition("/")
    if not name or place.endswith(":/"):
        raise ValueError(f"RUN: must be the URL of a run, such as s3://bucket/runs/first, got {url!r}")
    return place, name
