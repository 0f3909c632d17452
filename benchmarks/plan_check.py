"""Compare simulated steps with measured ones on this machine's CPU, for batches and lags that were not fitted.

Three short runs of the committed Countdown policy at lag 0 give the costs (`orchestrator/planning/calibration.py`);
further runs, of other batches and lags, are simulated with them. Run it on a quiet machine with at least 2 cores:

    python -m benchmarks.plan_check --folder /tmp/plan_check --output /tmp/plan_check/table.json

The table goes to standard output and, as JSON, to --output. The exit status is 1 where a step that was not fitted
differs by more than 15 %.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from configs.load import load
from orchestrator.rollout.encoding import PromptEncoder, answer_encoder
from orchestrator.simulation.calibration import Measured, fit, measured_run
from orchestrator.simulation.lengths import measured, texts_of
from orchestrator.simulation.steps import simulate

FITTED = ((16, 0), (48, 0), (128, 0))
"""Groups per step and lag of the runs that give the costs."""
HELD_OUT = ((32, 0), (96, 0), (32, 1), (64, 1), (64, 2))
"""Those of the runs that are compared."""
TOLERANCE = 0.15
SETTINGS = (
    "method=grpo", "scale=cpu", "monitor.every=0", "checkpoint.every=0", "logbook.trajectories_every=1",
    "logbook.trajectories=4096", "generator.max_sequences=2048",
    "placement.threads_per_generator=1", "placement.threads_per_learner=1",
)  # fmt: skip


def run(folder: Path, groups: int, lag: int, steps: int) -> Measured:
    """Train a short run, unless it is there, and return its measured steps."""
    name = f"groups-{groups}-lag-{lag}"
    if not (folder / name / "metrics.jsonl").is_file():
        words = [*SETTINGS, f"runs={folder}", f"name={name}", f"steps={steps}", f"groups_per_step={groups}"]
        command = [sys.executable, "-m", "orchestrator.commands.cli", "train", *words, f"lag={lag}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    policy = load(file=str(folder / name / "config.yaml")).policy
    encode, prompts = answer_encoder(policy), PromptEncoder(policy)
    answers = [min(len(encode(text)), 16) for text in texts_of(folder / name, "answer")]
    asked = [len(prompts.tokenizer(text)["input_ids"]) for text in texts_of(folder / name, "rendered")]
    return measured_run(folder / name, measured(answers), round(float(np.mean(asked))))


def main() -> int:
    """Make the runs, fit, simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="Write the runs here; those that exist are read.")
    parser.add_argument("--output", type=Path, help="Write the table here as JSON.")
    parser.add_argument("--steps", type=int, default=24, help="Steps of each run (default 24).")
    options = parser.parse_args()
    costs = fit([run(options.folder, *setting, options.steps) for setting in FITTED])
    print(f"{costs}\n\ngroups  lag  measured s  simulated s  difference")
    rows: list[dict[str, float]] = []
    for groups, lag in (*FITTED, *HELD_OUT):
        real = run(options.folder, groups, lag, options.steps)
        simulated = simulate(real.cfg, costs, real.lengths, real.prompt_tokens).step_s
        row = {"groups": groups, "lag": lag, "measured_s": real.step_s, "simulated_s": simulated}
        difference, fitted = simulated / real.step_s - 1, " (fitted)" if (groups, lag) in FITTED else ""
        print(f"{groups:6}  {lag:3}  {real.step_s:10.3f}  {simulated:11.3f}  {difference:+10.1%}{fitted}")
        rows.append(row | {"fitted": bool(fitted)})
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    worst = max(abs(row["simulated_s"] / row["measured_s"] - 1) for row in rows if not row["fitted"])
    print(f"largest difference of a setting that was not fitted: {worst:.1%} (allowed {TOLERANCE:.0%})")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
