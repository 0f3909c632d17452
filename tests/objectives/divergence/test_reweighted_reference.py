"""RAPO's reference, flattened by the reward: its power, its log-probs, and the gradient of the forward KL to it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from configs.terms import TermConfig
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.distributions import powered_logps
from objectives.divergence.reweighted_reference import reference_power
from tests.objectives.divergence_settings import POLICY, REFERENCE, in_tenths, kl
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of
from tests.objectives.random_answers import batch_for, credited, run, weights
from trajectories.batch import Batch

BETA = 0.5


def reweighted(**choices: object) -> TermConfig:
    return divergence("forward_kl", **{"estimator": "straight_through", "reweight": "reward", **choices})


def powers(rewards: list[float | None], **choices: object) -> list[float]:
    batch = make_batch([("explore", 0, r, [1]) for r in rewards])
    return reference_power(batch, reweighted(**choices)).tolist()


def test_the_power_rises_from_the_floor_to_1_with_the_reward() -> None:
    assert powers([0.0, 0.5, 1.0]) == [0.5, 0.75, 1.0]
    assert powers([0.0, 0.5, 1.0], reweight_floor=0.0) == [0.0, 0.5, 1.0]
    assert powers([0.0, 1.0], reweight_floor=1.0) == [1.0, 1.0]
    assert powers([-1.0, 3.0]) == [0.5, 1.0], "the reward is clamped to [0, 1]"


def test_the_power_may_follow_the_pass_rate_of_the_group_instead() -> None:
    # One of four is correct; a reward of 0.5 is not.
    assert powers([1.0, 0.5, 0.0, 0.0], reweight="pass_rate") == [0.625] * 4
    assert powers([1.0, 0.5, 0.0, 0.0], reweight="pass_rate", reweight_floor=0.0) == [0.25] * 4
    assert powers([1.0, None, 0.0], reweight="pass_rate", reweight_floor=0.0) == [0.5, 1.0, 0.5]
    two = make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 1, 1.0, [4])])
    assert reference_power(two, reweighted(reweight="pass_rate")).tolist() == [0.75, 0.75, 0.75, 1.0]


@pytest.mark.parametrize("by", ["reward", "pass_rate"])
def test_on_answers_without_a_reward_the_power_is_1(by: str) -> None:
    batch = make_batch([("explore", 0, 0.0, [1]), ("explore", 0, None, [2]), ("rehearse", -1, None, [3])])
    assert reference_power(batch, reweighted(reweight=by)).tolist() == [0.5, 1.0, 1.0]


def to_the_power(phi: float, reference: Tensor = REFERENCE) -> Tensor:
    """Return reference^phi / Z, computed without logits."""
    return reference**phi / (reference**phi).sum()


def test_the_reweighted_reference_has_the_numbers_computed_by_hand() -> None:
    # sqrt(.5, .3, .2) = (.70711, .54772, .44721), whose sum is 1.70204
    logits = REFERENCE.log().expand(3, 3) + 7  # a constant on all logits changes nothing
    found = powered_logps(logits, torch.arange(3), torch.full((3,), 0.5, dtype=torch.float64)).exp()
    assert found.tolist() == pytest.approx([0.41545, 0.32180, 0.26275], abs=1e-5)
    torch.testing.assert_close(found, to_the_power(0.5))


def test_a_power_of_1_is_the_reference_bit_for_bit_and_a_power_of_0_is_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(40, 300, generator=generator) * 5, torch.randint(0, 300, (40,), generator=generator)
    plain = torch.log_softmax(logits, -1).gather(-1, targets[:, None]).squeeze(-1)
    assert torch.equal(powered_logps(logits, targets, torch.ones(40)), plain)
    flat = powered_logps(logits, targets, torch.zeros(40))
    torch.testing.assert_close(flat, torch.full((40,), -math.log(300)))


def batch_of(tokens: list[int], rewards: list[float], targets: list[Tensor]) -> Batch:
    """Return one-token answers sampled from POLICY, each with the target of its reward."""
    batch = make_batch(
        [("explore", 0, reward, [token]) for token, reward in zip(tokens, rewards, strict=True)],
        logp_sampler=POLICY.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    logps = torch.stack([target.log()[token] for token, target in zip(tokens, targets, strict=True)])
    return replace(batch, reweighted={"divergence": logps})


def whole(term: TermConfig) -> ObjectiveConfig:
    return objective(terms={"divergence": term}, advantage="mean_only", clip=ClipConfig(kind="none"))


def gradient(term: TermConfig, batch: Batch, policy: Tensor = POLICY) -> Tensor:
    """Return the gradient of the term alone by the logits of the policy: the loss is linear in the coefficient."""
    logits = policy.log().requires_grad_()
    logp = logits.log_softmax(0)[batch.tokens]
    losses = [
        loss_of(logp, credit(batch, whole(term), state_of(coefficient)), whole(term), coefficient)[0]
        for coefficient in (BETA, 0.0)
    ]
    return torch.autograd.grad(losses[0] - losses[1], logits)[0] / BETA


UNBIASED = (
    {},
    {"estimator": "ratio_weighted"},
    {"wiring": "reward", "estimator": "k1"},
    {"wiring": "joint", "estimator": "k1"},
)


@pytest.mark.parametrize("choices", UNBIASED)
@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (1.0, [0.7 - 0.5, 0.2 - 0.3, 0.1 - 0.2]),  # the unmodified forward KL
        (0.5, [0.7 - 0.41545, 0.2 - 0.32180, 0.1 - 0.26275]),
        (0.0, [0.7 - 1 / 3, 0.2 - 1 / 3, 0.1 - 1 / 3]),  # the uniform target
    ],
)
def test_the_gradient_by_the_logits_is_policy_minus_target(
    choices: dict[str, str], phi: float, expected: list[float]
) -> None:
    tokens = in_tenths(POLICY)
    batch = batch_of(tokens, [phi] * 10, [to_the_power(phi)] * 10)
    found = gradient(reweighted(reweight_floor=0.0, **choices), batch)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    logits = POLICY.log().requires_grad_()
    exact = torch.autograd.grad(kl(to_the_power(phi), logits.softmax(0)), logits)[0]
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=2e-7)


def test_the_naive_estimator_has_the_weight_minus_u_log_u_on_grad_log_pi() -> None:
    # u = target / policy = (.5 / .7, 1.5, 2): -u log u = (.24034, -.60820, -1.38629), mean -.09203 under the policy;
    # policy (w - mean w) = (.7 x .33237, .2 x -.51617, .1 x -1.29426)
    tokens = in_tenths(POLICY)
    plain = batch_of(tokens, [1.0] * 10, [REFERENCE] * 10)
    found = gradient(reweighted(estimator="naive"), plain)
    assert found.tolist() == pytest.approx([0.23266, -0.10323, -0.12943], abs=1e-5)
    for phi in (0.5, 0.0):
        target = to_the_power(phi)
        u = target / POLICY
        weight = -u * u.log()
        expected = POLICY * (weight - (POLICY * weight).sum())
        found = gradient(reweighted(estimator="naive"), batch_of(tokens, [phi] * 10, [target] * 10))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert (expected - (POLICY - target)).norm() > 0.05 * expected.norm(), "it is not the forward KL's"


def test_the_value_is_that_of_the_forward_kl_to_the_target() -> None:
    # u log u - u + 1 under the policy: 0.0920328 to (.5, .3, .2). To its square root, normalised:
    # .41545 log(.41545 / .7) + .32180 log(.32180 / .2) + .26275 log(.26275 / .1) = -.21674 + .15305 + .25383
    tokens = in_tenths(POLICY)
    for phi, expected in ((1.0, 0.0920328), (0.5, 0.19014)):
        batch = batch_of(tokens, [phi] * 10, [to_the_power(phi)] * 10)
        for estimator in ("straight_through", "naive"):
            cfg = whole(reweighted(estimator=estimator))
            _, stats = loss_of(POLICY.log()[tokens], credit(batch, cfg, state_of(BETA)), cfg, BETA)
            assert means({"d": tuple(stats["terms/divergence/value"].tolist())})["d"] == pytest.approx(
                expected, abs=1e-5
            )


def test_a_target_that_depends_on_the_sampled_token_is_approached_after_normalisation() -> None:
    # q(a) = reference(a)^phi(a) / Z_phi(a) does not sum to 1; the gradient is that of Q KL(q / Q || policy).
    rewards = [1.0, 0.0, 0.0]
    targets = [to_the_power(0.5 + 0.5 * r) for r in rewards]
    tokens = in_tenths(POLICY)
    batch = batch_of(tokens, [rewards[t] for t in tokens], [targets[t] for t in tokens])
    q = torch.stack([target[token] for token, target in enumerate(targets)])
    logits = POLICY.log().requires_grad_()
    exact = torch.autograd.grad(q.sum() * kl(q / q.sum(), logits.softmax(0)), logits)[0]
    for choices in UNBIASED:
        torch.testing.assert_close(gradient(reweighted(**choices), batch), exact, rtol=1e-5, atol=2e-7)
    assert float(q.sum()) == pytest.approx(0.5 + 0.32180 + 0.26275, abs=1e-5)


def test_on_answers_of_two_tokens_the_gradient_is_that_of_the_exact_expectation() -> None:
    first = POLICY
    second = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)
    tables = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], dtype=torch.float64)

    def phi(a: int, b: int) -> float:
        return 1.0 if (a + b) % 2 else 0.5

    answers = [
        (a, b)
        for a, b in itertools.product(range(3), repeat=2)
        for _ in range(round(100 * float(first[a] * second[a, b])))
    ]
    assert len(answers) == 100
    targets = [x for a, b in answers for x in (to_the_power(phi(a, b))[a], to_the_power(phi(a, b), tables[a])[b])]
    batch = make_batch(
        [("explore", 0, 2 * phi(a, b) - 1, [a, b]) for a, b in answers],
        logp_sampler=torch.tensor([x for a, b in answers for x in (first[a].log(), second[a, b].log())]),
        logp_reference=torch.zeros(200),
    )
    batch = replace(batch, reweighted={"divergence": torch.stack(targets).log()})
    logits = torch.cat([first[None], second]).log().requires_grad_()  # row 0: the first token; row 1 + a: after a
    logp = logits.log_softmax(-1)
    logp_of_answers = torch.stack([x for a, b in answers for x in (logp[0, a], logp[1 + a, b])])
    cfg = whole(reweighted())
    losses = [loss_of(logp_of_answers, credit(batch, cfg, state_of(c)), cfg, c)[0] for c in (BETA, 0.0)]
    found = torch.autograd.grad(losses[0] - losses[1], logits)[0] / BETA

    # Prefixes held fixed: of sum_s d(s) Q_s KL(q_s / Q_s || policy), q_s(y) the mean target of y over what may follow.
    leaf = torch.cat([first[None], second]).log().requires_grad_()
    rows = leaf.softmax(-1)
    of_first = torch.stack([sum(second[a, b] * to_the_power(phi(a, b))[a] for b in range(3)) for a in range(3)])
    exact = of_first.sum() * kl(of_first / of_first.sum(), rows[0])
    for a in range(3):
        q = torch.stack([to_the_power(phi(a, b), tables[a])[b] for b in range(3)])
        exact = exact + first[a] * q.sum() * kl(q / q.sum(), rows[1 + a])
    torch.testing.assert_close(found, torch.autograd.grad(exact / 2, leaf)[0], rtol=1e-5, atol=1e-6)


def test_a_step_towards_a_uniform_target_raises_the_entropy() -> None:
    batch = batch_of(in_tenths(POLICY), [0.0] * 10, [to_the_power(0.0)] * 10)
    stepped = (POLICY.log() - 0.1 * gradient(reweighted(reweight_floor=0.0), batch)).softmax(0)
    assert -(stepped * stepped.log()).sum() > -(POLICY * POLICY.log()).sum()


def test_where_the_policy_is_the_target_the_gradient_and_the_reported_value_are_0() -> None:
    tokens = in_tenths(POLICY)
    batch = batch_of(tokens, [0.0] * 10, [POLICY] * 10)
    assert gradient(reweighted(), batch).tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    cfg = whole(reweighted())
    _, stats = loss_of(POLICY.log()[tokens], credit(batch, cfg, state_of(BETA)), cfg, BETA)
    assert stats["terms/divergence/value"][0] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("choices", [*UNBIASED, {"estimator": "naive"}])
def test_with_a_power_of_1_the_term_is_the_unmodified_forward_kl_bit_for_bit(choices: dict[str, str]) -> None:
    plain = whole(divergence("forward_kl", **{"estimator": "straight_through", **choices}))
    cfg = whole(reweighted(**choices))
    batch = batch_for(cfg)
    assert batch.logp_reference is not None
    batch = replace(batch, reweighted={"divergence": batch.logp_reference})
    found, expected = (run(weights(), [credited(batch, c)], c) for c in (cfg, plain))
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])
    assert found[2] == expected[2]


def test_each_of_two_terms_has_its_own_target() -> None:
    names = ("divergence", "other")
    cfg = objective(terms={"divergence": reweighted(), **{"other": reweighted(reweight="pass_rate")}})
    batch = batch_for(cfg)
    assert batch.logp_reference is not None
    tables = {name: batch.logp_reference - shift for name, shift in zip(names, (0.0, 3.0), strict=True)}
    measured = means(run(weights(), [credited(replace(batch, reweighted=tables), cfg)], cfg)[2])
    assert measured["terms/divergence/value"] < measured["terms/other/value"]


@pytest.mark.parametrize(
    ("choices", "field"),
    [
        ({"route": "rehearse", "estimator": "k3"}, "reweight"),
        ({"anchor": "old", "wiring": "joint", "estimator": "k1"}, "anchor"),
        ({"level": "sequence", "wiring": "reward", "estimator": "k1"}, "reweight"),
        ({"reweight_floor": -0.1}, "reweight_floor"),
        ({"reweight_floor": 1.1}, "reweight_floor"),
    ],
)
def test_settings_without_a_reweighted_reference_are_refused(choices: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        reweighted(**choices)
