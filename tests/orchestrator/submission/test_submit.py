"""`breadth submit`: checks before anything is sent, what is sent, secrets, names of jobs, following, stopping."""

import argparse
import asyncio
import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from rich.console import Console

from configs.load import load
from orchestrator.commands.jobs import submit
from orchestrator.commands.parser import parse, parser
from orchestrator.commands.paths import absolute
from orchestrator.preflight.resume import resume_command
from orchestrator.submission import checks, runtime
from orchestrator.submission import follow as following
from orchestrator.submission.client import resolved
from orchestrator.submission.names import Job, chosen, submission_id
from orchestrator.submission.runtime import KEY_VARIABLE, ROLES_VARIABLE, STOP_VARIABLE, SUBMIT_VARIABLE, receive

REWARD = "def exact(answer, problem):\n    return float(answer == problem['answer'])\n"
ROW = '{"prompt": "1+1=", "answer": "2"}\n'


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster()
    monkeypatch.setattr(submit, "_cluster", lambda address: fake)
    monkeypatch.setattr(following, "PAUSE_S", 0.0)
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a reward and data."""
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "rewards.py").write_text(REWARD)
    (folder / "data" / "train.jsonl").write_text(ROW * 40)
    monkeypatch.chdir(folder)
    yield folder


def run(*words: str) -> tuple[int, str]:
    """Return the exit status of `breadth submit`, and what it says beside the job's output."""
    console = Console(file=io.StringIO(), width=200)
    status = submit.run(parse(["submit", *words]), console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


OWN = ("task.name=dataset", "task.options.path=data/train.jsonl", "task.verifier=rewards.py:exact")


def test_a_job_gets_the_working_directory_the_source_of_breadth_and_time_to_stop(
    work: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run("train", *OWN, "name=first", "steps=2")
    assert status == 0 and "working directory" in said and "2 files" in said and "largest: data/" in said
    [sent] = cluster.submitted
    assert sent["id"] == "first"
    assert sent["entrypoint"] == f"python -m breadth train {' '.join(OWN)} name=first steps=2"
    stop_key = sent["runtime"]["env_vars"].pop(STOP_VARIABLE)
    assert sent["runtime"]["env_vars"].pop(SUBMIT_VARIABLE) == "breadth submit"
    assert stop_key.startswith("gcs://breadth_")
    assert sent["runtime"] == {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "900"},
        "working_dir": "gcs://_ray_pkg_1.zip",
        "py_modules": ["gcs://_ray_pkg_2.zip"],
    }
    assert capsys.readouterr().out == "step 1\nstep 2\n"
    assert "job first ended: SUCCEEDED, exit status 0" in said


def test_an_installed_breadth_runs_as_a_command_and_packages_are_passed_on(work: Path, cluster: FakeCluster) -> None:
    run("--installed", "--pip", "word2number", "--env", "A=b=c", "train", "name=first")
    [sent] = cluster.submitted
    assert sent["entrypoint"] == "breadth train name=first"
    assert sent["runtime"]["pip"] == ["word2number"] and sent["runtime"]["env_vars"]["A"] == "b=c"
    assert "py_modules" not in sent["runtime"]


def test_options_of_submit_may_come_after_the_command(work: Path, cluster: FakeCluster) -> None:
    options = ("--detach", "--env", "A=1", "--env", "B=2", "--working-dir", "data", "--exclude=*.jsonl")
    run(*options[:3], "train", "name=first", *options[3:], "steps=2", "--restarts", "3")
    [sent] = cluster.submitted
    assert sent["entrypoint"] == "python -m breadth train name=first steps=2 --restarts 3"
    assert sent["runtime"]["env_vars"].items() >= {"A": "1", "B": "2"}.items()
    assert "working_dir" not in sent["runtime"] and cluster.jobs()[0].status == "RUNNING"
    with pytest.raises(ValueError, match=r"^breadth submit: must be one of .* got stop and train"):
        run("train", "name=first", "--stop", "first")


def test_no_command_that_can_be_submitted_has_an_option_of_submit() -> None:
    [subparsers] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    options = {
        name: {word for action in sub._actions for word in action.option_strings} - {"-h", "--help"}
        for name, sub in subparsers.choices.items()
    }
    assert "--detach" in options["submit"]
    assert [name for name in checks.JOBS if options[name] & options["submit"]] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "learner.learning_rat=1"], r"^learner.learning_rat: unknown key \(did you mean"),
        (["train", "--resume", "name=a", "stepz=3"], "^stepz: unknown key"),
        (["evaluate", "runs/a", "evaluate.answer=3"], "^evaluate.answer: unknown key"),
        (["train", "steps=0"], "^steps: must be positive"),
        (["train", *OWN[:2], "task.verifier=reward.py:exact"], "^task.verifier: must exist in"),
        (["train", *OWN[:2], "task.verifier=rewards.py:exakt"], "^task.verifier: must name a function .*did you mean"),
        (["train", "task.name=dataset", "task.options.path=data/test.jsonl"], "^task.options.path: must exist in"),
        (["report", "runs/a"], "^COMMAND: must be one of train, evaluate"),
        (["--env", "HF_TOKEN=hf_abc", "train"], "^--env: must not hold a secret"),
        (
            ["presample", "rehearsal.path=a.parquet"],
            "^rehearsal.path: must be an absolute path on the cluster, because",
        ),
        (["warm-start", "warm_start.output=a"], "^warm_start.output: must be an absolute path on the cluster, because"),
        (["inspect-task"], "^--output: must be an absolute path on the cluster, .* got 'runs/task.html'"),
        (["verify", "--task", "countdown", "--output", "a"], "^--output: must be an absolute path on the cluster"),
        (["--env", "MY_API_KEY=hf_abc", "train"], "^--env: must not hold a secret"),
        (["--env", "A", "train"], "^--env: must be NAME=VALUE"),
        (["--secret", "NOT_SET_HERE", "train"], "^--secret: must name variables that are set here, got NOT_SET_HERE"),
        (["--secret", "HF_TOKEN=hf_abc", "train"], "^--secret: must name variables that are set here, got HF_TOKEN$"),
        (["--working-dir", "nowhere", "train"], "^--working-dir: must be a directory, got '/.*/nowhere'"),
        (["--status", "--stop", "a"], "^breadth submit: must be one of"),
        ([], "^breadth submit: must be one of"),
        (["train", "placement.generators=9", "name=a"], r"^placement: must fit the cluster, got .* where Ray has 8"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_sent(
    words: list[str], said: str, work: Path, cluster: FakeCluster
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        run(*words)
    assert (cluster.submitted, cluster.uploaded, cluster.stored) == ([], [], {})
    assert "hf_abc" not in str(caught.value)


def test_a_file_that_an_ignore_rule_leaves_out_is_refused_where_the_settings_name_it(
    work: Path, cluster: FakeCluster
) -> None:
    (work / ".gitignore").write_text("data/\n")
    with pytest.raises(ValueError, match=r"^task.options.path: must be among the files that are sent, got"):
        run("train", *OWN)
    assert not cluster.uploaded


def test_a_file_behind_a_link_or_outside_is_refused_with_that_reason(
    work: Path, cluster: FakeCluster, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "train.jsonl").write_text(ROW * 40)
    (work / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for path, reason in (
        ("linked/train.jsonl", "is behind the link linked"),
        ("../elsewhere/train.jsonl", "is outside"),
    ):
        with pytest.raises(ValueError, match=rf"^task.options.path: must be among the files that are sent, .*{reason}"):
            run("train", "task.name=dataset", f"task.options.path={path}")
    assert not cluster.uploaded
    assert "not followed, as they are links to folders: linked" in run("train", *OWN)[1]


def test_settings_are_read_and_paths_are_looked_up_in_the_working_directory(
    work: Path, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "my settings.yaml").write_text("name: from_file\nsteps: 2\n")
    monkeypatch.chdir(tmp_path)
    run("--working-dir", str(work), "train", "--config", "my settings.yaml", *OWN)
    [sent] = cluster.submitted
    assert sent["id"] == "from_file" and "--config 'my settings.yaml'" in sent["entrypoint"]
    _, said = run("--working-dir", str(work), "train", "--config", str(work / "my settings.yaml"), "name=second")
    assert "my settings.yaml is an absolute path: the cluster must have it" in said


def test_a_gpu_scale_is_accepted_on_a_machine_without_one_and_paths_of_the_cluster_are_not_looked_up(
    work: Path, cluster: FakeCluster
) -> None:
    cluster.available = {"CPU": 64.0, "GPU": 8.0}
    status, _ = run("train", "scale=8gpu", "policy.path=/shared/models/policy", "runs=/shared/runs")
    assert status == 0


def test_a_policy_that_is_not_here_is_named(work: Path, cluster: FakeCluster) -> None:
    _, said = run("train", "policy.path=models/of/mine")
    assert "policy.path=models/of/mine is not in" in said


def test_secrets_are_sent_by_name_and_their_values_are_nowhere_but_in_the_store(
    work: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"WANDB_API_KEY": "0123-wandb", "MY_SECRET": "0123-mine"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    _, said = run("--secret", "MY_SECRET", "train", "name=first")
    assert "secrets, from this environment, by name: WANDB_API_KEY, MY_SECRET" in said
    [sent] = cluster.submitted
    assert sent["runtime"]["env_vars"][ROLES_VARIABLE] == "MY_SECRET", "the roles get those that are named"
    shown = said + repr(sent) + capsys.readouterr().out
    keys = [sent["runtime"]["env_vars"][name] for name in (KEY_VARIABLE, STOP_VARIABLE)]
    assert "0123" not in shown.replace(keys[0], "").replace(keys[1], "")
    assert not any(b"0123" in package for package in cluster.uploaded)
    assert list(cluster.stored.values()) == [b""], "after the job's end, nothing is left of them"


def test_the_driver_of_a_job_takes_its_secrets_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"gcs://breadth_1.zip": json.dumps({"A_SECRET": "x"}).encode()}

    class Memory:
        def has(self, key: str) -> bool:
            return key in values

        def take(self, key: str) -> bytes | None:
            return values.pop(key, None)

    monkeypatch.setenv(KEY_VARIABLE, "gcs://breadth_1.zip")
    monkeypatch.setenv("A_SECRET", "")
    assert receive(Memory()) == ["A_SECRET"]
    assert os.environ["A_SECRET"] == "x" and KEY_VARIABLE not in os.environ
    monkeypatch.setenv(KEY_VARIABLE, "gcs://breadth_1.zip")
    with pytest.raises(ValueError, match=rf"^{KEY_VARIABLE}: must name the secrets"):
        receive(Memory())


def test_a_resumed_run_is_a_further_job_of_the_same_run(work: Path, cluster: FakeCluster) -> None:
    run("train", "name=first")
    run("train", "--resume", "name=first", "runs=/shared/runs")
    run("evaluate", "/shared/runs/first", "evaluate.answers=4")
    assert [sent["id"] for sent in cluster.submitted] == ["first", "first-2", "first-evaluate"]
    assert {sent["metadata"]["breadth_run"] for sent in cluster.submitted} == {"first"}
    assert submission_id("a", "evaluate", ["a", "a-evaluate", "a-evaluate-2"]) == "a-evaluate-3"


def test_a_run_of_any_name_has_an_id_that_urls_and_file_names_can_hold(work: Path, cluster: FakeCluster) -> None:
    assert submission_id("my run?/é #2", "train", []) == "my-run-2"
    assert submission_id("my run", "train", ["my-run"]) == "my-run-2"
    assert len(submission_id("n" * 240, "evaluate", [])) < 220
    run("--detach", "train", "name='my run'")
    assert "stopping job my-run" in run("--stop", "my run")[1]


def test_a_run_whose_job_goes_on_is_not_submitted_again(work: Path, cluster: FakeCluster) -> None:
    run("--detach", "train", "name=first")
    with pytest.raises(ValueError, match=r"^name: must not be that of a run whose job goes on, got 'first'"):
        run("train", "--resume", "name=first")
    run("--detach", "evaluate", "first")


def test_a_run_that_exists_in_a_folder_that_this_machine_sees_too_is_refused_before_anything_is_sent(
    work: Path, cluster: FakeCluster, tmp_path: Path
) -> None:
    words = ("train", "name=first", f"runs={tmp_path}/runs")
    (tmp_path / "runs" / "first" / "checkpoints" / "step-000001").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^name: must be new \(or pass --resume to continue\), got 'first', which"):
        run(*words)
    assert (cluster.submitted, cluster.uploaded) == ([], [])
    run(*words, "--resume")
    run(*words, "--restarts", "3")
    run(*words, "name=second")
    assert [sent["id"] for sent in cluster.submitted] == ["first", "first-2", "second"]


def test_jobs_that_belong_to_no_run_do_not_exclude_each_other(work: Path, cluster: FakeCluster) -> None:
    for _ in range(2):
        run("--detach", "verify", "--task", "countdown")
    run("--detach", "presample", "rehearsal.path=/shared/answers.parquet", "name=first")
    assert [sent["id"] for sent in cluster.submitted] == ["verify", "verify-2", "first-presample"]


def test_the_job_of_a_run_is_the_one_that_goes_on_or_else_its_last() -> None:
    jobs = [Job("a", "FAILED", run="a", start=1), Job("a-2", "RUNNING", run="a", start=2)]
    assert chosen(jobs, "a").id == "a-2"
    ended = [Job("a", "FAILED", run="a", start=1), Job("a-2", "FAILED", run="a", start=2)]
    assert chosen(ended, "a").id == "a-2"
    with pytest.raises(ValueError, match=r"^NAME: must be a run or a job of this cluster \(a, a-2\), got 'b'"):
        chosen(ended, "b")


def test_of_several_jobs_of_a_run_that_go_on_one_must_be_named() -> None:
    jobs = [
        Job("a", "FAILED", run="a", start=1),
        Job("a-2", "RUNNING", run="a", command="train", start=2),
        Job("a-evaluate", "PENDING", run="a", command="evaluate"),
        Job("a-2-2", "RUNNING", run="a-2", start=4),
    ]
    with pytest.raises(
        ValueError, match=r"^NAME: must be one of the jobs of this run that go on: a-2, a-evaluate, got"
    ):
        chosen(jobs, "a")
    assert chosen(jobs, "a-evaluate").status == "PENDING"
    assert chosen(jobs, "a-2").run == "a", "an id that goes on comes first, as the commands that are printed name ids"


@pytest.mark.parametrize(("outcome", "status"), [(("FAILED", 2), 2), (("FAILED", None), 1), (("STOPPED", None), 1)])
def test_the_exit_status_is_that_of_the_job(
    outcome: tuple[str, int | None], status: int, work: Path, cluster: FakeCluster
) -> None:
    cluster.outcome = outcome
    assert run("train", "name=first")[0] == status


def test_a_lost_connection_is_opened_again_and_no_output_appears_twice(
    work: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.broken_tails = 3
    assert run("train", "name=first")[0] == 0
    assert capsys.readouterr().out == "step 1\nstep 2\n"


KEPT = (
    "--address",
    "http://head:8265",
    "--working-dir",
    ".",
    "--exclude",
    "*.bin",
    "--env",
    "A=b c",
    "--secret",
    "KEY",
)


def test_within_a_job_the_command_that_continues_its_run_is_another_job_with_the_same_options(
    work: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "0123")
    cfg = absolute(load(["name=my run", "runs=/shared/runs"]))
    assert resume_command(cfg) == "breadth train --resume 'name=my run' runs=/shared/runs"
    kept = ("--address", "http://head:8265", "--exclude", "*.bin", "--env", "A=b c", "--secret", "KEY")
    run(*kept, "--pip", "word2number", "--detach", "train", "name=first")
    monkeypatch.setenv(SUBMIT_VARIABLE, cluster.submitted[0]["runtime"]["env_vars"][SUBMIT_VARIABLE])
    assert resume_command(cfg, "steps=6") == (
        "breadth submit --address http://head:8265 --exclude '*.bin' --env 'A=b c' --secret KEY --pip word2number "
        "train --resume 'name=my run' runs=/shared/runs steps=6"
    )


@pytest.mark.parametrize(("code", "told"), [(137, True), (-9, True), (None, True), (0, False), (1, False), (2, False)])
def test_a_job_that_was_killed_ends_with_the_command_that_continues_its_run(
    code: int | None, told: bool, work: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.outcome = ("FAILED" if code != 0 else "SUCCEEDED", code)
    line = "to go on from its last checkpoint, if it has one: breadth submit --env A=1 train --resume "
    line += "--restarts 2 'name=my run' steps=3"
    _, said = run("--env", "A=1", "train", "--restarts", "2", "name=my run", "steps=3")
    assert (line in said) == told
    capsys.readouterr()
    run("--status")
    assert (line in capsys.readouterr().out) == told
    run("--detach", "train", "--resume", "name=my run")
    run("--status")
    assert line not in capsys.readouterr().out, "a later job goes on with the run"
    cluster.known = [
        Job("other", "FAILED", "python x.py", start=1),
        Job("b", "FAILED", "breadth evaluate", "b", "evaluate"),
    ]
    run("--status")
    assert "to go on" not in capsys.readouterr().out


def test_a_cluster_that_is_gone_ends_the_printing_with_the_commands_that_go_on(
    work: Path, cluster: FakeCluster
) -> None:
    cluster.broken_tails = 1000
    with pytest.raises(
        ValueError, match=r"could not be read.*The job first goes on. `breadth submit --address x --logs"
    ):
        run("--address", "x", "train", "name=first")


def test_a_job_is_stopped_and_followed_to_its_end(
    work: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--detach", "train", "name=first")
    status, said = run("--stop", "first")
    assert status == 0 and cluster.stopped == [] and b"stop" in cluster.stored.values()
    assert "it has 900 s for its step and a checkpoint" in said and "ended: SUCCEEDED, exit status 0" in said
    assert capsys.readouterr().out == "step 2\n", "what was printed before is not printed again"
    assert "has ended" in run("--stop", "first")[1]


def test_a_job_that_does_not_stop_in_time_is_stopped_by_ray(work: Path, cluster: FakeCluster) -> None:
    run("--detach", "--env", "RAY_JOB_STOP_WAIT_TIME_S=0", "train", "name=first")
    cluster.obeys = False
    _, said = run("--stop", "first")
    assert cluster.stopped == ["first"] and "ended: STOPPED" in said


def test_an_evaluation_is_stopped_by_ray_as_it_has_no_checkpoint(work: Path, cluster: FakeCluster) -> None:
    run("--detach", "evaluate", "/shared/runs/first")
    run("--stop", "first")
    assert cluster.stopped == ["first-evaluate"]


def test_the_driver_gets_sigterm_when_its_stop_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [ConnectionError("away"), False, True]

    class Asked:
        def has(self, key: str) -> bool:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

        def take(self, key: str) -> bytes | None:
            return None

    received = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *arguments: received.set())
    try:
        monkeypatch.setattr(runtime, "POLL_S", 0.01)
        monkeypatch.setenv(STOP_VARIABLE, "gcs://breadth_1.zip")
        runtime.watch_for_stop(Asked())
        assert received.wait(10) and answers == []
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_job_that_ray_would_kill_too_soon_is_told_before_it_is_stopped(work: Path, cluster: FakeCluster) -> None:
    cluster.known = [Job("other", "RUNNING", start=1)]
    assert "RAY_JOB_STOP_WAIT_TIME_S=3: Ray kills it" in run("--stop", "other")[1]


def test_the_status_lists_jobs_with_their_end(
    work: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.outcome = ("FAILED", 2)
    run("train", "name=first")
    capsys.readouterr()
    run("--status")
    assert "first  FAILED, exit status 2" in capsys.readouterr().out


def test_secrets_of_a_job_that_ended_before_its_driver_began_are_removed_when_jobs_are_listed(
    work: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    run("--detach", "train", "name=first")
    [key] = cluster.stored
    run("--status")
    assert b"hf_abc" in cluster.stored[key], "a job that waits still needs them"
    cluster.known = [replace(cluster.known[0], status="FAILED", message="pip install failed")]
    run("--status")
    assert cluster.stored[key] == b""


def test_a_variable_whose_name_only_begins_like_a_secret_is_passed_on(work: Path, cluster: FakeCluster) -> None:
    run("--env", "TOKENIZERS_PARALLELISM=false", "--env", "MAX_TOKENS=5", "train", "name=first")
    assert cluster.submitted[0]["runtime"]["env_vars"].items() >= {"MAX_TOKENS": "5"}.items()


def test_following_ends_at_its_limit_though_a_job_says_nothing() -> None:
    class Silent(FakeCluster):
        async def tail(self, job_id: str):  # type: ignore[no-untyped-def,override]
            await asyncio.sleep(60)
            yield ""

    silent = Silent(known=[Job("a", "RUNNING")])
    assert asyncio.run(following.follow(silent, "a", print, limit_s=0.1)).status == "RUNNING"


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ("", {}, ("--address", "http://127.0.0.1:8265")),
        ("http://a:1/", {"RAY_ADDRESS": "http://b:2"}, ("--address", "http://a:1")),
        ("a:1", {}, ("--address", "http://a:1")),
        ("", {"RAY_ADDRESS": "https://b:2"}, ("RAY_ADDRESS", "https://b:2")),
        ("", {"RAY_ADDRESS": "auto"}, ("RAY_ADDRESS", "http://127.0.0.1:8265")),
    ],
)
def test_the_option_wins_over_the_variable(given: str, environment: dict[str, str], expected: tuple[str, str]) -> None:
    assert resolved(given, environment) == expected


@pytest.mark.parametrize("address", ["ray://head:10001", "http://"])
def test_an_address_that_is_not_a_dashboards_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"^RAY_ADDRESS: must be the address of a Ray dashboard, such as http://"):
        resolved("", {"RAY_ADDRESS": address})
