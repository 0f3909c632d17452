"""The logbook: W&B, TensorBoard, MLflow, Trackio, console, and sampled trajectories."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_not_negative, require_positive

OPTIONAL_PACKAGES = ("mlflow", "trackio")
"""Settings that are true only where the package of that name is installed."""


@dataclass(frozen=True, kw_only=True)
class LogbookConfig:
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Mode of Weights & Biases; a resumed run continues under the same id."""
    wandb_project: str = "breadth"
    """Project in W&B and Trackio, and experiment in MLflow."""
    wandb_artifacts: bool = False
    """Upload the policy of the last checkpoint, and HTML reports in the run directory, when the run ends, and each page
    of `breadth report` on the run. Both then wait up to an hour for the upload."""
    tensorboard: bool = False
    """Write TensorBoard events into the run directory."""
    mlflow: bool = False
    """Copy metrics, sampled answers and alerts to the MLflow server of `MLFLOW_TRACKING_URI`. Needs `pip install
    mlflow`."""
    trackio: bool = False
    """Copy them to Trackio: to a local database, or to the Space of `TRACKIO_SPACE_ID`. Needs `pip install trackio`."""
    console: bool = True
    """Show the steps on the console."""
    trajectories_every: int = 10
    """Steps between samples of trajectories written to trajectories.jsonl; 0: no samples."""
    trajectories: int = 8
    """Trajectories per sample."""
    dump_steps: list[int] = field(default_factory=list)
    """Steps whose update is recorded in `steps/` of the run directory, so that `breadth replay-step` can run it again:
    batch, policy, optimizer, and what came of it. Each takes the space of a checkpoint and two scores of the batch."""

    def __post_init__(self) -> None:
        require_not_negative(self, "trajectories_every")
        require_positive(self, "trajectories")
        require(min(self.dump_steps, default=1) >= 1, "dump_steps", "must be steps from 1 on", self.dump_steps)
