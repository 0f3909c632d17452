"""Batches: one frame for the tasks and one for their verdicts, and who is to blame when a worker is lost."""

import asyncio
import json
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rewards.verdict import Verdict, correct, wrong
from rewards.workers import pool as pool_module
from rewards.workers import process, worker
from rewards.workers.frames import FIELDS, pack_batch
from rewards.workers.job import Job
from rewards.workers.pool import Pool
from rewards.workers.process import WorkerLost, start
from rewards.workers.progress import Progress, create
from rewards.workers.serial_calls import SerialCalls
from rewards.workers.task import Task

OBEYS = "unruly_verifiers:obeys"
PROBLEM = {"numbers": [3, 7, 12], "target": 22}


def message(tasks: Sequence[Task]) -> dict[str, Any]:
    frame = pack_batch(tasks)
    assert struct.unpack(">I", frame[:4])[0] == len(frame) - 4
    decoded: dict[str, Any] = json.loads(frame[4:])
    return decoded


def replies_of(answers: Sequence[str], progress: Progress, end_at: str = "") -> list[dict[str, Any]]:
    """Return the frames that a worker writes for one batch. The verifier is right about the answer 'right'."""
    written: list[Mapping[str, Any]] = []

    def verify(answer: str, problem: Mapping[str, Any], context: Mapping[str, Any]) -> Verdict:
        if answer == end_at:
            progress.end_early(1)
        return correct() if answer == "right" else wrong(f"{answer} is not right")

    tasks = message([Task("countdown", PROBLEM, answer) for answer in answers])
    worker.judge_batch("countdown", verify, tasks, written.append, progress, 1)
    return [dict(reply) for reply in written]


def test_the_verdicts_of_a_quick_batch_are_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SEND_S", 60.0)
    progress = Progress(create())
    [reply] = replies_of(["right", "a", "right"], progress)
    rows = [dict(zip(FIELDS, row, strict=True)) for row in reply["verdicts"]]
    assert [(row["reward"], row["reason"]) for row in rows] == [(1.0, ""), (0.0, "a is not right"), (1.0, "")]
    assert all(row["seconds"] > 0 for row in rows)
    assert reply["last"] and not reply["broken"]
    assert progress.judging()[:2] == (1, 2)


def test_the_verdicts_of_a_slow_batch_are_sent_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SEND_S", 0.0)
    replies = replies_of(["right", "a", "right"], Progress(create()))
    assert [len(reply["verdicts"]) for reply in replies] == [1, 1, 1]
    assert [reply.get("last", False) for reply in replies] == [False, False, True]


def test_a_batch_that_is_ended_early_ends_behind_the_answer_being_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SEND_S", 60.0)
    [reply] = replies_of(["right", "a", "right", "b"], Progress(create()), end_at="a")
    assert len(reply["verdicts"]) == 2
    assert reply["last"]


def test_a_problem_is_sent_once_for_all_its_answers_but_to_a_user_verifier_which_may_change_it() -> None:
    for verifier, problems in (("countdown", 2), (OBEYS, 3)):
        tasks = [Task(verifier, PROBLEM, "a"), Task(verifier, PROBLEM, "b"), Task(verifier, dict(PROBLEM), "c")]
        sent = message(tasks)
        assert len(sent["problems"]) == problems
        assert [sent["problems"][place] for place, _, _ in sent["tasks"]] == [PROBLEM] * 3
        assert [answer for _, answer, _ in sent["tasks"]] == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize(("deed", "status"), [("sleep", "timeout"), ("exit", "crash")])
def test_the_answer_being_judged_is_known_although_no_verdict_has_been_sent(deed: str, status: str) -> None:
    async def work() -> tuple[str, Job | None, list[Job], list[Job], list[Job]]:
        loop, others = asyncio.get_running_loop(), []
        one = await start(OBEYS, 20.0)
        jobs = [Job(Task(OBEYS, {}, answer), 0.5, loop.create_future()) for answer in ("a", "b", deed, "c", "d")]
        batch = deque(jobs)
        frame = pack_batch([job.task for job in jobs])
        try:
            with pytest.raises(WorkerLost) as lost:
                await SerialCalls(one, batch, others.extend).run(frame, 0.0, lambda verdicts, starved: None)
            return lost.value.status, lost.value.cause, jobs, list(batch), others
        finally:
            await one.end()

    got, cause, jobs, left, others = asyncio.run(asyncio.wait_for(work(), 30))
    assert got == status
    assert cause is jobs[2]
    if deed == "sleep":  # The others went back to the queue long before the deadline.
        assert (left, others) == ([jobs[2]], [*jobs[:2], *jobs[3:]])
    else:
        assert (left, others) == (jobs, [])


@pytest.mark.slow
def test_answers_behind_one_that_hangs_are_judged_at_once_and_it_alone_is_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "VERIFIERS", {OBEYS})  # so that its tasks are sent in batches
    answers = [{7: "spin", 20: "exit", 33: "raise"}.get(index, "fine") for index in range(48)]

    async def work() -> tuple[list[str], list[float]]:
        pool = Pool(2, 6.0, 20.0)
        ended: list[float] = []
        try:
            await asyncio.gather(*(pool.run(OBEYS, {}, "fine") for _ in range(2)))
            started = time.monotonic()
            checks = pool.submit([Task(OBEYS, {}, answer) for answer in answers])
            for check in checks:
                check.add_done_callback(lambda _: ended.append(time.monotonic() - started))
            return [verdict.status for verdict in await asyncio.gather(*checks)], ended
        finally:
            await pool.close()

    statuses, ended = asyncio.run(asyncio.wait_for(work(), 60))
    assert statuses == [{7: "timeout", 20: "crash", 33: "grader_error"}.get(i, "correct") for i in range(48)]
    assert sorted(ended)[-2] < 6.0 <= sorted(ended)[-1], "only the answer that hangs took its deadline"


@pytest.mark.slow
def test_quick_answers_cost_few_frames_and_no_reading_of_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SLOW_S", 0.9)  # the deadline is 1 s
    read: list[int] = []
    frames: list[int] = []

    def read_and_note(process_id: int) -> float:
        read.append(process_id)
        return 0.0

    monkeypatch.setattr(process, "starved_seconds", read_and_note)
    send = process.Worker.send
    monkeypatch.setattr(
        process.Worker, "send", lambda self, frame, tasks: (frames.append(frame), send(self, frame, tasks))
    )

    async def work() -> list[float | None]:
        pool = Pool(2, 20.0, 20.0)
        try:
            tasks = [Task("countdown", PROBLEM, "3+7+12" if index % 3 else "3*7+12") for index in range(640)]
            await asyncio.gather(*pool.submit(tasks[:8]))  # Both workers have started.
            frames.clear()
            read.clear()
            return [verdict.reward for verdict in await asyncio.gather(*pool.submit(tasks))]
        finally:
            await pool.close()

    rewards = asyncio.run(asyncio.wait_for(work(), 60))
    assert rewards == [1.0 if index % 3 else 0.0 for index in range(640)]
    assert 640 // pool_module.BATCH <= len(frames) <= 640 // pool_module.BATCH + 8
    assert read == []
