"""Distillation with the real roles: a teacher on explored and rehearsed answers, and TIP's selection of tokens."""

import asyncio
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import end_to_end, merge_columns, plan_scores, plan_updates, with_columns
from actors.local import LocalReference
from actors.policy_files.reading import load_model
from actors.reference import References
from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.diagnostics import means
from orchestrator.references import Anchors
from tests.actors.learning.learner_ranks import config_of, joined
from tests.actors.logits_records import LogitsRecords
from tests.actors.random_batch import credited, logits_megabytes, random_batch
from trajectories.batch import Batch

TEMPERATURE = 0.7


def objective_of(preset: str) -> ObjectiveConfig:
    return load([f"method={preset}"]).objective


def learner_of(policy: Path, teacher: Path, objective: ObjectiveConfig, **choices: object) -> FsdpLearner:
    references = {"teacher": {str(teacher): 1.0}}
    return joined(
        str(policy), objective=objective, references=references, config=config_of(max_grad_norm=1e9, **choices)
    )


def scored_by_teacher(
    teacher: Path, objective: ObjectiveConfig, batch: Batch | None = None, **choices: object
) -> Batch:
    """`batch`, or one with two rehearsed answers, scored by the teacher."""
    role = References(
        {"reference": {str(teacher): 1.0}, "teacher": {str(teacher): 1.0}},
        config=config_of(**choices),
        dtype="float32",
        temperature=TEMPERATURE,
        device="cpu",
    )
    return asyncio.run(Anchors(LocalReference(role), objective).score(batch or random_batch(rehearsed=2)))


def scored(batch: Batch, learner: FsdpLearner, ranks: int) -> Batch:
    divided, parts = plan_scores(batch, learner.config, ranks)
    return with_columns(batch, merge_columns(batch, divided, [end_to_end(learner.score(mine)) for mine in parts]))


def log_probs(model: torch.nn.Module, batch: Batch) -> Tensor:
    """[N, V]: one plain forward for each answer."""
    rows = []
    for answer in batch.tokens.split(batch.lengths.tolist()):
        logits = model(input_ids=answer[None], use_cache=False).logits[0]
        rows.append(torch.cat([logits.new_zeros(1, logits.shape[-1]), logits[:-1]]))
    return (torch.cat(rows) / TEMPERATURE).log_softmax(-1)


def both(policy: Path, teacher: Path, batch: Batch) -> tuple[torch.nn.Module, Tensor, Tensor]:
    model = load_model(str(policy))
    with torch.no_grad():
        target = log_probs(load_model(str(teacher)), batch)
    return model, log_probs(model, batch), target


def assert_gradient(learner: FsdpLearner, model: torch.nn.Module, loss: Tensor) -> None:
    loss.backward()
    expected = dict(model.named_parameters())
    for name, parameter in learner.policy.model.named_parameters():
        gradient = expected[name].grad
        assert gradient is not None and parameter.grad is not None
        atol = 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("preset", ["gkd", "distillm"])
def test_the_student_learns_from_the_teacher_on_explored_and_rehearsed_answers(
    tiny_policy: Path, other_policy: Path, preset: str
) -> None:
    objective = objective_of(preset)
    learner = learner_of(tiny_policy, other_policy, objective)
    batch = credited(scored_by_teacher(other_policy, objective), objective, 0.5)
    coefficients = {"divergence": 0.25, "data": 0.75}
    stats = means(learner.update(plan_updates(batch, learner.config, 1)[0], coefficients))

    model, student, teacher = both(tiny_policy, other_policy, batch)
    teacher_weight = 0.5 if preset == "gkd" else 0.1
    mixture = (teacher_weight * teacher.exp() + (1 - teacher_weight) * student.exp()).log()
    values = (teacher.exp() * (teacher - mixture)).sum(-1)
    if preset == "gkd":
        values = 0.5 * values + 0.5 * (student.exp() * (student - mixture)).sum(-1)
    explored, rehearsed = (values[batch.on_route(route)].mean() for route in ("explore", "rehearse"))
    assert stats["terms/divergence/value"] == pytest.approx(explored.item(), rel=1e-4)
    assert stats["terms/data/value"] == pytest.approx(rehearsed.item(), rel=1e-4)
    assert stats["policy_loss"] == 0
    assert_gradient(learner, model, 0.25 * explored + 0.75 * rehearsed)


def test_tip_trains_on_the_tokens_it_selected_and_selects_the_same_ones_however_the_batch_is_split(
    tiny_policy: Path, other_policy: Path
) -> None:
    objective = objective_of("tip")
    learner = learner_of(tiny_policy, other_policy, objective)
    from_teacher = scored_by_teacher(other_policy, objective)
    batch = scored(from_teacher, learner, 1)
    model, student, teacher = both(tiny_policy, other_policy, batch)
    explored = batch.on_route("explore")
    distance = (student.exp() * (student - teacher)).sum(-1)
    torch.testing.assert_close(
        batch.distance["divergence"][explored], distance[explored].detach(), rtol=1e-4, atol=1e-5
    )

    batch = credited(batch, objective, 1.0)
    kept = batch.term_weights["divergence"] > 0
    for choices in (
        {"token_budget": 1},
        {"token_budget": 10_000, "logits_megabytes": logits_megabytes(3)},
        {"layout": "pack"},
        {"layout": "varlen"},
    ):
        otherwise = learner_of(tiny_policy, other_policy, objective, **choices)
        for ranks in (1, 2):
            found = credited(scored(from_teacher, otherwise, ranks), objective, 1.0)
            assert torch.equal(found.term_weights["divergence"] > 0, kept)
    lengths = torch.bincount(batch.seq[explored])
    assert torch.bincount(batch.seq[kept], minlength=len(lengths)).tolist() == (lengths // 2).tolist()

    stats = means(learner.update(plan_updates(batch, learner.config, 1)[0], {"divergence": 1.0}))
    assert stats["terms/divergence/value"] == pytest.approx(distance[explored].mean().item(), rel=1e-4)
    assert stats["terms/divergence/kept"] == pytest.approx(kept.sum().item() / explored.sum().item())
    assert_gradient(learner, model, distance[kept].mean())


@pytest.mark.parametrize("preset", ["gkd", "tip", "bd_kd", "pld"])
def test_logits_of_student_and_teacher_exist_for_a_chunk_at_a_time(
    tiny_policy: Path, other_policy: Path, preset: str
) -> None:
    objective = objective_of(preset)
    chunk, config = 32, {"token_budget": 10_000, "logits_megabytes": logits_megabytes(32)}
    learner = learner_of(tiny_policy, other_policy, objective, **config)
    longer = random_batch(((5, 60), (5, 60), (5, 60), (5, 60)), rehearsed=2)
    vocabulary = learner.policy.model.config.vocab_size
    with LogitsRecords(vocabulary, learner.policy.width) as logits:
        batch = scored_by_teacher(other_policy, objective, longer, **config)
        batch = credited(scored(batch, learner, 1), objective, 0.5)
        learner.update(plan_updates(batch, learner.config, 1)[0], dict.fromkeys(objective.terms, 0.5))
    assert logits.largest == chunk
    assert int(batch.mask.sum()) == 240
