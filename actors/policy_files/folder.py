"""Find the directory of a policy, and check it. Loads no torch, so that a wrong path is refused at once."""

from functools import cache
from pathlib import Path

from configs.hub import HubName, fetch, policy_name

SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
"""Files of configuration and tokenizer."""
WEIGHTS = ("*.safetensors",)
NOT_LOADED = ("*/*.json", "*/*.model", "*/*.txt", "*/*.safetensors", "consolidated*", "README*", "LICENSE*")
"""Files of a repository that transformers and vLLM do not read: those in folders, which are exports, and copies of the
weights in the layout of their authors."""


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
    return fetch(name, setting, (*SETTINGS, *WEIGHTS), NOT_LOADED)


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
    return folder
