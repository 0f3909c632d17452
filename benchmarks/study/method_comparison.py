"""Train methods from the same base with several seeds, measure them, and store what the page is made of.

    python benchmarks/study/method_comparison.py run [--task countdown] [--jobs 2] [METHOD ...]
    python benchmarks/study/method_comparison.py page

`run` trains and measures what docs/study/method_comparison.json does not hold yet, and adds it there; each run takes
about a minute on one core. `page` writes docs/study/method_comparison.md and its figure from that file alone.
"""

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from method_comparison_page import DATA, write_page
from method_families import METHODS

from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.evaluation.job import evaluate
from orchestrator.report.evaluation import Evaluation
from orchestrator.start import run_training
from orchestrator.stored.presample import presample

SEEDS = (0, 1, 2)
PLACE = ("placement.kind=in_process", "generator.engine=transformers", "logbook.console=false", "scale=cpu")
MEASURE = (
    "evaluate.answers=128",
    "evaluate.ks=[1,4,16,64,128]",
    "evaluate.frontier=[1.3,0.8,0.6,0.4,0.2,0.0]",
    "monitor.every=0",
    "checkpoint.every=0",
)
TASKS: dict[str, tuple[str, ...]] = {
    "countdown": (
        "policy.path=tasks/base_policies/unfinished_countdown",
        "steps=60",
        "rehearsal.prompts=2048",
        "task.heldout_prompts=128",
    ),
    "countdown_without_habit": ("steps=60", "rehearsal.prompts=2048", "task.heldout_prompts=128"),
    "sql_questions": (
        "task.name=sql_questions",
        "policy.path=tasks/base_policies/three_domains",
        "sampling.max_prompt_tokens=80",
        "sampling.max_new_tokens=60",
        "rehearsal.prompts=512",
        "groups_per_step=16",
        "steps=30",
    ),
}
"""Settings of a task for all methods."""


def settings_of(task: str, method: str, seed: int, runs: Path) -> Config:
    """Return the settings of one run."""
    name = f"name={task}-{method}-{seed}"
    words = [*METHODS[method], *PLACE, *TASKS[task], *MEASURE, f"seed={seed}", name, f"runs={json.dumps(str(runs))}"]
    cfg = absolute(load(words))
    if cfg.rehearsal.explore == "fresh":
        return cfg  # other prompts, so its stored answers are its own
    return replace(cfg, rehearsal=replace(cfg.rehearsal, path=str(runs / f"{task}-rehearsal.parquet")))


def train_and_measure(task: str, method: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train one run, measure its last policy, and return its record. What an interrupted run has left is removed."""
    cfg = settings_of(task, method, seed, runs)
    shutil.rmtree(runs / cfg.name, ignore_errors=True)
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda line: None))
    trained = run_dir / "checkpoints" / f"step-{cfg.steps:06d}" / "policy"
    # The seed of the measurement is that of the base, so that all policies answer with the same seeds.
    measured = measure(replace(cfg, seed=0), {"base": cfg.policy.path, "trained": str(trained)})
    values = measured.summaries["trained"][1.0]
    return {
        "method": method,
        "seed": seed,
        "correct": correct(measured, "trained", 1.0),
        "distinct": round(values["distinct_correct"].value, 3),
        "entropy": round(values["entropy"].value, 4),
    }


def measure(cfg: Config, policies: dict[str, str]) -> Evaluation:
    """Evaluate policies; the base is read from the cache after its first evaluation."""
    [measured] = asyncio.run(evaluate(cfg, policies, lambda line: None))
    return measured


def correct(measured: Evaluation, policy: str, temperature: float) -> list[int]:
    """Return the number of right answers to each prompt."""
    prompts = measured.measurements[policy][temperature].prompts
    assert all(p.total == measured.about["answers"] for p in prompts), "every answer must be graded"
    return [p.correct for p in prompts]


def prepare(task: str, runs: Path) -> dict[str, Any]:
    """Measure the base at all temperatures, store its rehearsed answers, and return the record of the task."""
    cfg = settings_of(task, "dph_f", 0, runs)
    if not Path(cfg.rehearsal.path).exists():
        asyncio.run(presample(cfg, Path(cfg.rehearsal.path), lambda done, total: None, print))
    measured = measure(cfg, {"base": cfg.policy.path})
    temperatures = list(measured.measurements["base"])
    return {
        "settings": [*TASKS[task]],
        "answers": cfg.evaluate.answers,
        "ks": list(cfg.evaluate.ks),
        "steps": cfg.steps,
        "prompts_per_step": cfg.groups_per_step,
        "answers_per_prompt": cfg.sampling.group_size,
        "base": {str(t): correct(measured, "base", t) for t in temperatures},
        "base_distinct": round(measured.summaries["base"][1.0]["distinct_correct"].value, 3),
        "runs": [],
    }


def run(task: str, methods: Sequence[str], runs: Path, jobs: int) -> None:
    """Train and measure all missing runs of a task, `jobs` at a time, and store each record when it is there."""
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    if task not in data:
        data[task] = prepare(task, runs)
        store(data)
    done = {(record["method"], record["seed"]) for record in data[task]["runs"]}
    missing = [(method, seed) for seed in SEEDS for method in methods if (method, seed) not in done]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        plans = [pool.submit(train_and_measure, task, *plan, runs) for plan in missing]
        for plan in as_completed(plans):
            if plan.exception():
                pool.shutdown(cancel_futures=True)
            record = plan.result()
            data[task]["runs"].append(record)
            store(data)
            rate = sum(record["correct"]) / len(record["correct"]) / data[task]["answers"]
            print(f"{task} {record['method']} seed {record['seed']}: Pass@1 {rate:.3f}", flush=True)


def store(data: dict[str, Any]) -> None:
    """Write the data, one line per run."""
    DATA.write_text(json.dumps(data, separators=(",", ":")).replace('{"method"', '\n{"method"') + "\n")


def main() -> None:
    """Run or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; default: all")
    parser.add_argument("--task", choices=tuple(TASKS), default="countdown")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    options = parser.parse_args()
    if options.what == "run":
        run(options.task, options.methods or list(METHODS), options.runs.absolute(), options.jobs)
    else:
        print(f"wrote {write_page()}")


if __name__ == "__main__":
    main()
