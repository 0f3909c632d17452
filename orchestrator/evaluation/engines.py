"""Decide which policies of an evaluation can share an engine."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from actors.generation.answers import AnswerBuilder
from actors.policy_files.folder import policy_folder

NOT_COMPARED = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Keys of config.json that do not change an engine: the dtype is a setting, and stop tokens are compared apart."""


def by_engine(checkpoints: Mapping[str, str], max_length: int) -> list[dict[str, str]]:
    """Group policies that one engine can serve one after another, in order of appearance.

    Loading new weights changes only the weights of an engine. So the policies of a group have the same model
    configuration (and with it the same names and shapes of weights), the same stop tokens and the same tokenizer.

    Args:
        checkpoints: policy directories by name.
        max_length: most tokens of a prompt and its answer together.

    Raises:
        ValueError: an engine cannot use one of the policies (see `AnswerBuilder`).
    """
    groups: dict[str, dict[str, str]] = {}
    for name, path in checkpoints.items():
        groups.setdefault(_besides_weights(path, max_length), {})[name] = path
    return list(groups.values())


def reading_alike(checkpoints: Mapping[str, str], max_length: int) -> list[str]:
    """Return the names of the policies whose tokens have the same meaning as those of the first one.

    They have its tokenizer and its stop tokens, so each of them has a log-prob for every answer of the others.

    Args:
        checkpoints, max_length: as for `by_engine`.
    """
    read = {name: _reading(AnswerBuilder(path, max_length=max_length)) for name, path in checkpoints.items()}
    return [name for name, own in read.items() if own == next(iter(read.values()))]


def _reading(builder: AnswerBuilder) -> list[Any]:
    """Return what decides which text, and which end, given tokens are."""
    return [builder.stop_ids, _tokenizer(builder.tokenizer)]


def _besides_weights(path: str, max_length: int) -> str:
    """Return all that an engine reads from the directory of a policy except its weights, as JSON."""
    builder = AnswerBuilder(path, max_length=max_length)
    config = AutoConfig.from_pretrained(policy_folder(path), local_files_only=True).to_dict()
    parts = [_compared(config), builder.pad_id, *_reading(builder)]
    return json.dumps(parts, sort_keys=True, default=str)


def _compared(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {str(key): _compared(value) for key, value in config.items() if key not in NOT_COMPARED}


def _tokenizer(tokenizer: Any) -> list[Any]:
    """Return what decides the text of given tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tokens = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    cleans = getattr(tokenizer, "clean_up_tokenization_spaces", None)
    return [type(tokenizer).__name__, tokens, tokenizer.all_special_ids, cleans]
