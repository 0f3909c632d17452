"""Start a run: check its settings, start its roles, train to the end, end every process."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

from configs.config import Config
from configs.load import to_yaml
from orchestrator import checkpoint, cluster
from orchestrator.placement import needed_roles
from orchestrator.rollout.collector import Stopped
from orchestrator.rollout.grading import prove
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.stored.answers import load_stored
from orchestrator.train import Run, train
from rewards.registry import check as check_verifier
from tasks.registry import build


async def run_training(cfg: Config, *, resume: bool, say: Callable[[str], None]) -> Path:
    """Train one run from start (or its last checkpoint) to end, and return its directory.

    Raises ValueError on bad settings before anything is started. On SIGINT or SIGTERM the run stops between two steps,
    with a checkpoint; a second signal ends it at once.
    """
    run_dir = Path(cfg.runs) / cfg.name
    source = build(cfg.task, cfg.seed)
    check_verifier(source.prompt(0).verifier)
    if cfg.monitor.every:
        source.heldout(cfg.task.heldout_prompts)
    resumed = checkpoint.find(run_dir, say) if resume else None
    if not resume and (run_dir / "metrics.jsonl").exists():
        raise ValueError(
            f"name: must be new (or pass --resume to continue), got {cfg.name!r}, which exists in {cfg.runs}"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(cfg))
    stored = await load_stored(cfg, run_dir, say)
    roles = await cluster.start(cfg, needed_roles(cfg))
    try:
        assert roles.learner is not None
        await prove(roles.graders, source, say)
        if resumed is not None:
            await roles.learner.load(str(resumed.path))
            if (resumed.path / "references").is_dir():
                assert roles.reference is not None
                await roles.reference.load(str(resumed.path))
        await roles.learner.connect(roles.generators)
        async with Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s) as rollouts:
            run = Run(
                cfg,
                run_dir,
                source,
                roles=roles,
                rollouts=rollouts,
                stored=stored,
                resume=resume,
                resumed=resumed,
            )
            try:
                await to_the_end(run)
            finally:
                run.logbook.close()
    finally:
        await roles.close()
    return run_dir


async def to_the_end(run: Run) -> None:
    """Train until the last step, a stop rule or a signal; leave a checkpoint of the last whole step."""
    loop = asyncio.get_running_loop()

    def on_signal(received: signal.Signals) -> None:
        loop.remove_signal_handler(received)  # the next one ends the process
        run.logbook.alert("signal", f"{received.name}: stopping after this step, with a checkpoint")
        run.stop(received.name)

    for received in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(received, on_signal, received)
    try:
        if run.step == 0 and run.cfg.monitor.every:
            await run.measure()
        with contextlib.suppress(Stopped):
            await train(run)
        await run.checkpoint()
    finally:
        for received in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(received)
