"""How much a run of the benchmark measures, and where."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRL = ROOT / ".venv-trl" / "bin" / "python"
"""Interpreter of the environment that `make .venv-trl/.ready` makes."""
SMOLLM = ROOT / "runs" / "smollm" / "policy"
"""What `make runs/smollm/policy` makes."""
COUNTDOWN = ROOT / "tasks" / "base_policies" / "countdown"
IN_PROCESS = ("placement.kind=in_process", "generator.engine=transformers")
VLLM = ("generator.engine=vllm",)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of all measurements."""

    rounds: int
    """Values of each row."""
    quick: bool
    """Smallest sizes, one process instead of Ray and vLLM: whether everything works, not how fast it is."""
    folder: Path
    """Files of this run."""
    trl: str = ""
    """Interpreter with TRL; empty: there is none, and rows have no value beside ours."""
    smollm: str = ""
    """Directory of SmolLM2-135M; empty: it is not there."""
    soak_minutes: float = 0.0

    @property
    def small(self) -> tuple[str, ...]:
        """Settings of a run of `breadth train` in a quick benchmark."""
        return (
            *IN_PROCESS,
            *("groups_per_step=4", "sampling.group_size=4"),
        )

    @property
    def policies(self) -> Path:
        """Folder of random policies, which all runs of the benchmark share."""
        return self.folder.parent / "policies"

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        values = json.loads(text)
        return cls(**values | {"folder": Path(values["folder"])})
