"""`breadth submit` against a real local head node with a token, and the docs' own command.

A file of its own: the clusters of other tests are gone when its head node starts.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.manifest import saved
from orchestrator.watch.logbook import read_records

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[3]
SMALL = (
    "task.heldout_prompts=4",
    "monitor.every=0",
    "groups_per_step=4",
    "sampling.group_size=4",
    "generator.engine=transformers",
)
TOKEN = "0123456789abcdef0123456789abcdef"
REWARD = "def exact(answer, problem):\n    return float(len(answer) % 2)\n"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass
class Head:
    """A head node, and the environment of a user who has its token."""

    address: str
    home: Path
    environment: dict[str, str]

    def submit(self, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "breadth", "submit", *words],
            cwd=folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    scratch = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # the path of Ray's sockets must be short
    binaries = Path(sys.executable).parent
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    plain |= {"HOME": str(scratch), "PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    (scratch / ".ray").mkdir()
    (scratch / ".ray" / "auth_token").write_text(TOKEN)
    dashboard, agent = free_port(), free_port()
    ports = ["--port=0", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    # Breadth is on no path of the nodes: `breadth submit` sends it.
    outside = {name: value for name, value in plain.items() if name != "PYTHONPATH"} | {"RAY_TMPDIR": str(scratch)}
    started = subprocess.Popen(
        [binaries / "ray", "start", "--head", "--block", "--num-cpus=4", *ports],
        cwd=scratch,
        env=outside,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_jobs(address)
        yield Head(address, scratch, plain | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address})
    finally:
        started.terminate()  # ends the processes of this cluster only
        started.wait(timeout=60)
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for_jobs(address: str) -> None:
    """Submit an empty job until it is accepted: the job agent starts some seconds after the head node."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"{address}/api/jobs/", json.dumps({"entrypoint": "true"}).encode(), headers)
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60):
                return
        except OSError as error:
            assert time.monotonic() < deadline, error
        time.sleep(0.5)


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


def test_the_documented_command_trains_with_the_reward_and_the_data_of_the_working_directory(
    head: Head, work: Path, tmp_path: Path
) -> None:
    words = [word for word in documented_command() if word.partition("=")[0] not in ("scale", "policy.path", "runs")]
    small = [*SMALL, "steps=2", "policy.chat_template=false", "sampling.max_prompt_tokens=16", f"runs={tmp_path}/runs"]
    done = head.submit(work, *words, *small, WANDB_API_KEY="0123-secret")
    assert done.returncode == 0, done.stdout + done.stderr
    name = next(word for word in words if word.startswith("name=")).removeprefix("name=")
    assert [record["step"] for record in read_records(tmp_path / "runs" / name / "metrics.jsonl")] == [1, 2]
    verifier = (tmp_path / "runs" / name / "config.yaml").read_text()
    assert "working_dir_files" in verifier and "rewards.py:exact" in verifier
    listed = subprocess.run(
        [Path(sys.executable).parent / "ray", "job", "list"],
        env=head.environment | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert listed.returncode == 0 and f"submission_id='{name}'" in listed.stdout + listed.stderr
    assert "0123-secret" not in listed.stdout + listed.stderr + done.stdout + done.stderr
    status = head.submit(work, "--status", name)
    assert f"{name}  SUCCEEDED, exit status 0" in status.stdout


def test_a_stopped_job_writes_a_checkpoint_and_another_job_resumes_it_with_a_changed_folder(
    head: Head, work: Path, tmp_path: Path
) -> None:
    own = ("task.verifier=rewards.py:exact", "checkpoint.every=100000", "logbook.wandb=offline", *SMALL)
    place = f"runs={tmp_path}/runs"
    started = head.submit(work, "--detach", "train", *own, "name=long", "steps=100000", place)
    assert started.returncode == 0, started.stderr
    run_dir = tmp_path / "runs" / "long"
    deadline = time.monotonic() + 120
    while not read_records(run_dir / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    stopped = head.submit(work, "--stop", "long")
    assert stopped.returncode == 0 and "stopping after this step, with a checkpoint" in stopped.stdout, stopped
    assert "ended: SUCCEEDED, exit status 0" in stopped.stderr
    assert "turned off" not in (run_dir / "events.jsonl").read_text(), "the service of W&B got no signal"
    [checkpoint] = saved(run_dir / "checkpoints")
    step = int(checkpoint.name.removeprefix("step-"))
    (work / "notes.txt").write_text("another content, and so another folder on the cluster")
    resumed = head.submit(work, "train", "--resume", "name=long", place, f"steps={step + 2}")
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


def test_a_job_takes_its_secrets_from_the_store_of_the_cluster(head: Head, work: Path) -> None:
    (work / "takes.py").write_text(TAKES)
    words = [sys.executable, "-c", SENDS, str(ROOT), str(work / "takes.py")]
    sent = subprocess.run(words, env=head.environment, capture_output=True, text=True, timeout=60)
    assert sent.returncode == 0, sent.stderr
    done = head.submit(work, "--logs", "taker")
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
    variables: dict[str, str], said: str, head: Head, work: Path
) -> None:
    done = head.submit(work, "train", "name=refused", **variables)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("breadth: RAY_ADDRESS: ") and said in line
