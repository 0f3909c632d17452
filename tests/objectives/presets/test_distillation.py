"""Distillation presets: a divergence to a teacher, with or without a reward."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.policy_gradient import ClipConfig
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.anchors import AS_POLICY, named_logps
from objectives.divergence.distributions import plackett_luce, vocabulary_values
from objectives.objective import loss
from objectives.wording import describe
from tests.objectives.coefficient.coefficient_path import coefficient_path, scheduled
from tests.objectives.divergence_settings import OLD, POLICY, REFERENCE, in_tenths, kl
from tests.objectives.equal_objectives import K2, K3, assert_equal_objectives, loss_gradient, on_policy
from tests.objectives.presets.golden_batch import LOG_U, SAMPLER, explored_batch, golden_loss, with_anchors
from tests.objectives.ragged_batch import divergence, make_batch, objective, scores, state_of, three_turns
from tests.objectives.random_answers import (
    VOCABULARY,
    batch_for,
    credited,
    of,
    random_batch,
    run,
    scores_of,
    weights,
)
from trajectories.batch import Batch
from trajectories.split import deal, partition

PAPERS = {
    "kdrl": "2506.02208",
    "exopd": "2602.12125",
    "gkd": "2306.13649",
    "distillm": "2402.03898",
    "tip": "2604.14084",
    "sod": "2605.07725",
    "sinkd": "2402.17110",
    "bd_kd": "2212.12965",
    "pld": "2506.12542",
    "sdpo": "2601.20802",
}
TURNS_LOG_U = torch.tensor([0.2, -0.4, 0.6, -0.6, 0.1, 0.3, 0.6, -0.9, 0.2])
"""log policy / teacher of the explored tokens of `three_turns`."""
TEACHER = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
STUDENT = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
TOKEN = torch.zeros(1, dtype=torch.long)
"""Logits of a teacher and a student over three tokens, and the token of the answer."""


def test_kdrl_adds_k2_to_the_teacher_to_an_unclipped_policy_gradient() -> None:
    # 2.5 * 1.154701 - 6.4 * .577350 = -.808287
    expected = 0.808287 / 6 + 0.005 * 0.211667
    assert golden_loss(of("kdrl"), 0.005, with_anchors(teacher=LOG_U)) == pytest.approx(expected, abs=2e-6)


def test_sdpo_has_the_log_ratio_of_its_teacher_to_the_sampler_as_its_advantage() -> None:
    told = torch.tensor([0.3, -0.2, 0.0, 1.0, -2.0, 0.4])
    batch = replace(explored_batch(SAMPLER), anchors={"teacher": SAMPLER + told})
    found = credited(batch, of("sdpo"), 1.0).advantage
    assert found is not None
    assert found.tolist() == pytest.approx(told.tolist(), abs=1e-6)
    # Ratios 1, 1.5, .5, 1, .9, 4 with the clip of .2: .3 - .2 * 1.5 + 0 + 1 - 2 * .9 + .4 * 1.2 = -.32, over 6 tokens
    assert golden_loss(of("sdpo"), 1.0, batch) == pytest.approx(0.32 / 6, abs=2e-6)


def test_sdpo_has_the_gradient_of_the_kl_to_its_teacher_at_every_token() -> None:
    tokens, cfg = in_tenths(POLICY), of("sdpo")
    batch = make_batch([("explore", 0, 1.0, [token]) for token in tokens], logp_sampler=POLICY.log()[tokens])
    batch = replace(batch, anchors={"teacher": OLD.log()[tokens]})
    leaf, whole = POLICY.log().requires_grad_(), POLICY.log().requires_grad_()
    value, _ = loss(scores(leaf.log_softmax(0)[tokens]), credited(batch, cfg, 1.0), cfg, {"divergence": 1.0})
    (expected,) = torch.autograd.grad(kl(whole.softmax(0), OLD), whole)
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], expected, rtol=1e-5, atol=1e-7)
    assert expected.abs().max() > 0.01


def test_answers_whose_teacher_has_read_nothing_have_no_gradient_though_their_sampler_is_not_the_policy() -> None:
    cfg, old = of("sdpo"), SAMPLER + torch.linspace(-0.5, 0.5, 6)
    batch = replace(explored_batch(SAMPLER), anchors={"teacher": torch.full((6,), AS_POLICY)}, logp_old=old)
    for before, expected in ((batch, old), (replace(batch, logp_old=None), SAMPLER)):
        found = credited(before, cfg, 1.0)
        assert found.advantage is not None and found.advantage.tolist() == [0.0] * 6
        assert torch.equal(named_logps(found, "teacher", found.mask), expected)
        value, stats = loss(scores(SAMPLER), found, cfg, {"divergence": 1.0})
        assert value == 0 and all(math.isfinite(float(total)) for total, _ in stats.values())


def test_the_description_of_sdpo_says_what_its_teacher_has_read() -> None:
    words = describe(of("sdpo").terms["divergence"], informed=True)
    assert words.startswith("on explored answers: exact gradient of the reverse KL to teacher with prefixes held fixed")
    assert words.endswith(
        "; teacher has read another right answer of the group, and the verdict on a wrong one; answers without either "
        "have no gradient of it"
    )


def test_exopd_follows_the_direction_from_the_base_to_the_teacher_beyond_the_teacher() -> None:
    # lambda = 1.25: the log-ratio of the sampler is (.3, -.2) to the teacher and (.5, .1) to the base:
    # A = -1.25 x .3 + .25 x .5 = -.25, and 1.25 x .2 + .25 x .1 = .275
    cfg, sampler = of("exopd"), torch.tensor([-1.0, -2.0])
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2])], logp_sampler=sampler, logp_reference=sampler - torch.tensor([0.5, 0.1])
    )
    batch = replace(batch, anchors={"teacher": sampler - torch.tensor([0.3, -0.2])})
    advantage = credit(batch, cfg, initial_state(cfg, 10)).advantage
    assert advantage is not None and advantage.tolist() == pytest.approx([-0.25, 0.275], abs=1e-6)


def test_the_gradient_of_exopd_is_that_of_one_kl_to_a_sharpened_teacher() -> None:
    # 1.25 KL(pi || p) - .25 KL(pi || q) = KL(pi || p^1.25 q^-.25 / Z) + constant
    tokens = in_tenths(POLICY)
    batch = make_batch(
        [("explore", 0, 1.0, [token]) for token in tokens],
        logp_sampler=POLICY.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    cfg = of("exopd")
    batch = credit(replace(batch, anchors={"teacher": OLD.log()[tokens]}), cfg, initial_state(cfg, 10))
    logits = POLICY.log().requires_grad_()
    value, _ = loss(scores(logits.log_softmax(0)[tokens]), batch, cfg, initial_state(cfg, 10).coefficients)
    sharpened = OLD**1.25 / REFERENCE**0.25
    whole = POLICY.log().requires_grad_()
    (expected,) = torch.autograd.grad(kl(whole.softmax(0), sharpened / sharpened.sum()), whole)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        ("base.coefficient.value=-1.25",),  # the sum is 0: nothing holds the policy
        ("base.coefficient.value=-2",),
        ("base.wiring=loss", "base.estimator=k2"),  # the clip acts on one of both
        ("base.name=forward_kl",),
        ("divergence.coefficient.kind=linear", "divergence.coefficient.final=1"),
        ("base.wiring=loss", "base.estimator=k3", "divergence.wiring=loss", "divergence.estimator=k3"),
        ("base.weights.length_debias=true",),
    ],
)
def test_a_negative_coefficient_without_a_bound_is_refused(settings: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"objective\.terms\.base\.coefficient\.value: must not be negative, except"):
        of("exopd", *(f"objective.terms.{setting}" for setting in settings))
    loss_form = ("base.wiring=loss", "base.estimator=k2", "divergence.wiring=loss", "divergence.estimator=k2")
    assert of("exopd", *(f"objective.terms.{setting}" for setting in loss_form)).terms["base"].coefficient.value < 0


def test_kdrls_coefficient_falls_to_its_floor_and_stays_there() -> None:
    # max(.005 - .00005 s, .001): the floor is reached at step 80
    cfg = scheduled(kind="linear", value=0.005, final=0.001, over=80)
    found = coefficient_path(cfg, 280, 200)
    assert [found[step] for step in (0, 40, 80, 200)] == pytest.approx([5e-3, 3e-3, 1e-3, 1e-3])
    assert found == pytest.approx([max(0.005 - 0.00005 * step, 0.001) for step in range(201)])
    assert of("kdrl").terms["divergence"].coefficient == cfg.terms["divergence"].coefficient


def test_kdrl_with_coefficient_0_is_grpo_without_a_clip_and_with_the_token_mean() -> None:
    assert_equal_objectives(of("kdrl"), objective(clip=ClipConfig(kind="none")), coefficient=0.0)


def test_kdrl_with_equal_rewards_is_distillation_alone() -> None:
    cfg = of("kdrl")
    batch = batch_for(cfg)
    equal = replace(batch, reward=torch.where(batch.reward.isnan(), batch.reward, 1.0))
    whole = run(weights(), [credited(equal, cfg)], cfg)
    without_reward = replace(credited(equal, cfg), advantage=torch.zeros(len(batch.tokens)))
    assert whole[0] == run(weights(), [without_reward], cfg)[0] != 0
    assert means(whole[2])["policy_loss"] == 0


def test_kdrl_with_the_starting_policy_as_teacher_and_k3_is_grpo_with_k3() -> None:
    kdrl = of("kdrl", "objective.terms.divergence.estimator=k3")
    batch = batch_for(kdrl)
    assert batch.logp_reference is not None
    batch = replace(batch, anchors={"teacher": batch.logp_reference})
    assert_equal_objectives(kdrl, objective(clip=ClipConfig(kind="none"), terms={"divergence": K3}), batch=batch)


def test_k2_to_a_teacher_has_the_gradient_of_its_log_ratio_in_the_advantage() -> None:
    # Both have the gradient -R grad log pi, R = log teacher - log policy, detached.
    joint = divergence("reverse_kl", wiring="joint", estimator="k1")
    cfg = objective(clip=ClipConfig(kind="none"), terms={"divergence": joint})
    with_k2 = objective(clip=ClipConfig(kind="none"), terms={"divergence": K2})
    batch = on_policy(random_batch())
    torch.testing.assert_close(loss_gradient(cfg, batch), loss_gradient(with_k2, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("only", ["failed_answers", "failed_groups"])
def test_kdrls_masks_drop_the_term_where_all_answers_are_correct_and_change_nothing_where_none_is(only: str) -> None:
    masked = of("kdrl", f"objective.terms.divergence.weights.only={only}")
    batch = batch_for(masked)
    for reward, expected in ((1.0, objective(clip=ClipConfig(kind="none"))), (0.0, of("kdrl"))):
        # Unequal rewards, all below 1 or all at least 1, so that the policy gradient is not 0.
        spread = reward + 0.3 * (torch.arange(len(batch.reward)) % 3)
        assert_equal_objectives(
            masked, expected, batch=replace(batch, reward=torch.where(batch.reward.isnan(), batch.reward, spread))
        )


@pytest.mark.parametrize(
    ("preset", "name", "alpha", "explore", "rehearse"),
    [("gkd", "generalised_jensen_shannon", 0.5, 0.5, 0.5), ("distillm", "skew_kl", 0.1, 0.0, 1.0)],
)
def test_gkd_and_distillm_add_one_divergence_on_both_routes_and_no_policy_gradient(
    preset: str, name: str, alpha: float, explore: float, rehearse: float
) -> None:
    cfg = of(preset)
    assert {(term.name, term.alpha, term.anchor, term.wiring) for term in cfg.terms.values()} == {
        (name, alpha, "teacher", "vocabulary")
    }
    batch, state = credited(batch_for(cfg), cfg), initial_state(cfg, 100)
    read = scores_of(weights(), batch, cfg)
    value, _ = loss(read, batch, cfg, state.coefficients)
    means_by_route = [read.exact[key][batch.on_route(cfg.terms[key].route)].mean() for key in ("divergence", "data")]
    torch.testing.assert_close(value, explore * means_by_route[0] + rehearse * means_by_route[1])
    assert value.item() > 0.01


def test_tip_that_keeps_all_tokens_is_plain_distillation() -> None:
    found = []
    for overrides in (["weights.keep=1.0"], ["weights.importance=none"]):
        cfg = of("tip", *(f"objective.terms.divergence.{o}" for o in overrides))
        found.append(run(weights(), [credited(batch_for(cfg), cfg)], cfg)[:2])
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def kept_of(batch: Batch) -> dict[tuple[int, ...], list[bool]]:
    """Return which tokens of each answer have a weight, keyed by the tokens of the answer."""
    kept = batch.term_weights["divergence"] > 0
    return {
        tuple(batch.tokens[batch.seq == i].tolist()): kept[batch.seq == i].tolist() for i in range(len(batch.group))
    }


def test_tip_keeps_the_same_tokens_in_any_order_and_split_of_the_answers() -> None:
    cfg = of("tip")
    batch = batch_for(cfg)
    whole = credited(batch, cfg)
    expected = run(weights(), [whole], cfg)
    order = torch.randperm(len(batch.group), generator=torch.Generator().manual_seed(5)).tolist()
    shuffled = credited(batch.select(order), cfg)
    assert kept_of(shuffled) == kept_of(whole)
    ranks = [micro for rank in partition(whole, 2, 12) for micro in rank]
    assert len(ranks) > 4
    for parts in ([shuffled], ranks):
        value, gradient, stats = run(weights(), parts, cfg)
        assert value == pytest.approx(expected[0], rel=1e-5)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-6)
        assert stats["terms/divergence/kept"] == expected[2]["terms/divergence/kept"]
    assert 0.3 < expected[2]["terms/divergence/kept"][0] / expected[2]["terms/divergence/kept"][1] < 0.5
    by_rank = [kept_of(part) for part in deal(whole, 2)]
    assert by_rank[0] | by_rank[1] == kept_of(whole)


def test_sod_adds_the_weighted_log_ratio_of_the_teacher_to_the_advantage() -> None:
    batch = three_turns()
    sampler = torch.where(batch.mask, -1.0, 0.0)
    teacher = sampler.clone()
    teacher[batch.mask] -= TURNS_LOG_U
    batch = replace(batch, logp_sampler=sampler, anchors={"teacher": teacher})
    cfg = of("sod", "objective.terms.divergence.weights.step_length=2")
    found = credit(batch, cfg, state_of(0.5)).advantage
    assert found is not None
    # z-scores of rewards 1 and 0: +- 1 / sqrt(2); c = .5
    z = torch.tensor([1.0] * 5 + [-1.0] * 4) / (2**0.5)
    w = torch.tensor([1, 1, 0.5, 0.5, 1.2, 1, 1, 9 / 11, 9 / 11])
    torch.testing.assert_close(found[batch.mask], z - 0.5 * w * TURNS_LOG_U, rtol=0, atol=1e-5)
    assert not found[~batch.mask].any()


def test_sod_with_one_step_has_no_weights_and_with_coefficient_0_is_grpo() -> None:
    weights_field, found = "objective.terms.divergence.weights", {}
    for name, length, limit in (("one step", 0, 1.2), ("no weights", 0, 0.0), ("steps", 2, 1.2)):
        cfg = of("sod", f"{weights_field}.step_length={length}", f"{weights_field}.step_limit={limit}")
        found[name] = run(weights(), [credited(batch_for(cfg), cfg)], cfg)[1]
    torch.testing.assert_close(found["one step"], found["no weights"])
    assert (found["steps"] - found["one step"]).abs().max() > 1e-3
    cfg, grpo = of("sod"), of("grpo", "objective.clip.high=0.28", "objective.reduction=token_mean")
    alone = run(weights(), [credited(batch_for(cfg), cfg, 0.0)], cfg, 0.0)[1]
    torch.testing.assert_close(alone, run(weights(), [credited(batch_for(cfg), grpo, 0.0)], grpo, 0.0)[1])


def test_sods_gradient_does_not_depend_on_the_order_or_split_of_the_answers() -> None:
    cfg = of("sod", "objective.terms.divergence.weights.step_length=2")
    batch = batch_for(cfg)
    whole = credited(batch, cfg)
    expected = run(weights(), [whole], cfg)
    order = torch.randperm(len(batch.group), generator=torch.Generator().manual_seed(4)).tolist()
    for parts in ([credited(batch.select(order), cfg)], [m for rank in partition(whole, 2, 12) for m in rank]):
        torch.testing.assert_close(run(weights(), parts, cfg)[1], expected[1], rtol=1e-4, atol=1e-6)


def test_sinkds_loss_gradient_and_metrics_do_not_depend_on_the_order_or_split_of_the_answers() -> None:
    cfg = of("sinkd")
    batch, policy = credited(batch_for(cfg), cfg), weights()
    whole = run(policy, [batch], cfg)
    reversed_ = batch.select(list(range(len(batch.group)))[::-1])
    for parts in ([reversed_], partition(batch, 1, 20)[0]):
        found = run(policy, parts, cfg)
        assert found[0] == pytest.approx(whole[0], rel=1e-5)
        torch.testing.assert_close(found[1], whole[1], rtol=1e-4, atol=1e-6)
        name = "terms/rows/value"
        assert means(found[2])[name] == pytest.approx(means(whole[2])[name], rel=1e-5)
    without = run(policy, [batch], replace(cfg, terms={"divergence": cfg.terms["divergence"]}))
    assert VOCABULARY == 11 and not torch.allclose(without[1], whole[1], atol=1e-4)


def test_bd_kds_gradient_is_that_of_both_kls_with_their_weight_detached() -> None:
    logits = POLICY.log().requires_grad_()
    cfg = of("bd_kd").terms["divergence"]
    value = vocabulary_values(cfg, logits[None], REFERENCE.log()[None], TOKEN).sum()
    found = torch.autograd.grad(value, logits)[0]
    p = logits.softmax(0)
    g = 1 / (1 + math.exp((1.029653 - 0.801819) / cfg.alpha))
    expected = torch.autograd.grad((1 - g) * kl(REFERENCE, p) + g * kl(p, REFERENCE), logits)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_pld_sums_the_log_losses_of_successive_choices_weighted_by_the_teacher() -> None:
    # In the teacher's order the student's logits are 0, 1, 0: log(2 + e) - 0 = 1.551445, log(e + 1) - 1 = .313262
    # and 0, weighted by softmax(2, 1, 0) = .665241, .244728, .090031: 1.032085 + .076664 = 1.108749.
    assert plackett_luce(STUDENT, TEACHER).item() == pytest.approx(1.108749, abs=1e-6)
    cfg = of("pld", "objective.terms.divergence.route=explore").terms["divergence"]
    assert vocabulary_values(cfg, STUDENT, TEACHER, TOKEN).item() == pytest.approx(1.108749, abs=1e-6)


def test_pld_begins_with_the_token_of_a_right_stored_answer() -> None:
    # In the teacher's order the student's logits are 0, 1, 0. The last of it is the true token: 0, 0, 1 with the
    # weights .090031, .665241, .244728: .090031 * 1.551445 + .665241 * (log(1 + e) - 0) = .139678 + .873636.
    order = TEACHER.argsort(-1, descending=True)
    label = order[:, 2]
    cfg = of("pld").terms["divergence"]
    assert cfg.rehearses
    assert vocabulary_values(cfg, STUDENT, TEACHER, label).item() == pytest.approx(1.013313, abs=1e-6)
    first = order[:, 0]
    assert vocabulary_values(cfg, STUDENT, TEACHER, first).item() == pytest.approx(1.108749, abs=1e-6)


@pytest.mark.parametrize(("labelled", "expected"), [(False, [1.0, 0.0, 0.0]), (True, [0.8097, 0.1841, 0.0061])])
def test_pld_ends_sharper_than_the_teacher_and_at_one_token_without_true_ones(
    labelled: bool, expected: list[float]
) -> None:
    teacher = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    student = teacher.log().requires_grad_()
    optimizer = torch.optim.LBFGS([student], max_iter=500, line_search_fn="strong_wolfe")

    def expectation() -> Tensor:
        optimizer.zero_grad()
        labels = torch.arange(3) if labelled else None
        losses = plackett_luce(student.expand(3, -1), teacher.log().expand(3, -1), labels)
        value = (teacher * losses).sum()
        value.backward()
        return value

    optimizer.step(expectation)
    assert student.softmax(-1).tolist() == pytest.approx(expected, abs=2e-3)


def test_pld_takes_right_answers_alone_as_true() -> None:
    with pytest.raises(ValueError, match=r"^rehearsal\.keep: must not be 'all' for plackett_luce on rehearsed answers"):
        load(["method=pld", "rehearsal.keep=all", "rehearsal.explore=fresh"])
