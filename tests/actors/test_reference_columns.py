"""Columns of a reference (certainty, reweighted log-probs), for any split of the batch and any number of actors."""

import asyncio
import math
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.batch_shells import ReferenceShell
from actors.contracts import Column
from actors.learning.rank_parts import plan_updates
from actors.local import LocalReference
from actors.policy_files.reading import load_model
from actors.reference import References
from actors.remote_reference import RemoteReference
from configs.coefficient import CoefficientConfig
from configs.load import load
from configs.objective import ObjectiveConfig
from configs.term_weights import TermWeightsConfig
from configs.terms import TermConfig
from objectives.diagnostics import means
from orchestrator.references import Anchors, columns
from tasks.characters import VOCABULARY_SIZE
from tests.actors.learning.learner_ranks import config_of, joined
from tests.actors.random_batch import credited, logits_megabytes, random_batch
from trajectories.batch import Batch

TEMPERATURE = 0.7
CERTAIN = Column(term="divergence", reference="reference", kind="certainty")
REWEIGHTED = Column(term="rapo", reference="reference", kind="reweighted")


def references(policy: Path, *, layout: str = "pad", token_budget: int = 45, **more: Path) -> References:
    named = {name: {str(path): 1.0} for name, path in {"reference": policy, **more}.items()}
    config = config_of(layout=layout, token_budget=token_budget)
    return References(named, config=config, dtype="float32", temperature=TEMPERATURE, device="cpu")


def with_power(batch: Batch, term: str = "rapo") -> Batch:
    phi = torch.linspace(0, 1, len(batch.route))
    return replace(batch, power={term: phi[batch.seq]})


def logits_of(policy: Path, batch: Batch) -> Tensor:
    """[N, V] in which row n predicts token n, unscaled: one plain forward for each answer."""
    model, rows = load_model(str(policy)), []
    with torch.no_grad():
        for answer in batch.tokens.split(batch.lengths.tolist()):
            logits = model(input_ids=answer[None], use_cache=False).logits[0]
            rows.append(torch.cat([logits.new_zeros(1, logits.shape[-1]), logits[:-1]]))
    return torch.cat(rows)


def certainty_by_hand(logits: Tensor, kind: str) -> Tensor:
    p = logits.double().softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    size = math.log(VOCABULARY_SIZE)
    found = {"negentropy": 1 - entropy / size, "negentropy_max": 1 + p.amax(-1).log() / size, "max_prob": p.amax(-1)}
    return found[kind].float()


@pytest.mark.parametrize("layout", ["pad", "varlen", "pack"])
@pytest.mark.parametrize("token_budget", [1, 45, 4_000])
def test_columns_are_computed_from_the_full_distributions(tiny_policy: Path, layout: str, token_budget: int) -> None:
    batch = with_power(random_batch(rehearsed=2))
    role = references(tiny_policy, layout=layout, token_budget=token_budget)
    scored = role.score(batch, ["reference"], [], [CERTAIN, REWEIGHTED])
    logits, trained = logits_of(tiny_policy, batch) / TEMPERATURE, batch.on_route("explore")
    expected = certainty_by_hand(logits, "negentropy")
    torch.testing.assert_close(scored.certainty["divergence"][trained], expected[trained], rtol=0, atol=1e-5)
    powered = (logits * batch.power["rapo"][:, None]).log_softmax(-1)
    expected = powered.gather(-1, batch.tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(scored.reweighted["rapo"][trained], expected[trained], rtol=0, atol=1e-4)
    plain = role.score(batch)
    assert plain.logp_reference is not None and scored.logp_reference is not None
    torch.testing.assert_close(scored.logp_reference, plain.logp_reference, rtol=1e-6, atol=0, equal_nan=True)
    assert not plain.certainty and not plain.reweighted and not batch.certainty


@pytest.mark.parametrize("kind", ["negentropy", "negentropy_max", "max_prob"])
@pytest.mark.parametrize("temperature", [0.0, 4.0])
def test_certainty_is_computed_at_its_own_temperature_or_at_the_sampling_temperature(
    tiny_policy: Path, kind: Any, temperature: float
) -> None:
    batch = random_batch()
    column = replace(CERTAIN, certainty=kind, temperature=temperature)
    found = references(tiny_policy).score(batch, ["reference"], [], [column]).certainty["divergence"]
    expected = certainty_by_hand(logits_of(tiny_policy, batch) / (temperature or TEMPERATURE), kind)
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], rtol=0, atol=1e-5)
    assert found[batch.mask].min() >= 0 and found[batch.mask].max() <= 1


