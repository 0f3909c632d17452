"""A role is lost during `breadth evaluate` or `breadth presample`, which write what they would have."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.evaluation.likelihoods import FILE
from tests.faults.rows import VLLM, Fault
from tests.faults.subject import ROOT, Subject
from tests.orchestrator.evaluation.test_resumed_job import differences

POLICIES = ",".join(
    f"{name}={ROOT / 'tasks' / 'base_policies' / folder}"
    for name, folder in (("base", "countdown"), ("other", "unfinished_countdown"))
)
WORDS = {
    "evaluate": (
        f"evaluate.checkpoints=[{POLICIES}]", "evaluate.name=measured", "evaluate.answers=8", "evaluate.ks=[1,8]",
        "evaluate.frontier=[]", "evaluate.kl_to_base=false", "task.heldout_prompts=8",
        "evaluate.tasks.more={name: countdown, heldout_prompts: 4}", "sampling.max_new_tokens=16",
    ),
    "presample": ("method=dph_f", "rehearsal.path=stored.parquet", "rehearsal.prompts=16", "rehearsal.answers=8",
        "rehearsal.threshold=1", "rehearsal.keep=all_correct", "sampling.max_new_tokens=16"),
}  # fmt: skip
"""Settings of each command."""
SECOND = {"generator": 5, "grader": 5, "reference": 2}
"""Number of the call for the second policy: of `Rollouts.submit`, of which two are for first tokens and two for the
first policy, and of `RemoteReference.score`."""
SCORED = ("evaluate.kl_to_base=true",)
"""Settings of an evaluation whose answers are scored."""
BOUND_S = 300.0
"""Longest command, in seconds."""
BY_VLLM = (*VLLM, "generator.timeout_s=60", "placement.kind=ray")


def row(command: str, action: str, role: str, step: int, *, always: bool = False, **more: Any) -> Any:
    phase = {"generator": "generating", "grader": "grading", "reference": "scoring"}[role]
    fault = Fault(action=action, role=role, phase=phase, step=step, expected="goes on", kind="ray", **more)
    marks = [pytest.mark.ray, pytest.mark.timed] if always else [pytest.mark.ray, pytest.mark.faults]
    return pytest.param(command, fault, id=f"{command}-{fault.name}", marks=marks)


def written(command: str, subject: Subject) -> Any:
    """What a command has written."""
    if command == "presample":
        return pq.read_table(subject.folder / "stored.parquet").to_pylist()
    folder = subject.run_dir / "evaluations" / "measured"
    results = [json.loads((folder / place / "results.json").read_text())["policies"] for place in ("", "tasks/more")]
    tables = [folder / name for name in ("answers.parquet", FILE)]
    return [results, *(pq.read_table(table).to_pylist() for table in tables if table.exists())]


def answers(command: str, folder: Path, words: tuple[str, ...], fault: Fault | None = None) -> Any:
    """Give a command, with a fault or without. Return what it wrote; nothing may be left of it."""
    folder.mkdir()
    subject = Subject(folder, [*WORDS[command], *words], command=command)
    try:
        ended = subject.run(fault=fault.arguments() if fault else None, bound_s=BOUND_S)
        assert ended.status == 0, ended.output[-3000:]
        assert ended.output.count("Traceback") == 0, ended.output[-3000:]
        if fault:
            assert f"FAULT {fault.action}" in ended.output, ended.output[-3000:]
            assert f"{fault.role} 0 was lost" in ended.output, ended.output[-3000:]
            assert f"{fault.role} 0 is back" in ended.output, ended.output[-3000:]
        left = subject.leftovers(records=False)
        assert not left, left
        stopped = fault is not None and fault.action == "SIGSTOP"
        place = folder if command == "presample" else subject.run_dir / "evaluations" / "measured"
        assert len(list(place.glob("stacks/*"))) == stopped
        return written(command, subject)
    finally:
        subject.close()


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        row("evaluate", "SIGKILL", "generator", SECOND["generator"], always=True),
        row("evaluate", "SIGSTOP", "generator", SECOND["generator"]),
        row("evaluate", "SIGKILL", "generator", 1, special="before_weights"),
        row("evaluate", "SIGKILL", "grader", SECOND["grader"]),
        row("evaluate", "SIGSTOP", "grader", SECOND["grader"]),
        row("evaluate", "SIGKILL", "reference", SECOND["reference"], always=True, words=SCORED),
        row("evaluate", "SIGSTOP", "reference", SECOND["reference"], words=SCORED),
        row("presample", "SIGKILL", "generator", 1, always=True),
        row("presample", "SIGSTOP", "generator", 1),
        row("presample", "SIGKILL", "grader", 1),
        row("presample", "SIGSTOP", "grader", 1),
    ],
)
def test_a_role_that_is_lost_is_started_again_and_the_answers_are_those_without_a_loss(
    command: str, fault: Fault, tmp_path: Path
) -> None:
    # One process starts sooner. It computes with another number of threads, so the last bits of log-probs differ.
    whole = answers(command, tmp_path / "whole", (*fault.words, "placement.kind=in_process"))
    healed = answers(command, tmp_path / "healed", (*fault.words, "placement.kind=ray"), fault)
    assert differences(healed, whole) == []


@pytest.mark.ray
@pytest.mark.faults
def test_a_vllm_generator_that_is_lost_while_the_second_policy_answers_serves_that_policy_again(tmp_path: Path) -> None:
    fault = Fault(action="SIGKILL", role="generator", phase="generating", step=SECOND["generator"], expected="goes on")
    _, whole = answers("evaluate", tmp_path / "whole", BY_VLLM)
    _, healed = answers("evaluate", tmp_path / "healed", BY_VLLM, fault)
    names = ("policy", "prompt_id", "sample_index", "seed")
    assert [[row[name] for name in names] for row in healed] == [[row[name] for name in names] for row in whole]
    # vLLM rounds differently from batch to batch, which changes an answer now and then.
    same = sum(mine["answer"] == other["answer"] for mine, other in zip(healed, whole, strict=True))
    assert same >= 0.9 * len(whole), f"{same} of {len(whole)} answers are the same"
