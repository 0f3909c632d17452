"""Export the policy of a checkpoint as a Hugging Face directory with a model card."""

from pathlib import Path

import yaml

from actors.policy_files.writing import copy_policy
from orchestrator import checkpoint
from orchestrator.manifest import SETTINGS, BrokenCheckpoint, folder_name, saved, step_of
from orchestrator.report.model_card import SETTINGS_FILE, model_card
from trajectories.atomic_write import replace_folder


def export(run_dir: Path, step: int | None, output: Path, dtype: str) -> Path:
    """Write the policy of a checkpoint to `output`, and return the checkpoint's directory.

    Args:
        step: of the checkpoint; None: the newest whole one.
        dtype: "bfloat16" or "float32", of the weights.

    Raises:
        ValueError: there is no such checkpoint, or it is broken.
    """
    root = run_dir / "checkpoints"
    if step is None:
        found = checkpoint.latest(root, lambda broken: None)
        if found is None:
            raise ValueError(f"RUN: must have a whole checkpoint, got none in {str(root)!r}")
    else:
        try:
            found = checkpoint.read(root / folder_name(step))
        except BrokenCheckpoint as error:
            steps = [step_of(path) for path in saved(root)]
            raise ValueError(f"--step: must be a whole checkpoint (there are {steps}), got {step}: {error}") from None
    text = (run_dir / SETTINGS).read_text()
    with replace_folder(output) as folder:
        copy_policy(str(found.policy), str(folder), dtype)
        (folder / SETTINGS_FILE).write_text(text)
        card = model_card(run_dir, yaml.safe_load(text), found.state.step, output.name, dtype)
        (folder / "README.md").write_text(card)
    return found.path
