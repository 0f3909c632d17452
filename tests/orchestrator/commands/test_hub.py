"""Policies and rows of the Hugging Face Hub in the settings of commands: pinned, recorded, resumed, refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_cache import HubCache, hub_cache
from huggingface_hub import constants

from actors.policy_files.folder import check_policy_folder, config_folder, policy_folder
from actors.policy_files.reading import load_config, load_tokenizer
from configs.load import load, to_yaml
from orchestrator.commands.hub import fetched, pinned
from orchestrator.commands.paths import absolute
from orchestrator.evaluation.policies import named_policies
from orchestrator.preflight.resume import check_resumed_settings

ROOT = Path(__file__).resolve().parents[3]
POLICY = ROOT / "tasks" / "base_policies" / "countdown"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    monkeypatch.chdir(tmp_path)
    return hub_cache(tmp_path / "home", monkeypatch)


def test_every_setting_that_names_a_policy_or_rows_is_pinned(cache: HubCache) -> None:
    policy = cache.add_policy("org/tiny", POLICY)
    rows = cache.add("dataset", "org/sums", {"train.jsonl": '{"prompt": "1 + 1", "answer": "2"}\n'})
    words = [
        *("policy.path=org/tiny", "reference_path=org/tiny", "references.teacher.path=org/tiny@main"),
        "references.mix.soup={org/tiny: 1.0}",
        *("task.name=dataset", "task.options.path=org/sums:train", "task.options.heldout_path=org/sums"),
        *("replay.task=mixture", "replay.options.domains=[{name: dataset, options: {path: org/sums}}]"),
        "inspect_task.others.other.options.path=org/sums:train",
        "evaluate.checkpoints=[base=org/tiny,org/tiny]",
    ]
    lines: list[str] = []
    cfg = fetched(absolute(load(words)), lines.append)
    exact = f"org/tiny@{policy}"
    assert (cfg.policy.path, cfg.reference_path, cfg.references["teacher"].path) == (exact, exact, exact)
    assert cfg.references["mix"].soup == {exact: 1.0}
    assert cfg.task.options == {"path": f"org/sums@{rows}:train", "heldout_path": f"org/sums@{rows}"}
    assert cfg.replay.options["domains"][0]["options"] == {"path": f"org/sums@{rows}"}
    assert cfg.inspect_task.others["other"].options == {"path": f"org/sums@{rows}:train"}
    assert cfg.evaluate.checkpoints == [f"base={exact}", exact]
    assert f"policy.path: found {exact} in 0.0 s" in lines
    assert cfg.starts_from(cfg.reference_path)


def test_a_pinned_policy_is_read_from_the_cache(cache: HubCache) -> None:
    commit = cache.add_policy("org/tiny", POLICY)
    assert policy_folder("org/tiny") == policy_folder(f"org/tiny@{commit}")
    assert load_config(f"org/tiny@{commit}").vocab_size == load_config(str(POLICY)).vocab_size
    assert load_tokenizer("org/tiny").get_vocab() == load_tokenizer(str(POLICY)).get_vocab()


def test_policies_of_the_hub_are_measured_under_the_name_of_their_repository(cache: HubCache) -> None:
    commit = cache.add_policy("org/tiny", POLICY)
    cfg = pinned(absolute(load([f"evaluate.checkpoints=[org/tiny,local={POLICY}]"])))
    assert named_policies(cfg, None, print) == {"tiny": f"org/tiny@{commit}", "local": str(POLICY)}


def test_a_resumed_run_keeps_the_commit_it_was_started_with(cache: HubCache, tmp_path: Path) -> None:
    first = cache.add_policy("org/tiny", POLICY)
    words = ["policy.path=org/tiny"]
    record = tmp_path / "config.yaml"
    record.write_text(to_yaml(pinned(absolute(load(words)))))
    newer = cache.add("model", "org/tiny", {"config.json": "{}"})  # the main branch has moved
    cfg = pinned(absolute(load(words)), record)
    assert cfg.policy.path == f"org/tiny@{first}" != f"org/tiny@{newer}"
    check_resumed_settings(cfg, record, report=print)
    other = pinned(absolute(load([f"policy.path=org/tiny@{newer}"])), record)
    with pytest.raises(ValueError, match=rf"^policy.path: must stay .*{first}.* in a resumed run, got .*{newer}"):
        check_resumed_settings(other, record, report=print)


@pytest.mark.parametrize("place", ["hub", "here"])
def test_a_policy_of_which_a_file_of_weights_is_missing_is_refused(cache: HubCache, tmp_path: Path, place: str) -> None:
    """As a cache without a network after a fetch that was interrupted."""
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {path.name: path for path in POLICY.iterdir() if path.is_file() and path.name != "model.safetensors"}
    files |= {"model-00001-of-00002.safetensors": POLICY / "model.safetensors"}
    cache.add("model", "org/half", files | {"model.safetensors.index.json": json.dumps(index)})
    if place == "here":
        [commit] = (tmp_path / "home/hub/models--org--half/snapshots").iterdir()
        shutil.copytree(commit, tmp_path / "org" / "half")
        rule = "must hold model-00002-of-00002.safetensors, which its model.safetensors.index.json names, got "
    else:
        rule = "the Hub does not answer, and its cache lacks model-00002-of-00002.safetensors, got org/half"
    with pytest.raises(ValueError, match=rf"^references.a.path: {rule}"):
        check_policy_folder("org/half", "references.a.path")


def test_a_local_folder_of_the_same_name_wins(cache: HubCache, tmp_path: Path) -> None:
    cache.add_policy("org/tiny", POLICY)
    shutil.copytree(POLICY, tmp_path / "org" / "tiny")
    assert fetched(absolute(load(["policy.path=org/tiny"])), print).policy.path == str(tmp_path / "org" / "tiny")


def breadth(cache: HubCache, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.commands.cli", *words]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **cache.variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.slow
def test_plan_and_show_config_need_only_the_config_of_a_policy(cache: HubCache) -> None:
    files = {path.name: path for path in POLICY.iterdir() if path.suffix in (".json", ".jinja")}
    cache.add("model", "org/tiny", files)
    assert not any(config_folder("org/tiny").glob("*.safetensors"))
    shown = breadth(cache, "show-config", "policy.path=org/tiny")
    assert shown.returncode == 0, shown.stderr
    assert "are not on this machine, so nothing else is checked" in shown.stdout
    planned = breadth(cache, "plan", "gpus=1", "policy.path=org/tiny", "learner.layout=pad")
    assert planned.returncode == 0 and "3 placements fit" in planned.stdout, planned.stderr
    refused = breadth(cache, "train", "policy.path=org/tiny", "name=refused")
    assert refused.returncode == 2 and "policy.path: must hold its weights as *.safetensors" in refused.stderr


@pytest.mark.slow
def test_a_run_records_the_commit_of_its_policy_and_trains_on_rows_of_the_hub(cache: HubCache, tmp_path: Path) -> None:
    commit = cache.add_policy("org/tiny", POLICY)
    lines = [json.dumps({"prompt": f"{number},2,3>{number + 5}=", "answer": str(number)}) for number in range(1, 40)]
    rows = cache.add("dataset", "org/sums", {"data/train-00000.jsonl": "\n".join(lines)})
    done = breadth(
        *(cache, "train", "policy.path=org/tiny", "task.name=dataset", "task.options.path=org/sums:train"),
        *("steps=1", "groups_per_step=2", "sampling.group_size=2", "task.heldout_prompts=2", "monitor.answers=2"),
        *("monitor.ks=[1]", "placement.kind=in_process", "generator.engine=transformers", "name=hub"),
        "checkpoint.best_metric=''",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = (tmp_path / "runs" / "hub" / "config.yaml").read_text()
    assert f"path: org/tiny@{commit}" in record and f"path: org/sums@{rows}:train" in record


@pytest.mark.slow
def test_a_policy_of_the_hub_is_measured_on_a_known_set(cache: HubCache, tmp_path: Path) -> None:
    commit = cache.add_policy("org/tiny", POLICY)
    lines = [json.dumps({"question": f"{number},2,3>{number + 5}=", "answer": str(number)}) for number in range(10, 14)]
    rows = cache.add("dataset", "math-ai/amc23", {"test.jsonl": "\n".join(lines)})
    done = breadth(
        *(cache, "evaluate", "task=amc23", "task.options.prompt_template='{question}'"),
        *("policy.path=org/tiny", "evaluate.answers=2", "evaluate.ks=[1,2]", "evaluate.frontier=[]"),
        *("sampling.max_prompt_tokens=32", "sampling.max_new_tokens=16", "name=measured", "evaluate.name=amc"),
        *("placement.kind=in_process", "generator.engine=transformers"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "task amc23: 4 rows, where 40 are expected" in done.stderr
    record = (tmp_path / "runs" / "measured" / "evaluations" / "amc" / "config.yaml").read_text()
    assert f"math-ai/amc23@{rows}:test" in record and f"org/tiny@{commit}" in record


def test_a_policy_that_is_neither_here_nor_in_reach_is_refused_at_once(cache: HubCache) -> None:
    refused = breadth(cache, "train", "policy.path=org/gone")
    assert refused.returncode == 2
    assert "breadth: policy.path: must be a directory or a Hugging Face repository; no directory" in refused.stderr
    assert "and the Hub: HF_HUB_OFFLINE is set" in refused.stderr
    assert constants.HF_HUB_OFFLINE
