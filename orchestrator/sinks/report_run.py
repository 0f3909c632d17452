"""Upload a report as an artifact of a W&B run of the job type `report`, in the group of the training runs."""

from collections.abc import Callable, Iterable
from pathlib import Path

from configs.load import load
from orchestrator.manifest import SETTINGS
from orchestrator.sinks.evaluation_run import open_wandb
from orchestrator.watch.logbook import METRICS, read_records


def copy_report(page: Path, folders: Iterable[Path], log: Callable[[str], None]) -> None:
    """Upload a page as the next version of the artifact `RUN-report-NAME`, where NAME is the page's name.

    Args:
        folders: of runs or an evaluation. The settings of the first one with `logbook.wandb_artifacts` say where to;
            without one, nothing is uploaded.
        log: called with each line of text for the user.
    """
    for folder in folders:
        try:
            cfg = load(file=str(folder / SETTINGS))
        except (ValueError, OSError):
            continue
        if cfg.logbook.wandb != "disabled" and cfg.logbook.wandb_artifacts:
            copies = open_wandb(cfg, folder, cfg.name, "report", log)
            records = read_records(folder / METRICS)
            copies.files(records[-1]["step"] if records else 0, f"report-{page.stem}", page)
            copies.close()
            return
