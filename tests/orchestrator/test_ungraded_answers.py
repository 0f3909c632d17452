"""A run whose verifier fails on some answers: all of them are in trajectories.jsonl and can be judged again."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.commands.cli import main
from orchestrator.start import run_training
from orchestrator.submission.runtime import SUBMIT_VARIABLE
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config

SETTINGS = (
    "name=x",
    "steps=3",
    "groups_per_step=4",
    "sampling.group_size=3",
    "sampling.max_refills=2",
    "monitor.every=2",
    "monitor.answers=4",
    "monitor.ks=[1]",
    "monitor.frontier=[]",  # its answers have the same keys as those at temperature 1
    "logbook.trajectories_every=0",
    "task.verifier=toy_verifiers:even_or_fails",
)


def test_every_ungraded_answer_of_a_run_is_written_once_and_can_be_judged_again(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = asyncio.run(run_training(config(tiny_policy, tmp_path, *SETTINGS), resume=False, log=lambda text: None))
    rows = read_records(run_dir / "trajectories.jsonl")
    assert {row["status"] for row in rows} == {"grader_error"}
    assert len({(row["step"], row["prompt_id"], row["sample_index"]) for row in rows}) == len(rows)
    records = read_records(run_dir / "metrics.jsonl")
    written = Counter((row["step"], "heldout" in row["prompt_id"]) for row in rows)
    assert sum(count for (_, is_heldout), count in written.items() if not is_heldout) > sum(
        record.get("masked", 0) for record in records
    ), "answers of dropped groups too"
    assert {step: count for (step, is_heldout), count in written.items() if is_heldout} == {
        record["step"]: record["heldout/ungraded"] for record in records if record.get("heldout/ungraded")
    }
    # The graders' statistics of the last step do not include the measurement after it.
    assert len(rows) - written[3, True] == records[-1]["grader/grader_error"]

    assert main(["verify", "--input", str(run_dir / "trajectories.jsonl"), "--workers", "1"]) == 0
    assert f"0 of {len(rows)} rows get another verdict" in capsys.readouterr().err
    text = json.dumps(rows).replace("even_or_fails", "even")
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_text("\n".join(map(json.dumps, json.loads(text))))
    assert main(["verify", "--input", str(repaired), "--workers", "1"]) == 0
    assert f"{len(rows)} of {len(rows)} rows get another verdict" in capsys.readouterr().err


def test_a_run_whose_answers_all_fail_stops_with_a_checkpoint_and_goes_on_when_the_verifier_works(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "away"
    away.touch()
    monkeypatch.setenv("JUDGE_AWAY", str(away))
    monkeypatch.setenv(SUBMIT_VARIABLE, "breadth submit")
    settings = ("name=x", "steps=3", "groups_per_step=4", "sampling.group_size=2", "monitor.every=0")
    cfg = config(tiny_policy, tmp_path, *settings, "task.verifier=toy_verifiers:away_from_step_one")
    with pytest.raises(ValueError) as caught:
        asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    message = str(caught.value)
    assert message.startswith("task.verifier: must judge answers, got grader_error for all 8 answers of the step, ")
    assert "raised ConnectionError: the judge is away" in message
    assert "ended in step 2 with a checkpoint of step 1, and `breadth submit train --resume name=x" in message
    run_dir = tmp_path / "x"
    assert [row["step"] for row in read_records(run_dir / "trajectories.jsonl") if row["reward"] is None] == [2] * 8
    events = (run_dir / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["title"] == "no answer could be judged"
    away.unlink()
    asyncio.run(run_training(cfg, resume=True, log=lambda text: None))
    assert [record["step"] for record in read_records(run_dir / "metrics.jsonl")] == [1, 2, 3]