def test_a_power_of_1_gives_the_anchor_and_0_the_uniform_distribution(tiny_policy: Path) -> None:
    batch = random_batch()
    role = references(tiny_policy)

    def reweighted(phi: float) -> Batch:
        powered = replace(batch, power={"rapo": torch.full((len(batch.tokens),), phi)})
        return role.score(powered, ["reference"], [], [REWEIGHTED])

    plain = reweighted(1.0)
    assert plain.logp_reference is not None
    torch.testing.assert_close(plain.reweighted["rapo"], plain.logp_reference, rtol=1e-6, atol=1e-6)
    flat = reweighted(0.0).reweighted["rapo"][batch.mask]
    torch.testing.assert_close(flat, torch.full_like(flat, -math.log(VOCABULARY_SIZE)))


def test_rehearsed_answers_get_no_columns_and_keep_their_stored_log_probs(tiny_policy: Path) -> None:
    batch = with_power(random_batch(rehearsed=3))
    for hidden in ((), ("reference",)):
        scored = references(tiny_policy).score(batch, ["reference"], hidden, [CERTAIN, REWEIGHTED])
        rehearsed = (batch.group < 0)[batch.seq]
        for column in (scored.certainty["divergence"], scored.reweighted["rapo"]):
            assert column[rehearsed].isnan().all()
            assert not column[~rehearsed].isnan().any()
        assert scored.logp_reference is not None and batch.logp_reference is not None
        assert torch.equal(scored.logp_reference[rehearsed], batch.logp_reference[rehearsed])


def test_an_activation_is_the_mean_of_the_hidden_state_that_predicts_the_token(tiny_policy: Path) -> None:
    batch, column = random_batch(rehearsed=2), Column(term="reference", reference="reference", kind="activation")
    alone = references(tiny_policy).score(batch, ["reference"], [], [column])
    beside = references(tiny_policy).score(batch, ["reference"], ["reference"], [CERTAIN, column])
    compared = batch.mask & (batch.group >= 0)[batch.seq]
    mean = beside.hidden["reference"].float().mean(-1)[compared]
    for scored in (alone, beside):
        torch.testing.assert_close(scored.activation["reference"][compared], mean, rtol=0, atol=1e-6)
    assert not alone.hidden and mean.std() > 0.01


def test_every_term_gets_columns_of_its_own_anchor(tiny_policy: Path, other_policy: Path) -> None:
    batch = random_batch()
    request = [CERTAIN, replace(CERTAIN, term="second", reference="teacher")]
    found = references(tiny_policy, teacher=other_policy).score(batch, ["reference", "teacher"], [], request)
    for term, policy in (("divergence", tiny_policy), ("second", other_policy)):
        expected = certainty_by_hand(logits_of(policy, batch) / TEMPERATURE, "negentropy")
        torch.testing.assert_close(found.certainty[term][batch.mask], expected[batch.mask], rtol=0, atol=1e-5)
    assert set(found.anchors) == {"teacher"}


class InProcessHandle:
    """In place of a `Handle`: calls the role in this process, through its shell and with a copy of what is sent."""

    def __init__(self, role: References) -> None:
        self.shell = ReferenceShell("", "", {})
        self.shell.role = role
        self.batches: list[Batch] = []
        self.loaded = False

    async def started(self, timeout_s: float) -> float:
        await asyncio.sleep(0.01)
        self.loaded = True
        return 0.01

    async def call_stored(self, method: str, *arguments: Any) -> Any:
        assert self.loaded, f"{method} before the policies are loaded"
        self.batches.append(arguments[0])
        return pickle.loads(pickle.dumps(await self.shell.call(method, *pickle.loads(pickle.dumps(arguments)))))


