"""Inspect the prompts of a task with the policy, and write the report."""

from collections.abc import Callable
from pathlib import Path

from configs.config import Config
from orchestrator.inspection.findings import Findings, measure
from orchestrator.inspection.page import write
from orchestrator.inspection.prompt_sets import read_sets, shared_frame
from orchestrator.inspection.reading import load_reader, read
from orchestrator.rollout.encoding import PromptEncoder


def inspect(cfg: Config, output: Path, progress: Callable[[int, int], None]) -> Findings:
    """Read every prompt once with the policy, measure the sets, and write the report to `output`.

    Args:
        progress: called as progress(prompts read, prompts in all).

    Raises:
        ValueError: task, prompts or policy cannot be used; names the setting.
    """
    policy = load_reader(cfg)
    vocabulary: int = policy.model.get_output_embeddings().out_features
    sets = read_sets(cfg, PromptEncoder(cfg.policy), vocabulary)
    rows = [row for each in sets for row in each.tokens]
    frame = shared_frame(rows)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, len(rows))

    readings = [read(policy, each.tokens, frame, cfg.learner.token_budget, advance) for each in sets]
    findings = measure(cfg.inspect_task, sets, frame, readings, vocabulary, cfg.seed)
    facts = [
        f"task {cfg.task.name}",
        f"policy {cfg.policy.path}",
        f"all prompts begin with the same {frame.begin} and end with the same {frame.end} tokens, which are left out",
        f"{findings.dimensions} principal components hold {findings.variance:.0%} of the variance of the hidden states",
        f"neighbour {cfg.inspect_task.neighbours}, similarity {cfg.inspect_task.similarity:g}, "
        f"clip {cfg.inspect_task.clip:g}",
    ]
    write(findings, facts, output)
    return findings
