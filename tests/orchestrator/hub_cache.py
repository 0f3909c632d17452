"""A cache of `huggingface_hub` in a temporary HF_HOME, laid out by hand, and read without a network."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants


class HubCache:
    """Repositories as `huggingface_hub` keeps them: `<kind>s--org--name/snapshots/<commit>`, whose files are links to
    `blobs`, and `refs/main`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of a process that reads this cache and nothing else."""
        return {"HF_HOME": str(self.home), "HF_HUB_OFFLINE": "1"}

    def add(self, kind: str, repository: str, files: Mapping[str, str | bytes | Path], revision: str = "main") -> str:
        """Add one commit of a repository, to which `revision` points, and return it. A value is a text, or a file."""
        folder = self.home / "hub" / f"{kind}s--{repository.replace('/', '--')}"
        commit = hashlib.sha1(f"{self.home}{repository}{revision}{sorted(files)}".encode()).hexdigest()
        for name, content in files.items():
            path = folder / "snapshots" / commit / name
            blob = folder / "blobs" / hashlib.sha1(f"{commit}{name}".encode()).hexdigest()
            for parent in (path.parent, blob.parent):
                parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, blob)
            else:
                blob.write_bytes(content.encode() if isinstance(content, str) else content)
            path.unlink(missing_ok=True)
            path.symlink_to(blob)
        ref = folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        return commit

    def add_policy(self, repository: str, source: Path, revision: str = "main") -> str:
        """Add the policy of a directory."""
        return self.add("model", repository, {path.name: path for path in source.iterdir() if path.is_file()}, revision)


def read_from(home: str) -> None:
    """Have this process, in which `huggingface_hub` may be imported already, read from the cache in a folder alone."""
    os.environ.update(HubCache(Path(home)).variables)
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(Path(home) / "hub"), True


def hub_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """Return an empty cache, from which this process and those that it starts read. The Hub is never asked."""
    cache = HubCache(home)
    for name, value in cache.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache
