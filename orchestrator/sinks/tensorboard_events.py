"""Copy the metrics of a run into TensorBoard's event files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class TensorboardSink:
    """Event files for TensorBoard. A resumed run passes `first_step`: earlier records from that step on are hidden."""

    def __init__(self, folder: Path, *, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = ["\t".join(f"{key}={value!r}" for key, value in row.items()) for row in rows]
        self._writer.add_text(name, "\n\n".join("    " + line for line in lines), step)

    def alert(self, title: str, text: str) -> None:
        self._writer.add_text("alerts", f"    {title!r}: {text!r}")

    def close(self, failed: bool = False) -> None:
        self._writer.close()
