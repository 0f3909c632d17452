"""`breadth submit`: run another command as a job on a Ray cluster, and follow, list or stop such jobs."""

import argparse
import asyncio
import contextlib
import importlib
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.commands.options import line_printer
from orchestrator.commands.parser import parse
from orchestrator.commands.paths import ROOT
from orchestrator.submission import checks
from orchestrator.submission.contract import Cluster
from orchestrator.submission.follow import follow
from orchestrator.submission.names import (
    COMMAND,
    RUN,
    Job,
    check_free,
    chosen,
    entrypoint,
    of_run,
    submission_id,
)
from orchestrator.submission.package import Package, in_words, own_source, require_folder, working_directory
from orchestrator.submission.runtime import (
    KEY_VARIABLE,
    RAY_STOP_WAIT_S,
    ROLES_VARIABLE,
    STOP_VARIABLE,
    STOP_WAIT,
    SUBMIT_VARIABLE,
    encoded,
    found_secrets,
    new_key,
    variables,
)

STOP_SLACK_S = 60.0
"""Seconds after SIGKILL until Ray must have recorded that a job ended."""
OWN_STATUSES = (0, 1, 2, 130)
"""Exit statuses with which a driver ends by itself. If there is a checkpoint, it has printed how to go on."""
STOPPED_STATUS = 1
"""Exit status after a job that was stopped, as it has not done all it was to do."""


def run(options: argparse.Namespace, console: Console) -> int:
    """Submit a job, or act on one, and return the exit status: that of a job that was followed to its end."""
    asked = [name for name in ("status", "logs", "stop") if getattr(options, name) is not None]
    if len(asked) + bool(options.words) != 1:
        rule = "must be one of a command to run, --status, --logs or --stop"
        raise ValueError(f"breadth submit: {rule}, got {' and '.join([*asked, *options.words[:1]]) or 'none'}")
    if options.words:
        return _submit(options, console)
    cluster = _cluster(options.address)
    if options.status is not None:
        return _status(cluster, options.status)
    job = chosen(cluster.jobs(), options.logs or options.stop)
    if options.stop is not None:
        return _stop(cluster, job, console)
    return _follow(cluster, job.id, options, console)


def _cluster(address: str) -> Cluster:
    client = importlib.import_module("orchestrator.submission.client")  # loads Ray, so only when it is needed
    cluster: Cluster = client.RayCluster(address)
    return cluster


def _submit(options: argparse.Namespace, console: Console) -> int:
    """Check the command here, send it, and follow the job."""
    log = line_printer(console)
    parsed = parse(options.words)
    folder = options.working_dir.absolute()
    require_folder(folder)
    with contextlib.chdir(folder):  # as in the job, where relative paths are looked up in what is sent
        request = checks.request(options.words, parsed)
    package = working_directory(folder, options.exclude)
    package.check_size()
    for line in checks.check_sent(request.cfg, package, getattr(parsed, "config", None)) if request.cfg else ():
        log(line)
    secrets = found_secrets(options.secret, os.environ)
    variables_ = variables(options.env)
    cluster = _cluster(options.address)
    jobs = cluster.jobs()
    check_free(jobs, request.run, request.command)
    checks.check_capacity(request, cluster.resources())
    job_id = submission_id(request.run, request.command, (job.id for job in jobs))
    _describe(package, secrets, cluster, log)
    runtime = _runtime(cluster, package, variables_, options)
    if secrets:
        runtime["env_vars"][KEY_VARIABLE] = new_key()
        cluster.store(runtime["env_vars"][KEY_VARIABLE], encoded(secrets))
    try:
        command = entrypoint(options.words, sent=not options.installed)
        cluster.submit(job_id, command, runtime, {RUN: request.run, COMMAND: request.command})
    except BaseException:
        _forget(cluster, runtime["env_vars"])
        raise
    log(f"submitted job {job_id} to {cluster.address}: {shlex.join(['breadth', *options.words])}")
    if options.detach:
        log(_next(job_id, options.address))
        return 0
    return _follow(cluster, job_id, options, console)


def _describe(package: Package, secrets: Iterable[str], cluster: Cluster, log: Callable[[str], None]) -> None:
    """Print what is sent, before it is."""
    largest = f" (largest: {package.largest()})" if package.sizes else ""
    log(f"working directory {package.folder}: {len(package.sizes)} files, {in_words(package.size)}{largest}")
    if package.excluded:
        more = ", ..." if len(package.excluded) > 8 else ""
        log(f"left out: {', '.join(package.excluded[:8])}{more}")
    if package.links:
        log(f"not followed, as they are links to folders: {', '.join(package.links[:8])}")
    log(f"secrets, from this environment, by name: {', '.join(secrets) or 'none'}")
    own = version("ray")
    if cluster.version != own:
        log(f"the cluster has Ray {cluster.version}, and this machine {own}: the versions should be the same")


