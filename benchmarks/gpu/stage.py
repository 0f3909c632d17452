"""Run one stage in this process: python -m benchmarks.gpu.stage NAME FILE DEVICE SCRATCH [small]

Exit status 1: something failed or differs; FILE says what.
"""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.gpu.record import Record


def main(stage: str, file: str, device: str, scratch: str, *small: str) -> int:
    """Run the stage, and return the exit status."""
    record = Record(stage, Path(file), device=device, small=bool(small), scratch=Path(scratch))
    return not record.run(lambda record: importlib.import_module(f"benchmarks.gpu.stages.{stage}").run(record))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
