"""From blocks of finished answers to trajectories."""

import numpy as np

from actors.contracts import GenerationJob
from actors.finished import Finished
from orchestrator.rollout.answers import trajectories


def job(key: str, prompt: list[int], seeds: tuple[int, ...]) -> GenerationJob:
    return GenerationJob(
        key=key,
        prompt_id=f"toy/{key}",
        prompt_tokens=np.array(prompt, np.int32),
        seeds=seeds,
        temperature=1.0,
        max_new_tokens=3,
    )


JOBS = {"a": job("a", [5, 6], (31, 32)), "b": job("b", [7], (41,))}
FIRST = Finished(
    keys=["a", "b"],
    sample_index=np.array([1, 0], np.int32),
    tokens=np.array([8, 1, 9], np.int32),
    logps=np.array([-0.5, -1.0, -1.5], np.float32),
    ends=np.array([2, 3]),
    first_version=np.array([3, 3], np.int32),
    last_version=np.array([3, 4], np.int32),
    stopped=np.array([True, False]),
    texts=["x", "y"],
)
SECOND = Finished(
    keys=["a"],
    sample_index=np.array([0], np.int32),
    tokens=np.array([4, 4, 4], np.int32),
    logps=np.array([-2.0, -2.0, -2.0], np.float32),
    ends=np.array([3]),
    first_version=np.array([4], np.int32),
    last_version=np.array([4], np.int32),
    stopped=np.array([False]),
    texts=["zzz"],
)


def test_trajectories_have_prompt_answer_and_aligned_arrays() -> None:
    found = trajectories(Finished.joined([FIRST, SECOND]), JOBS)
    assert [t.key for t in found] == ["toy/a#1", "toy/b#0", "toy/a#0"]
    assert [t.tokens.tolist() for t in found] == [[5, 6, 8, 1], [7, 9], [5, 6, 4, 4, 4]]
    assert [t.prompt_tokens.tolist() for t in found] == [[5, 6], [7], [5, 6]]
    assert [t.logp_sampler.tolist() for t in found] == [[0, 0, -0.5, -1], [0, -1.5], [0, 0, -2, -2, -2]]
    assert [(t.first_version, t.last_version, t.finish_reason, t.seed, t.text) for t in found] == [
        (3, 3, "stop", 32, "x"),
        (3, 4, "length", 41, "y"),
        (4, 4, "length", 31, "zzz"),
    ]
    assert {t.tokens.dtype for t in found} == {np.dtype(np.int32)}
    assert {t.logp_sampler.dtype for t in found} == {np.dtype(np.float32)}


def test_the_arrays_of_all_trajectories_are_slices_of_those_of_the_block() -> None:
    found = trajectories(Finished.joined([FIRST, SECOND]), JOBS)
    for name in ("tokens", "mask", "logp_sampler"):
        [whole] = {id(getattr(t, name).base) for t in found}
        assert whole != id(None)


def test_a_block_without_answers_has_no_trajectories() -> None:
    assert len(Finished.joined([])) == 0
    assert trajectories(Finished.joined([]), {}) == []
