"""Held-out prompts of other tasks are measured beside those of the run, at any lag, and after a resume."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from configs.config import Config
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config

VERIFIER = f"{Path(__file__).parent / 'toy_verifiers.py'}:even"
SETTINGS = (
    "steps=4",
    "groups_per_step=2",
    "sampling.group_size=4",
    "sampling.max_prompt_tokens=320",
    f"task.verifier={VERIFIER}",
    "monitor.every=2",
    "monitor.answers=4",
    "monitor.ks=[1,4]",
    "monitor.frontier=[]",
    f"monitor.also.words={{name: word_problems, verifier: '{VERIFIER}', heldout_prompts: 3, answers: 2}}",
    f"monitor.also.greedy={{name: countdown, verifier: '{VERIFIER}', heldout_prompts: 2}}",
    "monitor.also.greedy.sampling.temperature=0",
    "checkpoint.every=2",
    "checkpoint.best_metric=words/pass@1",
)


def train(cfg: Config, *, resume: bool = False) -> list[dict[str, Any]]:
    folder = asyncio.run(run_training(cfg, resume=resume, log=lambda text: None))
    return read_records(folder / "metrics.jsonl")


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_measures_other_tasks_at_the_same_steps_and_compares_them_with_its_base(
    tiny_policy: Path, tmp_path: Path, lag: int
) -> None:
    records = train(config(tiny_policy, tmp_path, *SETTINGS, f"lag={lag}", "name=a"))
    measured = {record["step"]: record for record in records if "heldout/pass@1" in record}
    assert list(measured) == [0, 2, 4]
    for step, record in measured.items():
        values = {key.removeprefix("heldout/words/") for key in record if key.startswith("heldout/words/")}
        assert {"pass@1", "pass@1/low", "retention", "expansion", "change/pass@1", "entropy"} <= values
        assert "pass@4" not in values, "it has 2 answers"
        saved = json.loads((tmp_path / "a" / "measurements" / "words" / f"step-{step:06d}.json").read_text())
        rate = sum(p["correct"] for p in saved["prompts"]) / 6
        assert record["heldout/words/pass@1"] == pytest.approx(rate)
        assert record["heldout/greedy/pass@1"] == record["heldout/greedy/pass@4"], "greedy answers are all equal"
    assert measured[0]["heldout/words/change/pass@1"] == 0.0
    states = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("a/checkpoints/*/state.json"))]
    later = [measured[step]["heldout/words/pass@1"] for step in (2, 4)]
    assert states[-1]["best"]["value"] in later


def test_the_held_out_file_of_another_task_is_measured_and_none_of_its_train_rows(
    tiny_policy: Path, tmp_path: Path
) -> None:
    for name, texts in (("train", ["One?", "Two?"]), ("test", ["Three?", "Four?", "Five?"])):
        rows = [json.dumps({"prompt": text, "answer": "1"}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    options = f"{{path: {tmp_path}/train.jsonl, heldout_path: {tmp_path}/test.jsonl}}"
    own = f"monitor.also.file={{name: dataset, heldout_prompts: 3, verifier: '{VERIFIER}', options: {options}}}"
    records = train(config(tiny_policy, tmp_path, *SETTINGS, "name=a", "steps=2", own))
    saved = json.loads((tmp_path / "a" / "measurements" / "file" / "step-000002.json").read_text())["prompts"]
    assert sorted(prompt["prompt_text"] for prompt in saved) == ["Five?", "Four?", "Three?"]
    assert records[-1]["heldout/file/pass@1"] == pytest.approx(sum(prompt["correct"] for prompt in saved) / 12)
    with pytest.raises(ValueError, match=r"^monitor\.also\.file\.heldout_prompts: must be at most the 3 held-out"):
        train(config(tiny_policy, tmp_path, *SETTINGS, "name=b", own, "monitor.also.file.heldout_prompts=4"))


def test_a_resumed_run_compares_with_the_same_base_and_drops_what_it_measures_again(
    tiny_policy: Path, tmp_path: Path
) -> None:
    whole = train(config(tiny_policy, tmp_path, *SETTINGS, "name=whole"))
    train(config(tiny_policy, tmp_path, *SETTINGS, "name=part", "steps=2"))
    stale = tmp_path / "part" / "measurements" / "words" / "step-000009.json"
    stale.write_text("{}")
    resumed = train(config(tiny_policy, tmp_path, *SETTINGS, "name=part"), resume=True)
    assert not stale.exists()
    for before, after in zip(whole, resumed, strict=True):
        assert {k: v for k, v in before.items() if k.startswith("heldout/")} == {
            k: v for k, v in after.items() if k.startswith("heldout/")
        }


def test_a_rule_on_another_task_stops_the_run_and_a_name_that_is_not_measured_is_refused(
    tiny_policy: Path, tmp_path: Path
) -> None:
    records = train(config(tiny_policy, tmp_path, *SETTINGS, "name=a", "monitor.stop_if=[words/distinct_correct < 9]"))
    assert [record["step"] for record in records] == [0]
    with pytest.raises(ValueError, match=r"^monitor\.stop_if: must name a measured value, .*words/pass@1"):
        train(config(tiny_policy, tmp_path, *SETTINGS, "name=b", "monitor.stop_if=[words/pass@4 < 1]"))
    with pytest.raises(ValueError, match=r"^monitor\.also\.words: sampling\.max_prompt_tokens: must be at least"):
        train(config(tiny_policy, tmp_path, *SETTINGS, "name=b", "sampling.max_prompt_tokens=32"))
    with pytest.raises(ValueError, match=r"^monitor\.also\.words\.name: must be one of countdown"):
        train(config(tiny_policy, tmp_path, *SETTINGS, "name=b", "monitor.also.words.name=wordle"))
