"""Jobs on a cluster whose runs are in S3, with keys that only the user of the cluster has."""

import json
import shutil
from pathlib import Path

import pytest
from head_node import head_node

from orchestrator.manifest import folder_name
from orchestrator.remote_runs.store import Store
from tests.orchestrator.remote_runs.conftest import bucket

SMALL = "task.heldout_prompts=4 monitor.every=0 groups_per_step=4 sampling.group_size=4 generator.engine=transformers"
SECRETS = ("--secret", "AWS_ACCESS_KEY_ID", "--secret", "AWS_SECRET_ACCESS_KEY")
KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-user", "AWS_SECRET_ACCESS_KEY": "its-secret"}


@pytest.mark.ray
def test_jobs_train_resume_and_evaluate_a_run_in_s3_with_keys_that_only_the_user_has(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_of_nodes = {"AWS_ENDPOINT_URL": s3_server, "AWS_DEFAULT_REGION": "us-east-1"}
    with head_node("0123456789abcdef0123456789abcdef", cpus=4, **place_of_nodes) as head:
        runs = bucket(s3_server, monkeypatch)  # after the start of the nodes, which get no keys
        store = Store(f"{runs}/first")

        def submit(*words: str) -> str:
            done = head.breadth_submit(tmp_path, *SECRETS, *words, **place_of_nodes, **KEYS)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        refused = head.breadth_submit(tmp_path, "train", f"runs={runs}", "name=first", *SMALL.split())
        assert refused.returncode == 2
        assert "runs: must be a place that this user can write to" in refused.stdout, refused

        submit("train", f"runs={runs}", "name=first", "steps=2", *SMALL.split())
        shutil.rmtree(head.scratch / ".cache" / "breadth")  # the cluster forgets the run
        submit("train", "--resume", f"runs={runs}", "name=first", "steps=3")
        steps = [json.loads(line)["step"] for line in store.read("metrics.jsonl").splitlines()]
        assert [step for step in steps if step] == [1, 2, 3]
        assert f"checkpoints/{folder_name(3)}/manifest.json" in store.sizes()

        submit("evaluate", f"{runs}/first", "evaluate.answers=4", "evaluate.ks=[1,4]", "evaluate.name=measured")
        results = json.loads(store.read("evaluations/measured/results.json"))
        assert list(results["policies"]) == ["base", "first"]
