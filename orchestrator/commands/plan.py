"""`breadth plan`: recommend placement, lag and budgets of a run on GPUs, with the time of a step by simulation."""

import argparse
import importlib
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.planning.lengths import Lengths, lognormal, measured, texts_of
from orchestrator.planning.recommend import Recommendation, bottleneck, recommend
from orchestrator.planning.request import Request, split_words
from orchestrator.planning.shapes import Shapes, read_shapes


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the recommended settings and what they are expected to take."""
    request, words = split_words(options.overrides)
    scale = "1gpu" if request.gpus == 1 else "8gpu"
    cfg = absolute(load([*([] if any(w.startswith("scale=") for w in words) else [f"scale={scale}"]), *words]))
    shapes = read_shapes(cfg.policy.path)
    prompt_tokens = request.prompt_tokens or max(1, cfg.sampling.max_prompt_tokens // 4)
    lengths = answer_lengths(request, cfg)
    out = Console(highlight=False)
    report = (lambda line: console.print(escape(line), soft_wrap=True)) if console.is_terminal else (lambda line: None)
    found = recommend(request, words, shapes, lengths, prompt_tokens, report)
    for line in lines(request, words, shapes, lengths, prompt_tokens, found):
        out.print(escape(line), soft_wrap=True)


def answer_lengths(request: Request, cfg: Config) -> Lengths:
    """Return the lengths of answers that the request asks for."""
    limit = cfg.sampling.max_new_tokens
    if not request.lengths:
        return lognormal(request.answer_tokens or limit / 3, limit)
    run_dir = Path(request.lengths)
    texts = texts_of(run_dir, "answer")
    recorded = load(file=str(run_dir / "config.yaml"))
    # It loads the tokenizer's library, which takes seconds.
    encoding = importlib.import_module("orchestrator.rollout.encoding")
    encode = encoding.answer_encoder(recorded.policy)
    return measured([min(len(encode(text)), limit) for text in texts])


def lines(
    request: Request,
    words: list[str],
    shapes: Shapes,
    lengths: Lengths,
    prompt_tokens: int,
    found: Recommendation,
) -> list[str]:
    """Return the lines that the command prints."""
    cfg, outcome = found.candidate.cfg, found.outcome
    step = outcome.step_s
    parts = [
        f"  {name:<16}{seconds:8.1f} s  {seconds / step:4.0%}" for name, seconds in outcome.seconds.items() if seconds
    ]
    settings = [word for word in words if not word.startswith("scale=")]
    return [
        f"{shapes.parameters / 1e9:.1f}B parameters on {request.gpus} {request.gpu}; {cfg.groups_per_step} prompts x "
        f"{cfg.sampling.group_size} answers a step; answers of {lengths.mean:.0f} tokens (at most "
        f"{cfg.sampling.max_new_tokens:,}), prompts of {prompt_tokens}",
        "",
        f"  {' '.join([*(w for w in words if w.startswith('scale=')), *found.candidate.words, *settings])}",
        "",
        f"{found.candidate.name}, lag {cfg.lag}",
        f"step            {step:10.1f} s, {outcome.tokens / step:,.0f} generated tokens/s, staleness "
        f"{outcome.staleness:.1f}, {outcome.batch:.0f} answers at a time in an engine",
        *parts,
        f"bottleneck: {bottleneck(found.candidate, outcome)}",
        *(
            ["by lag: " + ", ".join(f"{lag}: {seconds:.1f} s" for lag, seconds in found.by_lag.items())]
            if len(found.by_lag) > 1
            else []
        ),
        *(f"{seconds:8.1f} s  {other.name}" for other, seconds in found.others),
        f"{found.compared} placements fit, {found.too_large} do not. Seconds are simulated from published figures of "
        f"{request.gpu} (docs/deployment.md), not measured.",
    ]
