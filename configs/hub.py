"""Repositories of the Hugging Face Hub as values of settings: read their names, pin a revision, fetch their files.

A policy is `org/name[@revision]`; rows are `org/dataset[/subset][@revision][:split]`, where the subset may also be a
file, a folder or a pattern of files of the repository. What exists on this machine under such a name wins.

Files lie in the cache of `huggingface_hub` (HF_HOME), under its locks: processes of one machine that ask at once fetch
once. A pinned name, whose revision is a commit, is read from the cache without a request to the Hub.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

TIMEOUT_S = 10
"""Seconds to wait for the Hub's answer about a repository, before the cache alone is used."""
REPOSITORY = r"(?P<repository>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)"
POLICY = re.compile(REPOSITORY + r"(?:@(?P<revision>[^:@\s]+))?")
ROWS = re.compile(REPOSITORY + r"(?:/(?P<part>[^:@\s]+))?(?:@(?P<revision>[^:@\s]+))?(?::(?P<split>[\w.-]+))?")
COMMIT = re.compile("[0-9a-f]{40}")
FILE = re.compile(r".*\.(jsonl|json|parquet|arrow|csv)(\.gz)?")
"""Names of files of rows. `folder/rows.jsonl` is a file that is missing, and no repository."""
NO_TOKEN = "set HF_TOKEN to a token of an account that may read it"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository of the Hub, and what of it is meant."""

    kind: Literal["model", "dataset"]
    repository: str
    part: str = ""
    """Subset of a dataset, or a file, folder or pattern of files of its repository; empty: the default subset."""
    revision: str = ""
    """Branch, tag or commit; empty: the main branch."""
    split: str = ""
    """Split of a dataset; empty: its only one."""

    def __str__(self) -> str:
        part = f"/{self.part}" if self.part else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{part}{revision}" + (f":{self.split}" if self.split else "")

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that the name always means the same files."""
        return COMMIT.fullmatch(self.revision) is not None


def policy_name(path: str) -> HubName | None:
    """Return the repository that a policy's path names; None if it is a directory or no such name."""
    found = POLICY.fullmatch(path)
    return None if found is None or Path(path).exists() else HubName(kind="model", **_given(found))


def rows_name(path: str) -> HubName | None:
    """Return the repository that a path of rows names; None if there are such files here or it is no such name."""
    found = ROWS.fullmatch(path)
    if found is None or (FILE.fullmatch(found["repository"]) and not found["part"]):
        return None
    here = Path(path).exists() or any(Path(path).parent.glob(Path(path).name))
    return None if here else HubName(kind="dataset", **_given(found))


def _given(found: re.Match[str]) -> dict[str, Any]:
    return {name: value for name, value in found.groupdict().items() if value}


def pin(name: HubName, setting: str) -> HubName:
    """Return the name with the commit that its revision stands for: by the Hub or, if it does not answer, the cache.

    Raises:
        ValueError: neither knows the repository and its revision; names `setting`.
    """
    if name.pinned:
        return name
    try:
        return replace(name, revision=_asked(name))
    except Exception as error:  # of the Hub's client: its own, those of its HTTP library, and the system's
        ref = _cache_folder(name) / "refs" / (name.revision or "main")
        commit = "" if _denied(error) or not ref.is_file() else ref.read_text(errors="replace").strip()
        if not COMMIT.fullmatch(commit):
            raise _unreached(name, setting, error) from None
        return replace(name, revision=commit)


def fetch(name: HubName, setting: str, allow: Sequence[str], ignore: Sequence[str] = ()) -> Path:
    """Return the folder with the files of a repository, fetching those that the cache lacks.

    If the Hub does not answer, the folder has what the cache has.

    Args:
        allow: patterns of the files that are needed, in which `*` also stands for slashes.
        ignore: patterns of files among them that are not.

    Raises:
        ValueError: the Hub refuses them, or it does not answer and the cache has none of them; names `setting`.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, IncompleteSnapshotError, LocalEntryNotFoundError

    name = pin(name, setting)
    of: dict[str, Any] = {"repo_type": name.kind, "revision": name.revision}
    wanted = {**of, "allow_patterns": list(allow), "ignore_patterns": list(ignore)}
    try:
        get_cached_repo_tree(name.repository, **of)  # only with it is a folder known to lack nothing
        return Path(snapshot_download(name.repository, **wanted, local_files_only=True))
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        pass
    try:
        _asked(name)
        return Path(snapshot_download(name.repository, **wanted))
    except Exception as error:  # as in `pin`
        try:
            return Path(snapshot_download(name.repository, **wanted, local_files_only=True))
        except IncompleteSnapshotError as incomplete:
            return Path(incomplete.snapshot_path)
        except LocalEntryNotFoundError:
            raise _unreached(name, setting, error) from None


def listing(name: HubName, folder: Path) -> tuple[list[str], bool]:
    """Return the paths of the files of a pinned repository, and whether the Hub has listed them: if it never has, they
    are those in its folder."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(name.repository, repo_type=name.kind, revision=name.revision)
        return sorted(file.path for file in tree), True
    except CachedRepoTreeNotFoundError:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()), False


def _asked(name: HubName) -> str:
    """Return the commit of a name's revision by the Hub. Raises what its client raises, within TIMEOUT_S."""
    from huggingface_hub import HfApi

    revision = name.revision or None
    found = HfApi().repo_info(name.repository, repo_type=name.kind, revision=revision, timeout=TIMEOUT_S).sha
    assert found is not None
    return found


def _cache_folder(name: HubName) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"{name.kind}s--{name.repository.replace('/', '--')}"


def _denied(error: Exception) -> bool:
    """Return whether the Hub answered that it has no such revision."""
    return type(error).__name__ == "RevisionNotFoundError"


def _unreached(name: HubName, setting: str, error: Exception) -> ValueError:
    """Return the error of a name that is neither here nor in reach, with what was tried."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        reason = f"it is gated: accept its terms at https://huggingface.co/{name.repository}, and {NO_TOKEN}"
    elif isinstance(error, RepositoryNotFoundError):
        reason = f"it has no such {name.kind}, or a private one ({NO_TOKEN})"
    elif _denied(error):
        reason = f"it has no such revision of {name.repository}"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = f"HF_HUB_OFFLINE is set, and {_cache_folder(name)} has no such revision"
    else:
        why = " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {why}; {_cache_folder(name)} has no such revision"
    what = "a directory" if name.kind == "model" else "files, a folder"
    here = "directory" if name.kind == "model" else "file or folder"
    rule = f"must be {what} or a Hugging Face repository"
    return ValueError(f"{setting}: {rule}; no {here} {str(Path(str(name)).absolute())!r}, and the Hub: {reason}")