def assert_same(found: Batch, expected: Batch) -> None:
    for name in (f.name for f in fields(Batch)):
        one, two = getattr(found, name), getattr(expected, name)
        if isinstance(one, dict):
            assert one.keys() == two.keys(), name
        for key in one if isinstance(one, dict) else [None]:
            a, b = (one, two) if key is None else (one[key], two[key])
            if isinstance(a, Tensor):
                # Microbatches differ, and with them the last bits of a matrix product.
                torch.testing.assert_close(a, b, rtol=0, atol=2e-5, equal_nan=True, msg=f"{name} {key}")
            else:
                assert a == b, name


@pytest.mark.parametrize("actors", [1, 3, 9])
def test_remote_and_local_references_return_what_the_plain_class_returns(tiny_policy: Path, actors: int) -> None:
    batch, role = with_power(random_batch(rehearsed=2)), references(tiny_policy)
    request = (["reference"], ["reference"], [CERTAIN, REWEIGHTED])
    expected = role.score(batch, *request)
    assert_same(asyncio.run(LocalReference(role).score(batch, *request)), expected)
    remote = RemoteReference([InProcessHandle(role) for _ in range(actors)], 5.0)  # type: ignore[misc]
    assert_same(asyncio.run(remote.score(batch, *request)), expected)


# Columns that an objective needs.

BOTH = ObjectiveConfig(
    terms={
        "divergence": TermConfig(
            name="forward_kl",
            estimator="straight_through",
            reweight="pass_rate",
            reweight_floor=0.2,
            weights=TermWeightsConfig(certainty_power=1.5, certainty="negentropy_max", certainty_temperature=0.5),
            coefficient=CoefficientConfig(value=0.5),
        )
    }
)


def rewarded(batch: Batch) -> Batch:
    """The batch in which the first answer of every pair is correct."""
    explored = batch.group >= 0
    return replace(batch, reward=torch.where(explored, (torch.arange(len(batch.group)) % 2 == 0).float(), torch.nan))


def test_columns_are_requested_for_the_terms_that_need_them_and_no_others() -> None:
    assert columns(BOTH) == [
        Column(term="divergence", reference="reference", kind="reweighted"),
        Column(term="divergence", reference="reference", kind="certainty", certainty="negentropy_max", temperature=0.5),
    ]
    assert columns(load(["method=grpo_adaptive_kl"]).objective) == []
    anchored = replace(BOTH, terms={"divergence": replace(BOTH.terms["divergence"], anchor="teacher")})
    assert {column.reference for column in columns(anchored)} == {"teacher"}


def test_pass_rates_are_computed_before_the_batch_is_split_over_actors(tiny_policy: Path) -> None:
    batch, role = rewarded(random_batch(rehearsed=1)), references(tiny_policy)
    handles = [InProcessHandle(role) for _ in range(2)]
    found = asyncio.run(Anchors(RemoteReference(handles, 5.0), BOTH).score(batch))  # type: ignore[arg-type]
    # The first actor scores the first answer of every pair, and all of these are correct.
    assert {float(r) for r in handles[0].batches[0].reward if not r.isnan()} == {1.0}
    assert_same(found, asyncio.run(Anchors(LocalReference(role), BOTH).score(batch)))
    phi = found.power["divergence"]
    assert phi[batch.on_route("explore")].tolist() == pytest.approx(
        [0.2 + 0.8 * 0.5] * int(batch.totals["explore"].tokens)
    )
    assert set(phi[batch.on_route("rehearse")].tolist()) == {1.0}


def scored_by(reference: Path, objective: ObjectiveConfig) -> Batch:
    role = LocalReference(references(reference))
    batch = asyncio.run(Anchors(role, objective).score(rewarded(random_batch(rehearsed=2))))
    return credited(batch, objective, 0.5)


