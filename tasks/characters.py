"""The tokenizer of the small policies: one token per byte, in the files of a Hugging Face tokenizer for Qwen2."""

import json
from pathlib import Path

PADDING, END = "<pad>", "<end>"
SPECIAL = (PADDING, END)
VOCABULARY_SIZE = len(SPECIAL) + 256


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer and vLLM can read.

    The tokenizer is byte-level BPE without merges, so no text has unknown tokens. Token id 0 is padding, 1 the end of
    an answer, and 2 + b the byte b.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "special": True, "single_word": False}
            | {"lstrip": False, "rstrip": False, "normalized": False}
            for i, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate([*SPECIAL, *_byte_names()])}, "merges": []},
    }
    settings = {
        # transformers uses this class for every Qwen2 policy, whatever this entry is.
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": PADDING,
        "eos_token": END,
        "unk_token": None,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _byte_names() -> list[str]:
    """Return the character that represents each byte in byte-level BPE: the byte's own if it is visible, else one from
    code point 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]
