"""Check the directory of a policy before it is loaded. Loads no torch, so that a wrong path is refused at once."""

from pathlib import Path


def check_policy_folder(path: str, setting: str = "policy.path") -> None:
    """Raise ValueError, naming `setting`, unless `path` is a directory with a Hugging Face model and tokenizer."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{setting}: must be a directory of a Hugging Face policy, got {path!r}")
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{setting}: must hold {name}, got {path!r}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{setting}: must hold its weights as *.safetensors, got {path!r}")
