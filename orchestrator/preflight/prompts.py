"""Check that the prompts of a run, and their answers, fit the limits of length and the policy's positions."""

from collections.abc import Callable, Sequence

from actors.generation.answers import TrajectoryBuilder
from configs.config import Config
from orchestrator.rollout.encoding import encode_heldout, encoder
from tasks.source import Source
from trajectories.trajectory import Prompt

PROMPTS_CHECKED = 256
"""Number of first prompts of the training stream whose lengths are checked."""


def check_prompts(cfg: Config, source: Source, heldout: Sequence[Prompt], report: Callable[[str], None]) -> None:
    """Check the lengths of the held-out prompts and of the first training prompts.

    Args:
        heldout: the held-out prompts; empty if nothing is measured.
        report: is called with a line if some of the training prompts are too long, and are therefore skipped.

    Raises:
        ValueError: a held-out prompt is too long, all of the first training prompts are, or the policy has too few
            positions; names the setting.
    """
    limit = cfg.sampling.max_prompt_tokens
    TrajectoryBuilder(cfg.policy.path, max_length=limit + cfg.sampling.max_new_tokens)
    encode = encoder(cfg.policy)
    if heldout:
        encode_heldout(heldout, encode, limit)
    lengths = [len(encode(source.prompt(position).text)) for position in range(PROMPTS_CHECKED)]
    too_long = sum(length > limit for length in lengths)
    if too_long == PROMPTS_CHECKED:
        raise ValueError(
            f"sampling.max_prompt_tokens: must hold some prompts, got {limit} where the first {PROMPTS_CHECKED} have "
            f"{min(lengths)} to {max(lengths)} tokens"
        )
    if too_long:
        report(
            f"prompts: {too_long} of the first {PROMPTS_CHECKED} have more than sampling.max_prompt_tokens={limit} "
            f"tokens (at most {max(lengths)}) and are skipped"
        )
