"""Jobs on real local nodes with a token: `breadth submit`, the docs' own command, and `ray job submit`.

A file of its own: the clusters of other tests are gone when its head node starts.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from head_node import BINARIES, HeadNode, head_node
from hub_server import TOKEN as HUB_TOKEN
from hub_server import HubServer, hub_server

from orchestrator.manifest import saved
from orchestrator.watch.logbook import read_records

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "tasks" / "base_policies" / "countdown"
SIZES = ("task.heldout_prompts=4", "monitor.every=0", "groups_per_step=4", "sampling.group_size=4")
SMALL = (*SIZES, "generator.engine=transformers")
TOKEN = "0123456789abcdef0123456789abcdef"
JUDGE_KEY = "fedcba9876543210-of-the-judge"
REWARD = "def exact(answer, problem):\n    return float(len(answer) % 2)\n"
KEYED_REWARD = """
import hashlib, os

def exact(answer, problem):
    key = os.environ["JUDGE_KEY"].encode()
    right = hashlib.sha256(key).hexdigest() == "{hashed}" and "HF_TOKEN" not in os.environ
    return float(right and len(answer) % 2)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with hub_server({path.name: path.read_bytes() for path in POLICY.iterdir() if path.is_file()}) as served:
        yield served


@pytest.fixture(scope="module")
def head(hub: HubServer) -> Iterator[HeadNode]:
    """A head node without cores, on which drivers run, and a node for the roles, which has its own cache of the Hub."""
    with head_node(TOKEN, cpus=0, HF_ENDPOINT=hub.address) as started:
        started.join(4, HF_HOME=str(started.scratch / "hub"))
        yield started


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with a reward and data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "rewards.py").write_text(REWARD)
    rows = [json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) for i in range(40)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def documented_command() -> list[str]:
    """Return the words after `breadth submit` of the example in docs/deployment.md with a working directory."""
    text = (ROOT / "docs" / "deployment.md").read_text().replace("\\\n", " ")
    [line] = re.findall(r"^breadth submit (train .*rewards\.py.*)$", text, flags=re.MULTILINE)
    return shlex.split(line)


def holds(path: Path, text: str) -> bool:
    """Return whether a file holds a text; one that was removed meanwhile holds none."""
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False


def test_roles_on_another_node_get_the_secrets_that_they_need_and_nobody_is_shown_them(
    head: HeadNode, hub: HubServer, work: Path, tmp_path: Path
) -> None:
    """Learner and generator fetch a gated policy with the user's token. The grader needs the key that its verifier
    reads, and no token: the verifier gives no reward without the one or with the other."""
    (work / "rewards.py").write_text(KEYED_REWARD.format(hashed=hashlib.sha256(JUDGE_KEY.encode()).hexdigest()))
    words = ("policy.path=org/gated", "name=gated", "steps=1", f"runs={tmp_path}/runs", "logbook.wandb=offline", *SMALL)
    words += ("task.verifier=rewards.py:exact", "logbook.trajectories_every=1")
    given = {"HF_TOKEN": HUB_TOKEN, "JUDGE_KEY": JUDGE_KEY}
    done = head.breadth_submit(work, "--secret", "JUDGE_KEY", "train", *words, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    caches = [head.scratch / name / "hub/models--org--gated" for name in (".cache/huggingface", "hub")]
    assert all(cache.is_dir() for cache in caches), "both nodes have fetched it"
    run_dir = tmp_path / "runs" / "gated"
    assert f"path: org/gated@{hub.commit}" in (run_dir / "config.yaml").read_text()
    shown = {path: json.dumps(head.ask(path)) for path in ("/api/v0/actors?detail=1", "/api/v0/tasks?detail=1")}
    assert "LearnerShell" in shown["/api/v0/actors?detail=1"]
    listed = head.ray(work, "job", "list")
    shown["jobs"] = listed.stdout + listed.stderr + done.stdout + done.stderr + json.dumps(head.ask("/api/jobs/"))
    written = [path for place in (head.scratch, run_dir) for path in place.rglob("*") if path.is_file()]
    assert len(written) > 50
    for value in given.values():
        assert [name for name, text in shown.items() if value in text] == []
        assert [path for path in written if holds(path, value)] == []
    rewards = {row["reward"] for row in read_records(run_dir / "trajectories.jsonl")}
    assert 1.0 in rewards, "the grader has a token, or not the key"
    refused = head.breadth_submit(work, "train", *words, "name=refused")
    assert refused.returncode == 2 and "it is gated: accept its terms at" in refused.stdout + refused.stderr


def test_of_two_submits_of_one_name_at_once_one_is_refused_and_a_job_that_has_not_begun_is_stopped(
    head: HeadNode, work: Path, tmp_path: Path
) -> None:
    words = ("--detach", "train", *SMALL, "name=twin", "steps=100000", f"runs={tmp_path}/runs")
    with ThreadPoolExecutor(2) as pool:
        twins = list(pool.map(lambda _: head.breadth_submit(work, *words), range(2)))
    assert sorted(twin.returncode for twin in twins) == [0, 2], twins
    [line] = [line for twin in twins if twin.returncode for line in twin.stderr.splitlines() if "breadth:" in line]
    assert "already exists" in line or "must not be that of a run whose job goes on, got 'twin'" in line
    stopped = head.breadth_submit(work, "--stop", "twin")
    assert stopped.returncode == 0 and "job twin ended: " in stopped.stderr, stopped
    assert "job twin has ended: " in head.breadth_submit(work, "--stop", "twin").stderr


def test_the_address_of_the_cluster_itself_is_no_dashboard(head: HeadNode, work: Path) -> None:
    """As of a head node that was started without one."""
    done = head.breadth_submit(work, "--status", RAY_ADDRESS=head.gcs)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line]
    assert (
        line.startswith("breadth: RAY_ADDRESS: must be the address of a Ray dashboard that answers")
        and head.gcs in line
    )


