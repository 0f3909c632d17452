"""Known sets that are measured beside the task of a run, from a cache of the Hugging Face Hub: by jobs and monitors."""

import asyncio
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hub_cache import HubCache, hub_cache

from orchestrator.commands.cli import main
from orchestrator.commands.hub import fetched
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import SMALL, config
from tests.tasks.dataset.set_rows import EXAMPLES, texts

SHORT = "sampling: {max_new_tokens: 6}"  # the tiny policy has 512 positions


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    return hub_cache(tmp_path / "home", monkeypatch)


def add(cache: HubCache, *names: str) -> list[str]:
    """Add the examples of sets to the cache. Returns their commits."""
    examples = [EXAMPLES[name] for name in names]
    return [cache.add("dataset", one.repository, {"README.md": one.card} | texts(one.files)) for one in examples]


def test_a_job_measures_several_sets_each_on_all_of_its_rows(
    cache: HubCache, tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = add(cache, "aime24", "math500")
    words = [
        *(*SMALL, f"policy.path={tiny_policy}", f"runs={tmp_path}", "name=measured", "evaluate.name=sets"),
        *("evaluate.frontier=[]", "evaluate.kl_to_base=false", "sampling.max_prompt_tokens=200"),
        *(f"evaluate.tasks.{name}={{name: {name}, {SHORT}}}" for name in ("aime24", "math500")),
    ]
    assert main(["evaluate", *words]) == 0
    told = capsys.readouterr().err
    folder = tmp_path / "measured" / "evaluations" / "sets"
    for name, commit, rows in zip(("aime24", "math500"), commits, (30, 500), strict=True):
        example = EXAMPLES[name]
        results = json.loads((folder / "tasks" / name / "results.json").read_text())
        assert (results["about"]["task"], results["prompts"], results["about"]["answers"]) == (name, 1, 4)
        answers = pq.read_table(folder / "tasks" / name / "answers.parquet").to_pylist()
        assert {answer["prompt"] for answer in answers} == {example.prompt}
        assert f"task {name}: 1 rows, where {rows} are expected" in told
        assert f"{example.repository}@{commit}" in (folder / "config.yaml").read_text()
    too_long = [*words[:-2], "evaluate.tasks.a.name=aime24", "evaluate.name=long", "sampling.max_prompt_tokens=32"]
    assert main(["evaluate", *too_long]) == 2
    assert "evaluate.tasks.a: sampling.max_prompt_tokens: must be at least" in capsys.readouterr().err
    assert main(["evaluate", *words, "evaluate.name=many", "evaluate.tasks.aime24.heldout_prompts=2"]) == 2
    assert "evaluate.tasks.aime24.heldout_prompts: must be at most the 1 held-out rows" in capsys.readouterr().err


def test_a_run_measures_a_set_beside_its_own_task(cache: HubCache, tiny_policy: Path, tmp_path: Path) -> None:
    add(cache, "gsm8k")
    words = [
        *("steps=1", "groups_per_step=2", "sampling.group_size=2", "monitor.every=1", "monitor.answers=2"),
        *("monitor.frontier=[]", "sampling.max_prompt_tokens=256"),
        f"monitor.also.school={{name: gsm8k, heldout_prompts: 1, {SHORT}}}",
    ]
    cfg = fetched(config(tiny_policy, tmp_path, *words), lambda text: None)
    folder = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    records = read_records(folder / "metrics.jsonl")
    assert all("heldout/school/pass@1" in record for record in records) and len(records) == 2
    [prompt] = json.loads((folder / "measurements" / "school" / "step-000001.json").read_text())["prompts"]
    assert prompt["prompt_text"] == EXAMPLES["gsm8k"].prompt and prompt["total"] == 2
