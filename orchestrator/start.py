"""Start a run: check its settings, start its roles, train until it stops, and end every process."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.config import Config
from configs.load import to_yaml
from orchestrator import checkpoint, cluster
from orchestrator.connection import smallest_host
from orchestrator.console.screen import Screen
from orchestrator.engine import with_engine
from orchestrator.manifest import SETTINGS
from orchestrator.placement import needed_roles
from orchestrator.preflight.beginning import check_beginning, new_folder
from orchestrator.preflight.check import Checked, check_run
from orchestrator.preflight.given import report_changed_method
from orchestrator.preflight.ineffective import report_ineffective
from orchestrator.preflight.layout import check_layout
from orchestrator.preflight.memory import check_memory
from orchestrator.preflight.named import check_training
from orchestrator.preflight.resume import check_resumed_settings, resume_command
from orchestrator.recovery import ledger, stacks
from orchestrator.recovery.driver_beats import Beats
from orchestrator.recovery.interrupt import interrupt_at_sigterm
from orchestrator.recovery.shared_folder import check_shared
from orchestrator.remote_runs.lock import RunLocks
from orchestrator.remote_runs.mirror import mirrored
from orchestrator.rollout.collector import Stopped
from orchestrator.rollout.grading import NothingGraded, prove, verifiers_of
from orchestrator.rollout.rollouts import rollouts_for
from orchestrator.state import RunState
from orchestrator.step_again.recording import record_updates
from orchestrator.stored.answers import StoredAnswers, first_policy, load_stored, presample_missing
from orchestrator.supervision.members import supervised
from orchestrator.train import Run, train
from orchestrator.watch.logbook import Logbook
from trajectories.atomic_write import replace_file


async def run_training(cfg: Config, *, resume: bool, log: Callable[[str], None]) -> Path:
    """Check the settings alone, and train as `train_run` does."""
    if not check_beginning(cfg, resume=resume, report=log):
        return Path(cfg.runs) / cfg.name
    check_training(cfg)
    return await train_run(cfg, resume=resume, log=log)


async def train_run(cfg: Config, *, resume: bool, log: Callable[[str], None]) -> Path:
    """Train one run to its end, from the start or from its last checkpoint, and return its directory.

    `check_beginning` and `check_training` come before: `breadth train` makes these checks before it loads this module.
    Ray's actors start while this process checks the run, and end if it is refused. A new run that is refused leaves no
    directory. On SIGINT or SIGTERM the run stops between two steps, with a checkpoint; a second signal ends it at once.

    Args:
        log: the screen of the command, or a function that is called with each line for the user.

    Raises:
        ValueError: a setting or the data is wrong; mostly raised before any role is started.
    """
    screen = log = Screen.of(log)
    cfg = with_engine(cfg, log)
    run_dir = Path(cfg.runs) / cfg.name
    async with contextlib.AsyncExitStack() as ending:
        beats = await ending.enter_async_context(Beats().sent())
        locks = RunLocks(cfg, log)
        if resume and run_dir.is_dir():
            ending.enter_context(locks)
        resumed = checkpoint.find(run_dir, log) if resume else None
        if resumed is not None:
            check_resumed_settings(cfg, resumed.path / SETTINGS, log)
        begun = first_policy(cfg, resume=resume)
        roles = await _create(cfg, ending, begun) if begun else None
        with screen.phase("reading settings, data and policy", "checked settings, data and policy"):
            check_layout(cfg)
            check_memory(cfg, log, smallest_host())
            checked = await check_run(cfg, log)
        report_changed_method(cfg, log)
        report_ineffective(cfg, log)
        if resume:
            log(_continuation(cfg, resumed))
        with contextlib.nullcontext() if resume else new_folder(cfg):
            screen.keep(run_dir)
            if not resume:
                ending.enter_context(locks)
                _write_settings(cfg, run_dir)
            stored = load_stored(cfg, run_dir)
            if roles is None:
                stored = await presample_missing(cfg, run_dir, stored, screen)
                roles = await _create(cfg, ending, cfg.policy.path)
            with contextlib.closing(ledger.Ledger(run_dir, locks.check)) as book:
                async with stacks.on_stall(run_dir, roles.handles):
                    run = await _train(
                        cfg, checked, roles, stored, book, locks, beats, resume=resume, resumed=resumed, screen=screen
                    )
    if run.step < cfg.steps:
        log(f"stopped at step {run.step} of {cfg.steps}. To go on: {resume_command(cfg)}")
    return run_dir


def _continuation(cfg: Config, resumed: checkpoint.Checkpoint | None) -> str:
    """Return the line that says from which step a resumed run goes on."""
    if resumed is None:
        return f"resume: the run has no checkpoint yet, so it starts again at step 0 of {cfg.steps}"
    return f"resume: goes on after step {resumed.state.step} of {cfg.steps}, from {resumed.path}"


async def _create(cfg: Config, ending: contextlib.AsyncExitStack, policy: str) -> cluster.Roles:
    """Create the roles of a run, which end with `ending`."""
    roles = cluster.create(cfg, needed_roles(cfg), policy_path=policy)
    ending.push_async_callback(roles.close)
    return roles


async def _train(
    cfg: Config,
    checked: Checked,
    roles: cluster.Roles,
    stored: StoredAnswers,
    book: ledger.Ledger,
    locks: RunLocks,
    beats: Beats,
    *,
    resume: bool,
    resumed: checkpoint.Checkpoint | None,
    screen: Screen,
) -> Run:
    """Wait for the roles, and train. Return the run as it ended."""
    run_dir = Path(cfg.runs) / cfg.name
    await _ready(cfg, roles, run_dir, screen)
    assert roles.learner is not None
    await prove(roles.graders, checked.source, screen, cfg.objective.rewards)
    await _load(roles, resumed)
    if resume:  # Only now: a resume that fails leaves the settings of the run as they are.
        _write_settings(cfg, run_dir)
    await roles.learner.connect(roles.generators)
    async with contextlib.AsyncExitStack() as within:
        rollouts = await within.enter_async_context(rollouts_for(cfg, roles.generators, roles.graders))
        verifiers = verifiers_of(checked.source, cfg.objective.rewards)
        learner: Any = roles.learner  # over Ray and in process it is a `Publisher`
        supervisor = supervised(
            roles, rollouts, learner, verifiers, run_dir, lambda title, text: screen(f"{title}: {text}")
        )
        await within.enter_async_context(supervisor)
        # Before the first publication the generators serve the reference, if it is still to be presampled.
        stored = await presample_missing(cfg, run_dir, stored, screen, (rollouts, *checked))
        book.begin(cfg, resumed.state if resumed else RunState.initial(cfg))
        logbook = _logbook(cfg, run_dir, checked, screen, resume=resume, resumed=resumed)
        run = Run(
            cfg,
            run_dir,
            *checked,
            roles=roles,
            rollouts=rollouts,
            stored=stored,
            logbook=logbook,
            ledger=book,
            resumed=resumed,
        )
        supervisor.alert, supervisor.note = logbook.alert, logbook.note
        record_updates(run)
        await _to_the_end(run, screen, locks, beats, resume=resume, resumed=resumed)
    return run


async def _ready(cfg: Config, roles: cluster.Roles, run_dir: Path, screen: Screen) -> None:
    """Wait until the roles can be called, and check that their nodes share the run's directory."""
    names = ", ".join(roles.names).replace("generator", f"generator ({cfg.generator.engine})")
    with screen.phase(f"starting {names}", "started the roles", of="are ready") as phase:
        phase.count = lambda: (sum(handle.built for handle in roles.handles), len(roles.handles))
        seconds = await roles.ready()
        phase.details += [f"{name} {taken:.1f}" for name, taken in seconds.items()]
    await check_shared(run_dir, roles)
    if not cfg.generator.max_sequences:
        for number, generator in enumerate(roles.generators):
            load = (await generator.collect(0.0)).load
            rule = f"generator.max_sequences=0: generator {number} decodes {load.free_sequences} answers at a time"
            screen(f"{rule}, with key-value memory for {load.free_kv_tokens:,} tokens")


