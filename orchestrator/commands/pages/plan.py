"""`breadth plan`: recommend placement, lag and budgets of a run on GPUs, with the time of a step by simulation."""

import argparse
import importlib
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from actors.policy_files.folder import config_folder
from configs.checks import require
from configs.config import Config
from configs.hub import policy_name
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.planning.request import Request, split_words
from orchestrator.simulation.lengths import Lengths, lognormal, measured, texts_of


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the recommended settings and what they are expected to take."""
    request, words = split_words(options.overrides)
    usual = "1gpu" if request.gpus == 1 else "8gpu"
    chosen = [] if any(word.startswith("scale=") for word in words) else [f"scale={usual}"]
    cfg = absolute(load([*chosen, *words], options.config))
    rule = "must be a directory with the config.json of a language model, or a Hugging Face repository"
    folder = Path(cfg.policy.path) if policy_name(cfg.policy.path) is None else config_folder(cfg.policy.path)
    require((folder / "config.json").is_file(), "policy.path", rule, cfg.policy.path)
    rule = "must be a scale for GPUs"
    require(cfg.placement.device == "gpu", "scale", rule, cfg.scale)
    rule, most = "must be at most sampling.max_prompt_tokens", cfg.sampling.max_prompt_tokens
    require(request.prompt_tokens <= most, "prompt_tokens", f"{rule} ({most})", request.prompt_tokens)
    prompt_tokens = request.prompt_tokens or max(1, cfg.sampling.max_prompt_tokens // 4)
    lengths = answer_lengths(request, cfg)
    console.print("loading torch, and simulating placements ...")
    # They load torch, which takes seconds, so they are imported after the words have been checked.
    recommending, shaping, wording = (
        importlib.import_module(f"orchestrator.planning.{name}") for name in ("recommend", "model_shapes", "wording")
    )
    shapes = shaping.read_shapes(cfg.policy.path, cfg.policy.dtype, cfg.learner.lora)

    def report(line: str) -> None:
        if console.is_terminal:
            console.print(escape(line), soft_wrap=True)

    found = recommending.recommend(request, words, options.config, shapes, lengths, prompt_tokens, report)
    out = Console(highlight=False)
    for line in wording.lines(request, words, shapes, lengths, prompt_tokens, found):
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
