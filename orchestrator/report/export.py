"""Export the policy of a checkpoint as a Hugging Face directory with a model card: training settings and Pass@k."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from actors.policy_files.writing import copy_policy
from orchestrator import checkpoint
from orchestrator.manifest import SETTINGS, BrokenCheckpoint, folder_name, saved, step_of
from orchestrator.watch.logbook import measurement_path
from orchestrator.watch.monitor import read_measurement
from orchestrator.watch.passk import summary
from trajectories.atomic_write import replace_folder

CARD = """\
---
{front}---

# {name}

{base}, trained by reinforcement learning with verifiable rewards: {steps} steps of {prompts} prompts x {answers}
answers with the method `{method}` of Breadth. Weights are in {dtype}.

| setting | value |
| --- | --- |
| task, verifier | {task} |
| prompt | {prompt} |
| sampling | temperature {temperature:g}, at most {new_tokens} new tokens |
| learning rate | {rate:g} |
| all settings | `{settings_file}` in this directory |

## Pass@k

{measured}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```
"""
SETTINGS_FILE = "breadth.yaml"
"""File of an exported policy with the settings of its run."""


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
        card = _model_card(run_dir, yaml.safe_load(text), found.state.step, output.name, dtype)
        (folder / "README.md").write_text(card)
    return found.path


def _model_card(run_dir: Path, settings: Mapping[str, Any], step: int, folder: str, dtype: str) -> str:
    """Return the model card, as Markdown with YAML front matter, of the policy of `run_dir` after `step` steps.

    Args:
        settings: of the run, as in its config.yaml.
        folder: name of the directory that the policy is written to.
    """
    base = Path(settings["policy"]["path"]).name
    task, template = settings["task"], settings["policy"]["chat_template"]
    front = {
        "library_name": "transformers",
        "base_model": base,
        "tags": ["reinforcement-learning", "rlvr", "breadth", settings["method"]],
    }
    return CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=f"{settings['name']}, step {step}",
        base=base,
        steps=step,
        prompts=settings["groups_per_step"],
        answers=settings["sampling"]["group_size"],
        method=settings["method"],
        dtype=dtype,
        task=f"`{task['name']}`, {'`' + task['verifier'] + '`' if task['verifier'] else 'the verifier of the task'}",
        prompt="one user turn of the chat template" if template else "the text of the problem, without a chat template",
        temperature=settings["sampling"]["temperature"],
        new_tokens=settings["sampling"]["max_new_tokens"],
        rate=settings["learner"]["learning_rate"],
        settings_file=SETTINGS_FILE,
        measured=_measured(run_dir, step, settings["monitor"]["ks"]),
        folder=folder,
    )


def _measured(run_dir: Path, step: int, ks: Sequence[int]) -> str:
    """Return the table of Pass@k of the base and of the policy, from the run's own measurements."""
    before, after = (read_measurement(measurement_path(run_dir, number)) for number in (0, step))
    if after is None:
        return "The run did not measure its held-out prompts at this step."
    values = summary(after, ks, before)
    rows = {"": [f"Pass@{k}" for k in ks], "---": ["---"] * len(ks)}
    if before is not None:
        base = summary(before, ks, None)
        rows["base"] = [f"{base[f'pass@{k}'].value:.3f}" for k in ks]
    rows["this policy"] = [f"{values[f'pass@{k}'].value:.3f}" for k in ks]
    if before is not None:
        changes = [values[f"change/pass@{k}"] for k in ks]
        rows["change, 95 % interval"] = [f"{change.low:+z.3f} to {change.high:+z.3f}" for change in changes]
    table = "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())
    return (
        f"{table}\n\n{len(after.prompts)} held-out prompts, {after.answers} answers to each, temperature "
        f"{after.temperature:g}. Pass@k is the chance that one of k answers is right (unbiased estimate). Intervals "
        "are paired over prompts."
    )