def test_the_documented_command_trains_with_the_reward_and_the_data_of_the_working_directory(
    head: HeadNode, work: Path, tmp_path: Path
) -> None:
    words = [word for word in documented_command() if word.partition("=")[0] not in ("scale", "policy.path", "runs")]
    small = [*SMALL, "steps=2", "policy.chat_template=false", "sampling.max_prompt_tokens=16", f"runs={tmp_path}/runs"]
    done = head.breadth_submit(work, *words, *small, WANDB_API_KEY="0123-secret")
    assert done.returncode == 0, done.stdout + done.stderr
    name = next(word for word in words if word.startswith("name=")).removeprefix("name=")
    assert [record["step"] for record in read_records(tmp_path / "runs" / name / "metrics.jsonl")] == [1, 2]
    verifier = (tmp_path / "runs" / name / "config.yaml").read_text()
    assert "working_dir_files" in verifier and "rewards.py:exact" in verifier
    listed = head.ray(work, "job", "list")
    assert listed.returncode == 0 and f"submission_id='{name}'" in listed.stdout + listed.stderr
    assert "0123-secret" not in listed.stdout + listed.stderr + done.stdout + done.stderr
    status = head.breadth_submit(work, "--status", name)
    assert f"{name}  SUCCEEDED, exit status 0" in status.stdout