async def _load(roles: cluster.Roles, resumed: checkpoint.Checkpoint | None) -> None:
    """Have learner and references load the checkpoint of a resumed run."""
    if resumed is not None:
        assert roles.learner is not None
        await roles.learner.load(str(resumed.path))
        if (resumed.path / "references").is_dir():
            assert roles.reference is not None
            await roles.reference.load(str(resumed.path))


async def _to_the_end(
    run: Run, screen: Screen, locks: RunLocks, beats: Beats, *, resume: bool, resumed: checkpoint.Checkpoint | None
) -> None:
    """Train until the run stops, check its ledger, and wait for its last checkpoint and copies."""
    failed = True
    async with mirrored(run.cfg, run.run_dir, run.logbook.alert, run.logbook.note, locks.remote):
        try:
            if resume:
                _check_ledger(run)
            async with run.checkpoints:
                with beats.within(run.cfg.placement.call_timeout_s):
                    unmeasured = resumed is not None and not resumed.state.measured
                    await train_until_stopped(run, screen, unmeasured=unmeasured)
            _check_ledger(run)
            failed = False
        except BaseException as error:
            screen.note(f"the run ended with {type(error).__name__}: {error}")
            raise
        finally:
            run.monitor.abandon()
            run.logbook.close(failed)


def _check_ledger(run: Run) -> None:
    """Note what the run was trained on so far, or raise an alert if its ledger shows a lost or doubled group."""
    found = ledger.account(ledger.read(run.run_dir), ended=run.step >= run.cfg.steps)
    (run.logbook.alert if found.problems else run.logbook.note)("ledger", found.words())


