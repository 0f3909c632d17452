"""Find the directory of a policy, and check it. Loads no torch, so that a wrong path is refused at once."""

import json
from functools import cache
from pathlib import Path

from configs.hub import HubName, fetch, policy_name

SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
"""Files of configuration and tokenizer."""
WEIGHTS = ("*.safetensors",)
NOT_LOADED = ("*/*.json", "*/*.model", "*/*.txt", "*/*.safetensors", "consolidated*", "README*", "LICENSE*")
"""Files of a repository that transformers and vLLM do not read: those in folders, which are exports, and copies of the
weights in the layout of their authors."""


ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def policy_folder(path: str, setting: str = "policy.path") -> Path:
    """Return the directory of a policy, given as a directory or as the name of a Hugging Face repository.

    The files of a repository are fetched on the machine of this process, unless they are in its cache.

    Raises:
        ValueError: it is neither a directory nor a repository in reach; names `setting`.
    """
    name = policy_name(path)
    if name is not None:
        return _fetched(name, setting)
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{setting}: must be a directory of a Hugging Face policy, got {path!r}")
    return folder


@cache
def _fetched(name: HubName, setting: str) -> Path:
    folder = fetch(name, setting, (*SETTINGS, *WEIGHTS), NOT_LOADED)
    missing = [file for file in weight_files(folder, setting) if not (folder / file).is_file()]
    if missing and any(folder.glob("*.safetensors")):  # it has weights, in safetensors
        raise ValueError(f"{setting}: the Hub does not answer, and its cache lacks {', '.join(missing)}, got {name}")
    return folder


def config_folder(path: str, setting: str = "policy.path") -> Path:
    """Return a directory with the config.json and the tokenizer of a policy, without weights if they are not here yet.

    Raises: as `policy_folder`.
    """
    name = policy_name(path)
    return policy_folder(path, setting) if name is None else _fetched_settings(name, setting)


@cache
def _fetched_settings(name: HubName, setting: str) -> Path:
    return fetch(name, setting, SETTINGS, NOT_LOADED)


def check_policy_folder(path: str, setting: str = "policy.path") -> Path:
    """Return the directory of a policy. Raise ValueError, naming `setting`, unless it holds a model and a tokenizer."""
    folder = policy_folder(path, setting)
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{setting}: must hold {name}, got {path!r}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{setting}: must hold its weights as *.safetensors, got {path!r}")
    for name in weight_files(folder, setting):
        if not (folder / name).is_file():
            raise ValueError(f"{setting}: must hold {name}, which its {INDEX} names, got {path!r}")
    return folder


def weight_files(folder: Path, setting: str = "policy.path") -> list[str]:
    """Return the names of the files with the weights of a policy.

    Raises:
        ValueError: there are several without an index, or it is none; names `setting`.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / ONE_FILE).exists() and any(folder.glob("*.safetensors")):
            raise ValueError(f"{setting}: must hold {INDEX} where it has no {ONE_FILE}, got {str(folder)!r}")
        return [ONE_FILE]
    try:
        return sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        rule = "must be an index, which names the file of each tensor in 'weight_map'"
        raise ValueError(f"{setting}: {index} {rule}, got {type(error).__name__}: {error}") from None
