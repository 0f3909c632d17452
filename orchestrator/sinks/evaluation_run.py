"""Copy an evaluation into a W&B run of the job type `evaluate`, in the group of the training runs."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from configs.config import Config
from orchestrator.console.screen import Screen
from orchestrator.sinks.copies import Copies, open_sinks
from orchestrator.watch.bootstrap import Interval


def open_wandb(
    cfg: Config, folder: Path, run_name: str, job_type: Literal["evaluate", "report"], log: Callable[[str], None]
) -> Copies:
    """Open a new W&B run, with W&B's files below `folder`, and no other sink. No line is told twice: it ends soon."""
    told: set[str] = set()

    def tell(level: str, title: str, text: str) -> None:
        if text not in told:
            log(f"{title}: {text}")
        told.add(text)

    copies = Copies(tell, log if isinstance(log, Screen) else None)
    open_sinks(
        copies,
        replace(cfg.logbook, tensorboard=False, mlflow=False, trackio=False),
        folder,
        run_id=secrets.token_hex(4),
        run_name=run_name,
        settings=asdict(cfg),
        resume_step=None,
        job_type=job_type,
        log_from=0 if job_type == "evaluate" else None,  # the console.log beside a report is that of training
    )
    return copies


def copy_evaluation(
    cfg: Config, folder: Path, summaries: Mapping[str, Mapping[str, Interval]], log: Callable[[str], None]
) -> None:
    """Write one record per policy, numbered from 0, the base, and a table of all values, if `logbook.wandb` is set.

    Args:
        folder: of the evaluation; W&B's files are below it.
        summaries: monitored values of each policy by its name, as `watch.passk.summary` returns them.
        log: called with each line of text for the user.
    """
    if cfg.logbook.wandb == "disabled":
        return
    logbook = replace(cfg.logbook, wandb_artifacts=False)
    copies = open_wandb(replace(cfg, logbook=logbook), folder, f"{cfg.name} {folder.name}", "evaluate", log)
    rows = []
    for number, (policy, values) in enumerate(summaries.items()):
        record: dict[str, float] = {}
        for name, interval in values.items():
            ends = {"": interval.value, "/low": interval.low, "/high": interval.high}
            record |= {f"heldout/{name}{end}": value for end, value in ends.items()}
            rows.append({"policy": policy, "metric": name, **asdict(interval)})
        copies.forward(lambda sink, step=number, values=record: sink.write(step, values))  # type: ignore[misc]
    copies.forward(lambda sink: sink.table(len(summaries) - 1, "evaluation", rows))
    copies.close()
