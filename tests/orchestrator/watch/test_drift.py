"""The KL of a step's update: its value by hand, its alert, and a run whose learning rate is far too high."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.learning.learner import FsdpLearner
from actors.local import LocalLearner
from configs.config import Config
from orchestrator.watch.drift import ANSWERS, Drift
from tests.actors.random_batch import random_batch, untrained
from tests.orchestrator.in_process import config
from tests.orchestrator.test_critic_run import train
from trajectories.batch import Batch


@pytest.fixture(scope="module")
def learner(tiny_policy: Path) -> LocalLearner:
    cfg = Config()
    made = FsdpLearner(
        str(tiny_policy), config=cfg.learner, objective=cfg.objective, dtype="float32", temperature=1.0, total_steps=1
    )
    made.join()
    return LocalLearner(made, checksum=False)


def moved_by(learner: LocalLearner, batch: Batch, log_ratio: float) -> Batch:
    """The batch as if a policy had sampled it whose log-probs are lower by `log_ratio` than the learner's."""
    scored = asyncio.run(learner.score(batch))
    assert scored.logp_old is not None
    return replace(batch, logp_sampler=torch.where(batch.mask, scored.logp_old - log_ratio, 0.0))


def drift(learner: LocalLearner, alerts: list[tuple[str, str]], *overrides: str) -> Drift:
    cfg = config(Path("nowhere"), Path("nowhere"), *overrides)
    return Drift(cfg, learner, lambda title, text: alerts.append((title, text)))


def measured(of: Drift, batch: Batch) -> dict[str, float]:
    of.keep(batch)
    return asyncio.run(of.measure())


def test_the_kl_is_the_mean_of_k3_over_tokens_and_its_sum_over_an_answer(learner: LocalLearner) -> None:
    batch = random_batch([(3, 4)] * 17)
    values = measured(drift(learner, []), moved_by(learner, batch, 0.5))
    k3 = 1.648721 - 1 - 0.5  # r - 1 - log r at r = e^0.5
    assert values["kl_update"] == pytest.approx(k3, abs=1e-5)
    assert values["kl_update_per_trajectory"] == pytest.approx(k3 * int(batch.mask.sum()) / len(batch.route), rel=1e-4)
    assert measured(drift(learner, []), moved_by(learner, batch, 0.0))["kl_update"] == pytest.approx(0, abs=1e-9)


def test_the_tokens_of_a_mixture_are_weighed_and_compared_with_the_policy_before_the_update(
    learner: LocalLearner,
) -> None:
    batch = random_batch([(3, 4)] * 17)
    before = moved_by(learner, batch, 0.5).logp_sampler
    mixed = replace(batch, logp_old=before, logp_sampler=torch.where(batch.mask, before - 0.1, 0.0))
    values = measured(drift(learner, [], "method=minillm", "sampling.mixed_with=teacher"), mixed)
    assert values["kl_update"] == pytest.approx(1.105171 * (1.648721 - 1 - 0.5), abs=1e-5)  # e^.1 (r - 1 - log r)


def test_only_explored_and_graded_answers_count_and_at_most_a_few_are_scored(learner: LocalLearner) -> None:
    of = drift(learner, [])
    for explored, kept in ((160, 20), (9, 2), (1, 1), (1000, 32)):
        of.keep(random_batch([(3, 4)] * (explored + 40), rehearsed=40))
        assert of._answers is not None and len(of._answers.route) == kept <= ANSWERS
        assert set(of._answers.route.tolist()) == {0}
    assert measured(of, untrained(random_batch())) == {}


@pytest.mark.parametrize(
    ("prompts", "size", "answers", "of_prompts"), [(8, 8, 8, 4), (32, 16, 32, 4), (2, 16, 4, 2), (64, 2, 16, 8)]
)
def test_the_answers_that_count_are_spread_over_a_few_prompts(
    learner: LocalLearner, prompts: int, size: int, answers: int, of_prompts: int
) -> None:
    of, batch = drift(learner, []), random_batch([(3, 4)] * (prompts * size))
    of.keep(replace(batch, group=torch.arange(prompts).repeat_interleave(size)))
    assert of._answers is not None
    counts = of._answers.group.bincount(minlength=prompts)
    assert (len(of._answers.route), int((counts > 0).sum())) == (answers, of_prompts)
    assert set(counts.tolist()) == {0, answers // of_prompts} or of_prompts == prompts


def test_an_alert_has_the_number_and_what_to_lower_and_is_repeated_only_when_the_kl_doubles(
    learner: LocalLearner,
) -> None:
    alerts: list[tuple[str, str]] = []
    of = drift(learner, alerts, "method=dph_f", "learner.learning_rate=3e-3")
    found = []
    for log_ratio in (0.5, 1.0, 1.1, 2.0):  # k3 of 0.149, 0.718, 0.904 and 4.389, at 10 tokens per answer
        measured(of, moved_by(learner, random_batch([(3, 10)] * 4), log_ratio))
        found.append(len(alerts))
    assert found == [0, 1, 1, 2]
    title, text = alerts[0]
    assert title == "kl_update" and text.startswith("the policy moved 7.2 nats per answer (0.72 per token) ")
    assert text.endswith("lower learner.learning_rate (0.003) or the coefficients of the divergence terms")


def test_a_run_with_far_too_high_a_learning_rate_is_told_so_in_its_first_step(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # the grader's workers import toy_verifiers
    chosen = ("task.verifier=toy_verifiers:even", "steps=1", "logbook.console=true")
    [low] = train(tiny_policy, tmp_path, "name=low", "learner.learning_rate=1e-6", *chosen)
    assert low["kl_update_per_trajectory"] < 1e-3 and alerts(tmp_path / "low") == []
    [high] = train(tiny_policy, tmp_path, "name=high", "learner.learning_rate=0.1", *chosen)
    assert high["kl_update_per_trajectory"] > 5 and alerts(tmp_path / "high") == ["kl_update"]


def alerts(run_dir: Path) -> list[str]:
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [event["title"] for event in events if event["level"] == "alert"]
