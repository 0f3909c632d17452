"""As a program: make the update of a recorded step on two learner ranks, each in a process of its own, and record it.

python -m tests.orchestrator.step_again.two_ranks ADDRESS STEP TARGET
"""

import sys
from pathlib import Path

from tests.actors.learning.learner_ranks import RANKS_S, fork, save  # first: it sets the threads before torch is loaded

# isort: split
import torch

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import end_to_end, merge_columns, plan_scores, plan_updates
from configs.load import load
from objectives.diagnostics import merge
from orchestrator.constructors import learner_arguments
from orchestrator.step_again.folder import START, read

RANKS = 2


def run_rank(rank: int, address: str, step: Path, target: Path) -> None:
    """Write what this rank computes to `target`, and the start of the update, which both ranks write together."""
    cfg, recorded = load(file=str(step / "config.yaml")), read(step)
    arguments = learner_arguments(cfg) | {"policy_path": str(step / START / "policy")}
    learner = FsdpLearner(**arguments, rank=rank, ranks=RANKS)
    learner.join(address)
    learner.load(str(step / START))
    save(learner, target / START)
    width = learner.linear_width()
    divided, parts = plan_scores(recorded.batch, cfg.learner, RANKS, width)
    before = end_to_end(learner.score(parts[rank]))
    stats = learner.update(plan_updates(recorded.batch, cfg.learner, RANKS, width)[rank], recorded.coefficients)
    after = end_to_end(learner.score(parts[rank]))
    torch.save((divided, before, stats, after), target / f"rank{rank}.pt")
    learner.close()


def merged(step: Path, target: Path) -> tuple[dict[str, torch.Tensor], dict[str, tuple[float, float]]]:
    """Return the scores of both ranks in the order of the batch, as `RecordedStep` names them, and the metrics."""
    batch = read(step).batch
    files = (torch.load(target / f"rank{rank}.pt") for rank in range(RANKS))
    (divided, _), befores, stats, afters = zip(*files, strict=True)
    before, after = (merge_columns(batch, divided, scored) for scored in (befores, afters))
    scores = {"logp_before": before["logp_old"], "entropy_before": before["entropy_old"]}
    scores["logp_after"] = after["logp_old"]
    return scores, merge(*stats)


if __name__ == "__main__":
    address, step, target = sys.argv[1:]
    sys.exit(not fork(run_rank, address, Path(step), Path(target), timeout_s=RANKS_S))
