"""Check what can be checked of an evaluation before any engine is started, and show the prompt that it uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from configs.config import Config
from configs.task import TaskConfig
from orchestrator.preflight.prompts import check_prompt, report_repairs, shortened
from orchestrator.preflight.rows import report_missing
from orchestrator.rollout.encoding import PromptEncoder, encode_heldout
from rewards.registry import check as check_verifier
from tasks.changed import with_extraction
from tasks.registry import build
from tasks.source import ListedSource, Source
from trajectories.trajectory import Prompt


@dataclass(frozen=True)
class Posed:
    """The held-out prompts of an evaluation, and how each policy reads them."""

    source: Source
    prompts: list[Prompt]
    encoders: dict[str, PromptEncoder]
    """By name of the policy, as the next."""
    first: dict[str, str]
    """The first prompt, rendered, tokenized and decoded again."""


def check_evaluation(
    cfg: Config,
    task: TaskConfig,
    checkpoints: Mapping[str, str],
    report: Callable[[str], None],
    encoders: Mapping[str, PromptEncoder] | None = None,
) -> Posed:
    """Check the held-out prompts of a task for every policy: their number, verifier, chat template and lengths.

    Args:
        task: that of the run, or another one.
        checkpoints: policy directories by name.
        report: called with the first prompt as every policy reads it.
        encoders: of the policies by name, if another task was checked before.

    Raises:
        ValueError: a check failed; names the setting.
    """
    source = build(task, cfg.seed)
    if encoders is None:
        source = with_extraction(source, cfg.evaluate.extraction, "evaluate.extraction")
        encoders = {name: PromptEncoder(replace(cfg.policy, path=path)) for name, path in checkpoints.items()}
    if isinstance(source, ListedSource):
        report_missing(task, sum(1 for _ in source.listed()), report)
    prompts = source.heldout(task.heldout_prompts)
    check_verifier(prompts[0].verifier)
    first: dict[str, str] = {}
    read_by: dict[tuple[str, int], list[str]] = {}
    for name, encode in encoders.items():
        vocabulary = report_repairs(checkpoints[name], encode, partial(_report_of, name, report))
        rows = encode_heldout(encode, prompts, cfg.sampling.max_prompt_tokens)
        for prompt, row in zip(prompts, rows, strict=True):
            check_prompt(encode, prompt, row, vocabulary, prompt.id)
        first[name] = encode.shown(rows[0])
        read_by.setdefault((first[name], len(rows[0])), []).append(name)
    for (text, length), names in read_by.items():
        report(f"first prompt of {', '.join(names)}, {length} tokens:\n{shortened(text)}")
    return Posed(source, prompts, dict(encoders), first)


def _report_of(name: str, report: Callable[[str], None], text: str) -> None:
    report(f"{name}: {text}")