def test_a_stopped_job_writes_a_checkpoint_and_another_job_resumes_it_with_a_changed_folder(
    head: HeadNode, work: Path, tmp_path: Path
) -> None:
    own = ("task.verifier=rewards.py:exact", "checkpoint.every=100000", "logbook.wandb=offline", *SMALL)
    place = f"runs={tmp_path}/runs"
    started = head.breadth_submit(work, "--detach", "train", *own, "name=long", "steps=100000", place)
    assert started.returncode == 0, started.stderr
    run_dir = tmp_path / "runs" / "long"
    deadline = time.monotonic() + 120
    while not read_records(run_dir / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    stopped = head.breadth_submit(work, "--stop", "long")
    assert stopped.returncode == 0 and "stopping after this step, with a checkpoint" in stopped.stdout, stopped
    assert "ended: SUCCEEDED, exit status 0" in stopped.stderr
    assert f"To go on: breadth submit train --resume name=long {place}" in stopped.stdout
    assert "turned off" not in (run_dir / "events.jsonl").read_text(), "the service of W&B got no signal"
    [checkpoint] = saved(run_dir / "checkpoints")
    step = int(checkpoint.name.removeprefix("step-"))
    (work / "notes.txt").write_text("another content, and so another folder on the cluster")
    resumed = head.breadth_submit(work, "train", "--resume", "name=long", place, f"steps={step + 2}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"goes on after step {step}" in resumed.stdout
    assert [r["step"] for r in read_records(run_dir / "metrics.jsonl")] == list(range(1, step + 3))


TAKES = """
import os
from orchestrator.submission.client import JobStore
from orchestrator.submission.runtime import receive
print(receive(JobStore()), os.environ["A_SECRET"])
"""
SENDS = """
import sys
from orchestrator.submission.client import RayCluster
cluster = RayCluster("")
cluster.store("gcs://breadth_test.zip", b'{"A_SECRET": "x1"}')
variables = {"BREADTH_SECRETS": "gcs://breadth_test.zip", "PYTHONPATH": sys.argv[1]}
cluster.submit("taker", f"python {sys.argv[2]}", {"env_vars": variables}, {})
"""


def test_a_job_takes_its_secrets_from_the_store_of_the_cluster(head: HeadNode, work: Path) -> None:
    (work / "takes.py").write_text(TAKES)
    words = [sys.executable, "-c", SENDS, str(ROOT), str(work / "takes.py")]
    sent = subprocess.run(words, env=head.environment, capture_output=True, text=True, timeout=60)
    assert sent.returncode == 0, sent.stderr
    done = head.breadth_submit(work, "--logs", "taker")
    assert done.returncode == 0 and "['A_SECRET'] x1" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HOME": "/nowhere"}, "requires its token, and none was found"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}, "rejects this machine's token"),
        ({"RAY_ADDRESS": "http://127.0.0.1:9"}, "where no cluster answers"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_line(
    variables: dict[str, str], said: str, head: HeadNode, work: Path
) -> None:
    done = head.breadth_submit(work, "train", "name=refused", **variables)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("breadth: RAY_ADDRESS: ") and said in line


@pytest.mark.parametrize("variables", [{"HOME": "/nowhere"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}])
def test_a_run_whose_token_the_cluster_rejects_is_refused_without_rays_own_attempts(
    variables: dict[str, str], head: HeadNode, work: Path
) -> None:
    words = [sys.executable, "-m", "breadth", "train", *SMALL, "name=refused", f"runs={work}/runs"]
    done = head.run(words, work, head.environment | {"RAY_ADDRESS": head.gcs} | variables, 120)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        "breadth: RAY_ADDRESS: must be the address of a running Ray cluster whose token this machine"
    )
    assert "gcs_client" not in done.stdout + done.stderr, "each attempt of Ray is a line"


def ray_job_submit(head: HeadNode, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Submit a command with Ray's own client and the working directory `folder`, and wait for its end."""
    runtime = json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})  # the working directory comes before this path
    line = ["job", "submit", "--working-dir", ".", "--runtime-env-json", runtime, "--", *command]
    return head.ray(folder, *line, limit_s=400)


def test_training_and_evaluation_run_as_submitted_ray_jobs_and_their_files_survive(head: HeadNode) -> None:
    command = str(BINARIES / "breadth")
    done = ray_job_submit(head, ROOT, command, "train", *SIZES, "name=job", "steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = head.scratch / "runs" / "job"
    assert str(run_dir) in done.stdout, "a relative runs directory counts from the home directory in a job"
    assert [record["step"] for record in read_records(run_dir / "metrics.jsonl")] == [1, 2]
    # The training job has shown that vLLM starts in a job.
    words = ("generator.engine=transformers", "evaluate.name=first", "evaluate.answers=4", "evaluate.ks=[1,4]")
    done = ray_job_submit(head, ROOT, command, "evaluate", "job", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((run_dir / "evaluations" / "first" / "results.json").read_text())
    assert list(results["policies"]) == ["base", "job"]


def test_a_job_whose_working_directory_has_files_with_the_names_of_breadths_packages_trains(
    tmp_path: Path, head: HeadNode
) -> None:
    for package in ("configs", "actors"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "tasks.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "marking.py").write_text("def mark(text):\n    return float(sum(map(ord, text)) % 2)\n")
    reward = "def odd(answer, problem):\n    return marking.mark(answer)\n"
    (tmp_path / "rewards.py").write_text("import marking\n" + reward)
    command = (sys.executable, "-m", "breadth", "train", *SMALL, "steps=1", "logbook.trajectories_every=1")
    done = ray_job_submit(head, tmp_path, *command, "name=packages", "task.verifier=rewards.py:odd")
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = head.scratch / "runs" / "packages"
    assert [record["grader/grader_error"] for record in read_records(run_dir / "metrics.jsonl")] == [0.0]
    [verifier] = {row["verifier"] for row in read_records(run_dir / "trajectories.jsonl")}
    assert verifier.endswith("/rewards.py:odd") and Path(verifier).is_absolute()
    done = ray_job_submit(head, tmp_path, *command, "name=refused", "task.verifier=rewards:odd")
    assert done.returncode != 0
    assert "name the file of your function instead, rewards.py:odd" in " ".join((done.stdout + done.stderr).split())