def update(
    policy: Path, batch: Batch, objective: ObjectiveConfig, **choices: Any
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients of one update."""
    learner = joined(str(policy), objective=objective, config=config_of(max_grad_norm=1e9, **choices))
    [parts] = plan_updates(batch, learner.config, 1)
    stats = means(learner.update(parts, dict.fromkeys(objective.terms, 0.5)))
    return stats, {name: p.grad.clone() for name, p in learner.policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("preset", ["rapo", "prioritised_kl", "both"])
def test_an_update_does_not_depend_on_microbatches_chunks_or_layout(
    tiny_policy: Path, other_policy: Path, preset: str
) -> None:
    # With the preset's power, 150, the weights of a random policy would all be 0.
    power = ["objective.terms.divergence.weights.certainty_power=2"] if preset == "prioritised_kl" else []
    objective = BOTH if preset == "both" else load([f"method={preset}", *power]).objective
    # With another policy as the anchor, the importance-weighted forward KL on explored answers would be all noise.
    batch = scored_by(other_policy if preset == "prioritised_kl" else tiny_policy, objective)
    whole = update(tiny_policy, batch, objective, token_budget=10_000, logits_megabytes=logits_megabytes(1000))
    for choices in (
        {"token_budget": 1},
        {"token_budget": 45, "logits_megabytes": logits_megabytes(3)},
        {"layout": "pack"},
        {"layout": "varlen"},
    ):
        stats, gradients = update(tiny_policy, batch, objective, **choices)
        assert stats == pytest.approx(whole[0], rel=1e-3, abs=1e-4)
        for name, gradient in whole[1].items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    assert whole[0]["terms/divergence/value"] > 0.1
    assert whole[0].get("terms/divergence/weight", 1.0) > 0.01


def exact(**choices: Any) -> ObjectiveConfig:
    coefficient = CoefficientConfig(value=0.5)
    term = TermConfig(name="forward_kl", wiring="vocabulary", estimator="exact", coefficient=coefficient, **choices)
    return ObjectiveConfig(terms={"divergence": term})


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_an_exact_divergence_uses_the_reweighted_distributions(
    tiny_policy: Path, other_policy: Path, floor: float
) -> None:
    objective = exact(reweight="reward", reweight_floor=floor)
    role = LocalReference(references(other_policy))
    batch = credited(asyncio.run(Anchors(role, objective).score(rewarded(random_batch(rehearsed=2)))), objective, 0.5)
    learner = joined(str(tiny_policy), objective=objective, references={"reference": {str(other_policy): 1.0}})
    stats = means(learner.update(plan_updates(batch, learner.config, 1)[0], {"divergence": 0.5}))
    logp, anchor = (logits_of(path, batch) / TEMPERATURE for path in (tiny_policy, other_policy))
    logp, anchor = logp.log_softmax(-1), (anchor * batch.power["divergence"][:, None]).log_softmax(-1)
    forward_kl = (anchor.exp() * (anchor - logp)).sum(-1)[batch.on_route("explore")]
    assert stats["terms/divergence/value"] == pytest.approx(float(forward_kl.mean()), rel=1e-3)


def test_the_divergence_from_the_policy_itself_is_positive_if_reweighted_and_0_with_a_floor_of_1(
    tiny_policy: Path,
) -> None:
    plain = replace(BOTH.terms["divergence"], weights=TermWeightsConfig(), reweight="reward")
    found = []
    for floor in (0.0, 1.0):
        objective = ObjectiveConfig(terms={"divergence": replace(plain, reweight_floor=floor)})
        found.append(update(tiny_policy, scored_by(tiny_policy, objective), objective)[0])
    assert found[0]["terms/divergence/value"] > 0.1
    assert found[1]["terms/divergence/value"] == pytest.approx(0, abs=1e-6)
    assert found[0]["kl_reference"] == found[1]["kl_reference"]