def _runtime(
    cluster: Cluster, package: Package, variables_: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Upload the packages, and return the runtime environment of the job."""
    own = {STOP_VARIABLE: new_key(), SUBMIT_VARIABLE: shlex.join(["breadth", "submit", *_given(options)])}
    named = {ROLES_VARIABLE: ",".join(options.secret)} if options.secret else {}
    runtime: dict[str, Any] = {"env_vars": own | named | variables_}
    with tempfile.TemporaryDirectory(prefix="breadth-") as scratch:
        if package.sizes:
            runtime["working_dir"] = _upload(cluster, package, Path(scratch) / "working_directory.zip")
        if not options.installed:
            runtime["py_modules"] = [_upload(cluster, own_source(ROOT), Path(scratch) / "breadth.zip")]
    if options.pip:
        runtime["pip"] = list(options.pip)
    return runtime


def _given(options: argparse.Namespace) -> list[str]:
    """Return the options that another job of the same run needs, too."""
    words = ["--address", options.address] if options.address else []
    words += ["--working-dir", str(options.working_dir)] if options.working_dir != Path() else []
    for name in ("exclude", "env", "secret", "pip"):
        words += [word for value in getattr(options, name) for word in (f"--{name}", value)]
    return words + ["--installed"] * options.installed


def _upload(cluster: Cluster, package: Package, file: Path) -> str:
    package.write(file)
    return cluster.upload(file)


def _forget(cluster: Cluster, variables_: dict[str, str]) -> None:
    """Empty the secrets of a job that does not take them any more."""
    if KEY_VARIABLE in variables_:
        cluster.store(variables_[KEY_VARIABLE], b"")


def _follow(cluster: Cluster, job_id: str, options: argparse.Namespace, console: Console) -> int:
    """Print the job's output until it ends, and return its exit status. Ctrl-C ends this, not the job."""
    try:
        job = asyncio.run(follow(cluster, job_id, _print))
    except (KeyboardInterrupt, ValueError) as error:
        text = f"The job {job_id} goes on. {_next(job_id, options.address)}"
        if isinstance(error, ValueError):
            raise ValueError(f"{error}. {text}") from None
        error.add_note(text)
        raise
    return _ended(cluster, job, console)


def _print(text: str) -> None:
    console = Console(highlight=False)
    console.file.write(text)
    console.file.flush()


def _ended(cluster: Cluster, job: Job, console: Console) -> int:
    """Print how a job ended, and return its exit status."""
    _forget(cluster, job.variables)
    log = line_printer(console)
    log(f"job {job.id} ended: {_outcome(job)}")
    if _killed(job):
        log(_resume(job))
    if job.status == "SUCCEEDED":
        return 0
    return job.exit_code or STOPPED_STATUS


def _outcome(job: Job) -> str:
    if job.exit_code is not None:
        return f"{job.status}, exit status {job.exit_code}"
    reason = "" if job.status == "STOPPED" else f": {' '.join(job.message.split())[:500]}"
    return f"{job.status}{reason}"


def _killed(job: Job) -> bool:
    """Return whether a training job ended before its driver could say how to go on."""
    return job.command == "train" and job.ended and job.exit_code not in OWN_STATUSES


def _resume(job: Job) -> str:
    """Return the line for the user with the command that continues the run of a job, under the same settings."""
    words = shlex.split(job.entrypoint)
    settings = [word for word in words[words.index("train") + 1 :] if word != "--resume"]
    begin = job.variables.get(SUBMIT_VARIABLE, "breadth submit")
    return f"to go on from its last checkpoint, if it has one: {begin} {shlex.join(['train', '--resume', *settings])}"


def _next(job_id: str, address: str) -> str:
    """Return the commands that follow and stop a job."""
    place = f" --address {shlex.quote(address)}" if address else ""
    name = shlex.quote(job_id)
    return f"`breadth submit{place} --logs {name}` follows it, `breadth submit{place} --stop {name}` stops it"


def _status(cluster: Cluster, name: str) -> int:
    """Print one line for each job of a run, or of the cluster: id, status, start, seconds, command.

    After the last training job of a run, if it was killed, a line says how to go on.
    """
    jobs = sorted(cluster.jobs(), key=lambda job: job.start or float("inf"))
    last = {job.run: job for job in jobs if job.command == "train"}
    shown = of_run(jobs, name) if name else jobs
    console = Console(highlight=False, width=None)
    if not shown:
        console.print(f"no jobs on {cluster.address}")
    for job in shown:
        if job.ended and job.exit_code is None:  # its driver may never have begun, and have taken nothing
            _forget(cluster, job.variables)
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.start)) if job.start else "-"
        seconds = (job.end or time.time()) - job.start if job.start else 0.0
        line = f"{job.id}  {_outcome(job) if job.ended else job.status}  {started}  {seconds:.0f} s  {job.entrypoint}"
        console.print(line, soft_wrap=True, markup=False)
        if job is last.get(job.run) and _killed(job):
            console.print(f"  {_resume(job)}", soft_wrap=True, markup=False)
    return 0


def _stop(cluster: Cluster, job: Job, console: Console) -> int:
    """Stop a job and follow it to its end. `breadth train` finishes its step and writes a checkpoint."""
    log = line_printer(console)
    if job.ended:
        log(f"job {job.id} has ended: {_outcome(job)}")
        return 0
    wait = job.variables.get(STOP_WAIT, "")
    limit_s = float(wait) if wait.isdecimal() else RAY_STOP_WAIT_S
    if limit_s < STOP_SLACK_S:
        log(f"job {job.id} has {STOP_WAIT}={limit_s:.0f}: Ray kills it after so many seconds, checkpoint or not")
    log(f"stopping job {job.id}: it has {limit_s:.0f} s for its step and a checkpoint")
    shown = len(cluster.output(job.id))
    ended = job
    if job.command == "train" and job.status == "RUNNING" and STOP_VARIABLE in job.variables:
        cluster.store(job.variables[STOP_VARIABLE], b"stop")
        ended = asyncio.run(follow(cluster, job.id, _print, limit_s=limit_s, skip=shown))
        shown = len(cluster.output(job.id))
    if not ended.ended:
        cluster.stop(job.id)
        ended = asyncio.run(follow(cluster, job.id, _print, limit_s=limit_s + STOP_SLACK_S, skip=shown))
    _forget(cluster, ended.variables)
    log(f"job {job.id} ended: {_outcome(ended)}" if ended.ended else f"job {job.id} still goes on: {ended.status}")
    if _killed(ended):
        log(_resume(ended))
    return 0 if ended.ended else 1
