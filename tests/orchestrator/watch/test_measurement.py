"""What a measurement keeps of the answers to a prompt, for the report."""

from dataclasses import replace

from orchestrator.watch.measurement import measure
from tests.orchestrator.watch.test_passk import group, trajectory
from trajectories.trajectory import Grade


def test_a_kept_wrong_answer_has_its_verdict_and_reason() -> None:
    graded = replace(trajectory(0, "2*1", ""), grade=Grade(reward=0.0, status="wrong", reason="evaluates to 2, not 3"))
    (prompt,) = measure([group(graded, trajectory(1, "", "timeout"))], "base", 3, 1.0).prompts
    assert dict(zip(prompt.wrong_answers, prompt.wrong_reasons, strict=True)) == {
        "2*1": "wrong: evaluates to 2, not 3",
        "": "timeout",
    }
