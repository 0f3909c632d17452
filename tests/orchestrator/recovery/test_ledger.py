"""The ledger: append-only, read after a crash, and the proof that no group was lost or used twice."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import config

from configs.load import load
from orchestrator.recovery.ledger import LEDGER, Account, Ledger, account, read
from orchestrator.start import run_training
from orchestrator.state import RunState
from trajectories.trajectory import Group, Prompt, Trajectory

CFG = load([])


def group(position: int) -> Group:
    prompt = Prompt(id=f"sums/train/{position}", position=position, text="1+1=", verifier="sums", problem={})
    answer = Trajectory(
        prompt_id=prompt.id,
        sample_index=0,
        tokens=np.array([1, 2], np.int32),
        mask=np.array([False, True]),
        logp_sampler=np.zeros(2, np.float32),
        first_version=3,
        last_version=4,
        finish_reason="stop",
        seed=7,
        text="2",
    )
    return Group(prompt=prompt, trajectories=(answer,))


def state(step: int, position: int, trained: tuple[int, ...] = ()) -> RunState:
    first = RunState.initial(CFG)
    return RunState(**{**vars(first), "step": step, "position": position, "trained": trained})


def begun(step: int, position: int, *trained: int, take: str = "in_order") -> dict[str, Any]:
    return {"event": "begin", "step": step, "position": position, "trained": list(trained), "take": take}


def stepped(step: int, *positions: int, passed: tuple[list[int], ...] = ()) -> dict[str, Any]:
    return {"event": "step", "step": step, "groups": [{"position": p} for p in positions], "passed": list(passed)}


def of(*records: dict[str, Any], ended: bool = True) -> Account:
    return account(records, ended=ended)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin(CFG, state(0, 0))
    ledger.step(1, [group(0), group(3)], [1, 2])
    ledger.passed([4, 5, 7])
    ledger.passed([])
    ledger.close()
    first, step, passed = read(tmp_path)
    assert (first["event"], first["step"], first["position"]) == ("begin", 0, 0)
    assert step["groups"][1] == {"position": 3, "prompt": "sums/train/3", "versions": [3, 4], "answers": 1, "seed": 7}
    assert (step["passed"], passed["passed"]) == ([[1, 2]], [[4, 5], [7, 7]])
    assert not of(first, step, passed).problems


def test_a_line_whose_writer_was_killed_is_left_out_and_the_next_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b'{"event": "passed", "passed": [[0, 0]]}\n{"event": "step", "st')
    ledger = Ledger(tmp_path)
    ledger.step(1, [group(1)], [])
    ledger.close()
    assert [record["event"] for record in read(tmp_path)] == ["passed", "step"]


def test_steps_after_the_checkpoint_of_a_resume_do_not_count() -> None:
    found = of(begun(0, 0), stepped(1, 0, 1), stepped(2, 2, 3), begun(1, 2), stepped(2, 2, 3), stepped(3, 4, 5))
    assert (found.problems, found.step, found.resumes, found.superseded) == ([], 3, 1, 1)
    assert found.words() == "6 groups in 3 steps, each once and none lost; 1 resume, 1 step done again"


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([begun(0, 0), stepped(1, 0, 1), stepped(2, 1, 2)], "position 1 was used twice, in steps 1, 2"),
        ([begun(0, 0), stepped(1, 0, 1), stepped(2, 3, 4)], "positions 2 to 2 were lost"),
        ([begun(0, 0), stepped(1, 0), stepped(3, 1)], "step 3 follows step 1"),
        ([begun(0, 0), stepped(1, 0, 1), begun(1, 3), stepped(2, 3, 4)], "positions 2 to 2 were lost"),
        ([begun(0, 0), stepped(1, 0, 1), begun(2, 4), stepped(3, 4, 5)], "steps 2 to 2 are in the checkpoint"),
        ([begun(4, 8), stepped(5, 8)], "the ledger lacks steps 1 to 4"),
        ([begun(0, 0), stepped(1, 0, passed=([0, 0],))], "position 0 was trained on in step 1, and left out"),
        (
            [begun(0, 0, take="any_order"), stepped(1, 1), begun(1, 0, take="any_order"), stepped(2, 0)],
            "position 1 was trained on before step 1, and the checkpoint says otherwise",
        ),
    ],
)
def test_a_lost_or_doubled_group_is_named(records: list[dict[str, Any]], problem: str) -> None:
    assert any(found.startswith(problem) for found in of(*records).problems), of(*records).problems


def test_a_prompt_that_could_not_be_used_is_not_lost_and_is_passed_again_after_a_resume() -> None:
    first = [begun(0, 0), stepped(1, 0, 2, passed=([1, 1], [3, 3])), stepped(2, 4, 5)]
    assert not of(*first).problems
    assert not of(*first, begun(1, 3), stepped(2, 4, 5, passed=([3, 3],))).problems
    assert of(*first, begun(1, 3), stepped(2, 4, 5)).problems == ["positions 3 to 3 were lost"]


def test_in_any_order_older_groups_may_be_in_flight_until_the_run_has_ended() -> None:
    records = [begun(0, 0, take="any_order"), stepped(1, 1, 2), begun(1, 0, 1, 2, take="any_order"), stepped(2, 3, 4)]
    assert not of(*records, ended=False).problems
    assert of(*records).problems == ["positions 0 to 0 were lost"]


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_has_a_ledger_without_a_fault(tiny_policy: Path, tmp_path: Path) -> None:
    words = ("name=a", "steps=6", "groups_per_step=2", "sampling.group_size=2", "monitor.every=0", "checkpoint.every=2")
    more = ("lag=1", "sampling.max_refills=2")
    cfg = config(tiny_policy, tmp_path, *words, *more, "steps=4")
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    longer = config(tiny_policy, tmp_path, *words, *more)
    asyncio.run(run_training(longer, resume=True, log=lambda text: None))
    found = account(read(run_dir), ended=True)
    assert (found.problems, found.step, len(found.trained), found.resumes) == ([], 6, 12, 1)
    assert "12 groups in 6 steps, each once and none lost" in (run_dir / "events.jsonl").read_text()