def _logbook(
    cfg: Config,
    run_dir: Path,
    checked: Checked,
    screen: Screen,
    *,
    resume: bool,
    resumed: checkpoint.Checkpoint | None,
) -> Logbook:
    """Open the logbook of a run, a new one or one that goes on."""
    step = resumed.state.step if resumed else 0
    return Logbook(
        run_dir,
        cfg.logbook,
        run_name=cfg.name,
        settings=asdict(cfg),
        total_steps=cfg.steps,
        wandb_id=resumed.state.wandb_id if resumed else None,
        render=checked.encode.shown,
        resume_step=step if resume else None,
        screen=screen,
    )


def _write_settings(cfg: Config, run_dir: Path) -> None:
    """Write config.yaml, which `--resume` and `breadth evaluate RUN` read."""
    with replace_file(run_dir / SETTINGS) as file:
        file.write(to_yaml(cfg).encode())


async def train_until_stopped(run: Run, screen: Screen, *, unmeasured: bool) -> None:
    """Measure the start of a new run, train until the last step, a stop rule or a signal, and write a checkpoint.

    Args:
        unmeasured: whether the run was interrupted before the measurement of its checkpoint's step was made.

    Raises:
        ValueError: no answer of a step could be judged. The checkpoint is that of the step before.
    """
    loop = asyncio.get_running_loop()

    def release(received: signal.Signals) -> None:
        if loop.remove_signal_handler(received) and received == signal.SIGTERM:
            interrupt_at_sigterm()

    def on_signal(received: signal.Signals) -> None:
        release(received)  # the next signal ends the process
        run.logbook.note(received.name, "stopping after this step, with a checkpoint")
        run.stop(received.name)

    for received in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(received, on_signal, received)
    try:
        with screen.phase("publishing the first weights", "published the first weights") as phase:
            await run.publish()
        run.logbook.note("start", phase.finished(), shown=True)
        await run.graders.start()
        measures = run.cfg.monitor.every and (run.step == 0 or unmeasured)
        if not measures or run.monitor.base_scorer is None:
            await run.roles.complete()  # else the measurement waits for the reference when it has the answers
        if measures:
            with screen.phase("measuring the held-out prompts", "measured the held-out prompts") as phase:
                await run.measure()
            run.logbook.note("start", phase.finished(), shown=True)
        with contextlib.suppress(Stopped):
            try:
                await train(run)
            except NothingGraded as error:
                await _end_ungraded(run, error)
        await run.checkpoint()
    finally:
        for received in (signal.SIGINT, signal.SIGTERM):
            release(received)


async def _end_ungraded(run: Run, error: NothingGraded) -> None:
    """Write the step's answers, an alert and a checkpoint, and raise ValueError."""
    text = f"task.verifier: must judge answers, {error}"
    run.logbook.trajectories(run.step + 1, (), [*run.collector.take_dropped_ungraded(), *error.groups])
    run.logbook.alert("no answer could be judged", text)
    await run.checkpoint()
    raise ValueError(
        f"{text}; the run ended in step {run.step + 1} with a checkpoint of step {run.step}, and "
        f"`{resume_command(run.cfg)}` continues it"
    ) from None
