"""The tiny policies' tokenizer: one token per byte, saved as an ordinary Hugging Face tokenizer of the Qwen2 kind."""

import json
from pathlib import Path

PADDING, END = "<pad>", "<end>"
SPECIAL = (PADDING, END)
VOCABULARY_SIZE = len(SPECIAL) + 256


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, readable by AutoTokenizer and vLLM.

    It is byte-level BPE without merges, so every text has tokens and none is unknown. Ids: 0 padding, 1 end of answer,
    then one per byte.
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
        # transformers gives every Qwen2 policy this class, whatever is written here.
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
    """The printable stand-in of each byte in byte-level BPE: itself where it is visible, else a letter from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]
