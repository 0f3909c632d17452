"""Compare simulated steps with measured ones on this machine's CPU, for batches and lags that were not fitted.

Three short runs of the committed Countdown policy at lag 0 give the costs (`orchestrator/simulation/calibration.py`).
Of two with a lag only the seconds of computation of their processes are read: the same work takes more of them where
all roles compute at the same time. Further runs, of other batches, lags and orders, are simulated with these numbers.
Run it on a quiet machine with at least 2 cores:

    python -m benchmarks.plan_check --folder /tmp/plan_check --output /tmp/plan_check/table.json

The table goes to standard output and, as JSON, to --output. The exit status is 1 where a step that was not fitted
differs by more than 15 %.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from configs.load import load
from orchestrator.rollout.encoding import PromptEncoder, answer_encoder
from orchestrator.simulation.calibration import FIRST_STEPS, Measured, fit, measured_run
from orchestrator.simulation.costs import Costs
from orchestrator.simulation.lengths import measured, texts_of
from orchestrator.simulation.steps import simulate

Setting = tuple[int, int, str]
"""Groups per step, lag, and the order in which groups are taken."""
FITTED: tuple[Setting, ...] = ((16, 0, "fifo"), (48, 0, "fifo"), (128, 0, "fifo"))
"""The runs that give the costs."""
TOGETHER: tuple[Setting, ...] = ((48, 1, "fifo"), (128, 1, "fifo"))
"""Runs of two of these batches in which all roles compute at the same time."""
HELD_OUT: tuple[Setting, ...] = (
    (32, 0, "fifo"), (96, 0, "fifo"), (32, 1, "fifo"), (64, 1, "fifo"), (64, 2, "fifo"), (64, 4, "fifo"),
    (64, 2, "any_order"), (64, 4, "any_order"),
)  # fmt: skip
"""The runs that are compared."""
TOLERANCE = 0.15
COMPUTATION = "computation.json"
"""File of a run with the seconds of computation per step of its processes, by role."""
ROLES = {"ray::GeneratorShell": "generator", "ray::LearnerShell": "learner"}
"""Roles by the first word of their processes' command lines. The driver has its own; all others count as `beside`."""
SETTINGS = (
    "method=grpo", "scale=cpu", "monitor.every=0", "checkpoint.every=0", "logbook.trajectories=4096",
    "generator.max_sequences=2048",
    "placement.threads_per_generator=1", "placement.threads_per_learner=1",
)  # fmt: skip


def train(folder: Path, setting: Setting, steps: int) -> Path:
    """Train a short run, unless it is there, and return its directory."""
    groups, lag, take = setting
    run = folder / f"groups-{groups}-lag-{lag}{'' if take == 'fifo' else f'-{take}'}"
    if not (run / "metrics.jsonl").is_file():
        words = [f"runs={folder}", f"name={run.name}", f"groups_per_step={groups}", f"lag={lag}", f"take={take}"]
        command = [sys.executable, "-m", "orchestrator.commands.cli", "train", *SETTINGS, *words, *of_steps(steps)]
        driver = psutil.Popen(command, stdout=subprocess.DEVNULL)
        per_step = computation(driver, run / "metrics.jsonl", steps)
        if driver.wait():
            raise subprocess.CalledProcessError(driver.returncode, command)
        (run / COMPUTATION).write_text(json.dumps(per_step, indent=1))
    return run


def of_steps(steps: int) -> list[str]:
    """Return the settings of a run of so many steps. It records the answers of the last step alone.

    Their lengths are simulated. Recording them, with the values of their tokens, is after the last measured step.
    """
    return [f"steps={steps}", f"logbook.trajectories_every={steps}"]


def computation(driver: psutil.Process, metrics: Path, steps: int) -> dict[str, float]:
    """Return the seconds of computation per step of the processes of a run, by role, from its `FIRST_STEPS` on.

    Args:
        metrics: the file to which the run adds a line at every step.
    """
    began: tuple[int, dict[int, tuple[str, float]]] | None = None
    done, latest = 0, dict[int, tuple[str, float]]()
    while done < steps - 1 and driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
        written = metrics.read_text().count("\n") if metrics.is_file() else 0
        if written >= FIRST_STEPS and written != done:
            done, latest = written, _seconds(driver)
            began = began or (done, latest)
    if began is None or done == began[0]:
        return {}
    found: dict[str, float] = {}
    for process, (role, seconds) in latest.items():
        before = began[1].get(process, (role, 0.0))[1]
        found[role] = found.get(role, 0.0) + (seconds - before) / (done - began[0])
    return found


