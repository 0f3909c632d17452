"""The breadth monitor: every measurement uses the same prompts and seeds and is compared with step 0."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.contracts import GradeTask
from actors.local import LocalReference
from actors.reference import References
from configs.heldout import Decoding
from configs.learner import LearnerConfig
from configs.load import load
from orchestrator.heldout.prompts import HeldOut, score_by_base
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.logbook import measurement_path
from orchestrator.watch.monitor import Monitor, base_path
from orchestrator.watch.passk import fired_rule
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, prompt, run
from trajectories.batch import Batch
from trajectories.trajectory import Grade, Group, Prompt, Trajectory


class Stream:
    def prompt(self, position: int) -> Prompt:
        raise NotImplementedError

    def heldout(self, count: int) -> list[Prompt]:
        return [replace(prompt(i, "x" * (3 + i)), verifier="countdown") for i in range(count)]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        raise NotImplementedError


def heldout(rollouts: Rollouts, *overrides: str) -> HeldOut:
    small = ("task.heldout_prompts=3", "monitor.answers=2", "monitor.ks=[1,2]", "sampling.max_prompt_tokens=8")
    return HeldOut(load([*small, *overrides]), Stream(), lambda prompt: list(map(ord, prompt.text)), rollouts)


def graded(solved: bool) -> Grade:
    return Grade(reward=float(solved), status="correct" if solved else "wrong")


def solves(*positions: int) -> ScriptedGrader:
    def judge(task: GradeTask) -> Grade:
        return graded(task.problem["place"] in positions)

    return ScriptedGrader(judge)


def test_every_measurement_uses_the_same_prompts_and_seeds() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with Rollouts([generator], [solves(0)], 20.0) as rollouts:
            for _ in range(2):
                groups = await heldout(rollouts).answer(2, Decoding(temperature=1.0, max_new_tokens=4))
                assert [len(group.trajectories) for group in groups] == [2, 2, 2]
        first, second = generator.submissions
        assert [(job.key, job.seeds) for job in first] == [(job.key, job.seeds) for job in second]

    run(body())


def test_a_heldout_prompt_that_is_too_long_is_refused_before_generation() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with Rollouts([generator], [solves()], 20.0) as rollouts:
            with pytest.raises(ValueError, match=r"^sampling\.max_prompt_tokens: .* \(5 tokens\), got 4"):
                await heldout(rollouts, "sampling.max_prompt_tokens=4").answer(
                    2, Decoding(temperature=1.0, max_new_tokens=4)
                )
        assert generator.submissions == []

    run(body())


def test_retention_and_expansion_are_relative_to_the_measurement_of_step_0(tmp_path: Path) -> None:
    async def measured(step: int, grader: ScriptedGrader) -> dict[str, float]:
        async with Rollouts([ScriptedGenerator(at_once=True)], [grader], 20.0) as rollouts:
            summary, measurement = await Monitor(heldout(rollouts, "monitor.frontier=[]"), None, tmp_path).measure(step)
        path = measurement_path(tmp_path, step)
        path.parent.mkdir(exist_ok=True)
        path.write_text(measurement.to_json())
        return {name: interval.value for name, interval in summary.items()}

    async def body() -> None:
        base = await measured(0, solves(0, 1))
        assert (base["pass@1"], base["retention"], base["expansion"]) == (pytest.approx(2 / 3), 1.0, 0.0)
        later = await measured(20, solves(1, 2))
        assert (later["pass@1"], later["retention"], later["expansion"]) == (pytest.approx(2 / 3), 0.5, 1.0)
        assert "kl_to_base" not in later and not [name for name in later if "beyond" in name]

    run(body())


def test_the_base_is_measured_colder_once_and_every_measurement_is_placed_against_it(tmp_path: Path) -> None:
    """The base solves half of its answers to every prompt; greedy decoding solves all prompts, hotter sampling none."""
    generator, alerts = ScriptedGenerator(at_once=True), list[str]()

    async def measured(step: int, solved: Callable[[int], bool], name: str = "a") -> dict[str, Interval]:
        grader = ScriptedGrader(lambda task: graded(solved(int(task.answer.rpartition("/")[2]))))
        settings = ("monitor.frontier=[0.5,0]", "task.heldout_prompts=6", f"runs={tmp_path}", "monitor.answers=4")
        async with Rollouts([generator], [grader], 20.0) as rollouts:
            held = heldout(rollouts, *settings, "monitor.ks=[1,4]", "sampling.max_prompt_tokens=9")
            monitor = Monitor(held, None, tmp_path / name)
            summary, measurement = await monitor.measure(step)
            alerts.append(monitor.alert)
        path = measurement_path(tmp_path / name, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(measurement.to_json())
        return summary

    async def body() -> None:
        base = await measured(0, lambda index: index < 2)
        assert [len(job.seeds) for jobs in generator.submissions for job in jobs] == [4] * 12 + [1] * 6
        assert [jobs[0].temperature for jobs in generator.submissions] == [1.0, 0.5, 0.0]
        assert base["beyond_sharpening/pass@1"].value == pytest.approx(0.5 - 1.0)
        later = await measured(20, lambda index: False)
        assert len(generator.submissions) == 4, "only the policy itself is measured again"
        assert later["beyond_sharpening/pass@4"].value == pytest.approx(-1.0)
        told = "step 20: some temperature of the base has both a higher Pass@1 and a higher Pass@k, k = 4"
        assert alerts == ["", told]
        again = await measured(0, lambda index: index < 2, name="b")
        assert len(generator.submissions) == 4, "another run with the same base measures nothing before its first step"
        assert again == base

    run(body())


class Scorer:
    """A reference with log-prob -2 for every token."""

    async def score(self, batch: Batch) -> Batch:
        return replace(batch, logp_reference=torch.full((len(batch.tokens),), -2.0))


def test_a_known_base_is_measured_again_for_the_kl_to_a_reference_and_once_for_each(
    tmp_path: Path, other_policy: Path
) -> None:
    generator = ScriptedGenerator(at_once=True)

    async def measured(scorer: Scorer | None, *overrides: str) -> tuple[int, float | None]:
        before = len(generator.submissions)
        async with Rollouts([generator], [solves(0)], 20.0) as rollouts:
            held = heldout(rollouts, "monitor.frontier=[0]", f"runs={tmp_path}", *overrides)
            summary, _ = await Monitor(held, scorer, tmp_path / "run").measure(0)  # type: ignore[arg-type]
        kl = summary["kl_to_base"].value if "kl_to_base" in summary else None
        return len(generator.submissions) - before, kl

    async def body() -> None:
        assert await measured(None) == (2, None), "at temperatures 1 and 0"
        assert await measured(None) == (0, None)
        count, kl = await measured(Scorer())
        assert count == 1 and kl is not None and kl > 0
        assert await measured(Scorer()) == (0, kl), "to the last bit"
        assert await measured(Scorer(), f"reference_path={load([]).policy.path}") == (0, kl), "the same reference"
        assert (await measured(Scorer(), f"reference_path={other_policy}"))[0] == 1
        assert await measured(None) == (0, None)

    run(body())


def test_the_monitor_samples_held_out_answers_in_a_way_of_its_own(tmp_path: Path) -> None:
    async def body() -> None:
        generator, scored = ScriptedGenerator(at_once=True), LocalReference(None)  # type: ignore[arg-type]
        own = (
            "monitor.sampling={temperature: 0, top_k: 7, min_p: 0.1, max_new_tokens: 99}",
            "monitor.kl_to_base=false",
        )
        settings = (*own, f"runs={tmp_path}", "monitor.frontier=[0.5]", "sampling.max_new_tokens=5")
        async with Rollouts([generator], [solves(0)], 20.0) as rollouts:
            summary, measurement = await Monitor(heldout(rollouts, *settings), scored, tmp_path).measure(0)
        jobs = [jobs[0] for jobs in generator.submissions]
        assert [(job.temperature, len(job.seeds)) for job in jobs] == [(0.0, 1), (0.5, 2)]
        assert {(job.top_p, job.top_k, job.min_p, job.max_new_tokens) for job in jobs} == {(1.0, 7, 0.1, 99)}
        assert (measurement.temperature, measurement.answers) == (0.0, 2), "the greedy answer counts for both"
        assert summary["pass@2"].value == pytest.approx(1 / 3)
        assert "kl_to_base" not in summary, "greedy answers are not samples of the policy"

    run(body())


def test_ungraded_answers_of_a_colder_base_are_reported_and_its_measurement_is_not_cached(tmp_path: Path) -> None:
    async def body() -> None:
        failing = ScriptedGrader(lambda task: Grade(reward=None, status="grader_error"))
        for _ in range(2):
            generator = ScriptedGenerator(at_once=True)
            async with Rollouts([generator], [failing], 20.0) as rollouts:
                monitor = Monitor(heldout(rollouts, f"runs={tmp_path}", "monitor.frontier=[0.5]"), None, tmp_path)
                await monitor.measure(0)
            assert len(generator.submissions) == 2
            assert [len(group.trajectories) for group in monitor.ungraded] == [2] * 6

    run(body())


def test_a_run_without_all_colder_measurements_is_not_placed(tmp_path: Path) -> None:
    async def body() -> None:
        async with Rollouts([ScriptedGenerator(at_once=True)], [solves(0)], 20.0) as rollouts:
            monitor = Monitor(heldout(rollouts, f"runs={tmp_path}"), None, tmp_path / "run")
            _, measurement = await monitor.measure(0)
            measurement_path(tmp_path / "run", 0).write_text(measurement.to_json())
            assert "beyond_sharpening/pass@2" in (await monitor.measure(1))[0]
            base_path(tmp_path / "run", 0.3).unlink()
            undefined = (await monitor.measure(2))[0]["beyond_sharpening/pass@2"]
            assert math.isnan(undefined.value) and undefined.prompts == 0
            assert monitor.alert.startswith("a measurement of the base at monitor.frontier is missing")
            assert fired_rule(["beyond_sharpening/pass@2 < 0"], {"beyond_sharpening/pass@2": undefined.value}) is None
            await monitor.measure(3)
            assert monitor.alert == "", "the user is told once"

    run(body())


def test_the_kl_to_the_base_includes_ungraded_answers(tiny_policy: Path) -> None:
    def answer(index: int, reward: float | None) -> Trajectory:
        tokens = np.array([5, 6, 70 + index, 80, 90], dtype=np.int32)
        return Trajectory(
            prompt_id="toy/0",
            sample_index=index,
            tokens=tokens,
            mask=np.array([False, False, True, True, True]),
            logp_sampler=np.zeros(5, dtype=np.float32),
            first_version=0,
            last_version=0,
            finish_reason="length",
            seed=index,
            text="",
            grade=Grade(reward=reward, status="wrong" if reward is not None else "grader_error"),
        )

    def scores(*answers: Trajectory) -> list[Any]:
        groups = asyncio.run(score_by_base([Group(prompt=prompt(0), trajectories=answers)], base))
        return [t.logp_reference for group in groups for t in group.trajectories]

    base = LocalReference(
        References(
            {"reference": {str(tiny_policy): 1.0}},
            config=LearnerConfig(),
            dtype="float32",
            temperature=1.0,
            device="cpu",
        )
    )
    graded, ungraded = scores(answer(0, 0.0), answer(1, None))
    again = scores(answer(0, 0.0), replace(answer(1, None), grade=Grade(reward=0.0, status="wrong")))
    assert (ungraded[2:] < 0).all() and (ungraded[:2] == 0).all()
    np.testing.assert_array_equal(ungraded, again[1])
    np.testing.assert_array_equal(graded, again[0])
