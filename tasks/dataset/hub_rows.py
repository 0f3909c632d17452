"""Rows of datasets on the Hugging Face Hub: which files of a repository hold a subset and a split, and fetch them.

The files are those that the library `datasets` would read, which is not needed: those named under `configs` in the
repository's README.md, else those whose names or folders have the name of the split. Datasets that only a Python script
can load are read by naming their files.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from configs.hub import HubName, fetch, listing, pin
from tasks.dataset.files import READERS, kind

CARD = "README.md"
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words of file names and folders by the split that they name, as in `datasets`."""
SHARD = re.compile(r"(?P<before>.*-)\d{5}-of-(?P<count>\d{5})(?P<after>.*)")
"""One of several numbered files, `train-00000-of-00002.parquet`."""
NOT_ROWS = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""Names of files that describe a dataset, as in `datasets`."""
Files = dict[str, list[str]]
"""Paths of files in a repository, by split."""


def hub_files(name: HubName, setting: str) -> list[Path]:
    """Return the files of rows that a name means, fetching those that this machine lacks.

    Raises:
        ValueError: the repository is not in reach or has no such subset, split or file; names `setting`.
    """
    return _files(pin(name, setting), setting)


@cache
def _files(name: HubName, setting: str) -> list[Path]:
    folder = fetch(name, setting, [CARD])
    card = folder / CARD
    paths, listed = listing(name, folder)
    chosen = choose(paths, card.read_text() if card.is_file() else "", name, setting)
    folder = fetch(name, setting, [re.sub(r"([\[*?])", r"[\1]", path) for path in chosen])
    wanted = chosen if listed else sorted({*chosen, *_shards(chosen, name.part)})
    missing = [path for path in wanted if not (folder / path).is_file()]
    if missing:
        raise ValueError(f"{setting}: the Hub does not answer, and its cache lacks {', '.join(missing)}, got {name}")
    return [folder / path for path in chosen]


def _shards(paths: Sequence[str], part: str) -> Iterator[str]:
    """Yield the paths of all files that are numbered as these are, and that `part` of a name means too."""
    for found in filter(None, map(SHARD.fullmatch, paths)):
        for number in range(int(found["count"])):
            path = f"{found['before']}{number:05d}-of-{found['count']}{found['after']}"
            if not part or fnmatchcase(path, part) or path.startswith(part.rstrip("/") + "/"):
                yield path


def choose(paths: Sequence[str], card: str, name: HubName, setting: str) -> list[str]:
    """Return the paths of the files of rows that a name means, sorted.

    Args:
        paths: of all files of the repository.
        card: text of its README.md.
    """
    rows = [path for path in paths if kind(Path(path)) in READERS and Path(path).name not in NOT_ROWS]
    subsets = _subsets(card, rows)
    if name.part and name.part not in subsets:
        found = [p for p in rows if fnmatchcase(p, name.part) or p.startswith(name.part.rstrip("/") + "/")]
        if not found:
            known = ", ".join(sorted(subsets) or sorted({p.rpartition("/")[0] or p for p in rows})) or "none"
            rule = f"must name a subset, a file or a folder of {name.repository}; it has {known}"
            raise ValueError(f"{setting}: {rule}, got {str(name)!r}")
        # A file, or a pattern, says which rows are meant; a folder may hold several splits.
        exact = not name.split and all(fnmatchcase(path, name.part) for path in found)
        splits = {"": found} if exact else _by_split(found)
    elif subsets:
        which = name.part or (next(iter(subsets)) if len(subsets) == 1 else "default" * ("default" in subsets))
        if not which:
            rule = f"must name one of the subsets of {name.repository}, as in {name.repository}/{next(iter(subsets))}"
            raise ValueError(f"{setting}: {rule}; it has {', '.join(subsets)}, got {str(name)!r}")
        splits = subsets[which]
    else:
        splits = _by_split(rows)
    chosen = name.split or (next(iter(splits)) if len(splits) == 1 else "")
    if chosen not in splits:
        known = ", ".join(f":{split}" for split in splits if split) or "no files of rows"
        rule = f"must end in a split of {name.repository}, which has {known}"
        raise ValueError(f"{setting}: {rule}, got {str(name)!r}")
    return sorted(splits[chosen])


def _subsets(card: str, rows: Sequence[str]) -> dict[str, Files]:
    """Return the files that a card lists, by subset; empty if it lists none."""
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        head = {}
    configs = head.get("configs") if isinstance(head, dict) else None
    subsets = {}
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict) and isinstance(config.get("config_name"), str):
            files = _of_config(config, rows)
            if files:
                subsets[config["config_name"]] = files
    return subsets


def _of_config(config: dict[str, Any], rows: Sequence[str]) -> Files:
    within = str(config.get("data_dir") or "").strip("/")
    rows = [path for path in rows if path.startswith(f"{within}/")] if within else rows
    given = config.get("data_files")
    if given is None:
        return _by_split(rows)
    if isinstance(given, str) or (isinstance(given, list) and all(isinstance(one, str) for one in given)):
        given = [{"split": "train", "path": given}]
    if isinstance(given, dict):
        given = [{"split": split, "path": path} for split, path in given.items()]
    files: Files = {}
    for one in given if isinstance(given, list) else []:
        if isinstance(one, dict) and "path" in one:
            patterns = [one["path"]] if isinstance(one["path"], str) else list(one["path"])
            files[str(one.get("split", "train"))] = _matching(rows, patterns, within)
    return {split: found for split, found in files.items() if found}


def _matching(rows: Sequence[str], patterns: Iterable[str], within: str) -> list[str]:
    patterns = [f"{within}/{pattern}" if within else str(pattern) for pattern in patterns]
    return [path for path in rows if any(fnmatchcase(path, pattern.replace("**/", "*")) for pattern in patterns)]


def _by_split(rows: Sequence[str]) -> Files:
    """Return files by the split in their names or folders; all of them are `train` if none has one."""
    files: Files = {}
    for path in rows:
        words = re.split(r"[^a-z]+", path.lower())
        split = next((split for split, names in SPLITS.items() if set(names) & set(words)), "")
        files.setdefault(split, []).append(path)
    return {split: found for split, found in files.items() if split} or ({"train": list(rows)} if rows else {})