def _seconds(driver: psutil.Process) -> dict[int, tuple[str, float]]:
    """Return the role of each process of a run, and its seconds of computation since it started."""
    found = {}
    for process in (driver, *driver.children(recursive=True)):
        try:
            name = " ".join(process.cmdline()).split(".")[0].split(" ")[0]
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        role = "driver" if process == driver else ROLES.get(name, "beside")
        found[process.pid] = (role, spent.user + spent.system)
    return found


def measured_at(folder: Path, setting: Setting, steps: int) -> Measured:
    """Return the measured steps of a run, which is trained unless it is there."""
    run = train(folder, setting, steps)
    policy = load(file=str(run / "config.yaml")).policy
    encode, prompts = answer_encoder(policy), PromptEncoder(policy)
    answers = [min(len(encode(text)), 16) for text in texts_of(run, "answer")]
    asked = [len(prompts.tokenizer(text)["input_ids"]) for text in texts_of(run, "rendered")]
    return measured_run(run, measured(answers), round(float(np.mean(asked))))


def machine_costs(folder: Path, steps: int) -> Costs:
    """Return the costs of this machine.

    `grade_s` is what all processes compute per answer besides generator, learner and driver: graders, and those of Ray.
    `cores` are those of the machine, divided by how many times as much computation the same steps are where all roles
    compute at the same time, and so share memory and caches.
    """
    runs = [measured_at(folder, setting, steps) for setting in FITTED]
    alone = {setting: _computation(train(folder, setting, steps)) for setting in FITTED}
    together = {setting: _computation(train(folder, setting, steps)) for setting in TOGETHER}
    beside = sum(parts["beside"] for parts in alone.values()) / sum(run.answers for run in runs)
    total = sum(sum(parts.values()) for parts in together.values())
    same = sum(sum(alone[groups, 0, take].values()) for groups, _, take in together)
    return fit(runs, cores=len(os.sched_getaffinity(0)) / max(1.0, total / same), grade_s=beside)


def _computation(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / COMPUTATION).read_text())
    return found


def compared(folder: Path, settings: Sequence[Setting], costs: Costs, steps: int) -> list[dict[str, float | str]]:
    """Return a row of the table for each setting."""
    rows: list[dict[str, float | str]] = []
    for groups, lag, take in settings:
        real = measured_at(folder, (groups, lag, take), steps)
        simulated = simulate(real.cfg, costs, real.lengths, real.prompt_tokens).step_s
        difference = simulated / real.step_s - 1
        print(f"{groups:6}  {lag:3}  {take:9}  {real.step_s:10.3f}  {simulated:11.3f}  {difference:+10.1%}")
        row = {"groups": groups, "lag": lag, "take": take, "measured_s": real.step_s, "simulated_s": simulated}
        rows.append({**row, "difference": difference})
    return rows


def main() -> int:
    """Make the runs, fit, simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="Write the runs here; those that exist are read.")
    parser.add_argument("--output", type=Path, help="Write the table here as JSON.")
    parser.add_argument("--steps", type=int, default=24, help="Steps of each run (default 24).")
    options = parser.parse_args()
    costs = machine_costs(options.folder, options.steps)
    print(f"{costs}\n\ngroups  lag  take       measured s  simulated s  difference   (the first {len(FITTED)}: fitted)")
    fitted = compared(options.folder, FITTED, costs, options.steps)
    others = compared(options.folder, HELD_OUT, costs, options.steps)
    if options.output:
        options.output.write_text(json.dumps({"fitted": fitted, "others": others}, indent=1))
    worst = max(abs(float(row["difference"])) for row in others)
    print(f"largest difference of a setting that was not fitted: {worst:.1%} (allowed {TOLERANCE:.0%})")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
