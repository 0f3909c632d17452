"""FlowRL: its golden numbers, its gradient at the start, and how it is described."""

from dataclasses import replace

import pytest
import torch

from configs.load import load
from objectives.advantage.words import describe_no_terms
from objectives.diagnostics import means, to_stats
from objectives.objective import loss
from objectives.wording import describe_policy_gradient
from tests.objectives.presets.golden_batch import LOG_U, LOGP, SAMPLER, explored_batch
from tests.objectives.ragged_batch import scores
from tests.objectives.random_answers import credited, of

PAPERS = {"flow_rl": "2509.15207"}


def test_flow_rl_is_the_weighted_square_of_the_residual() -> None:
    # log Z = .7; means of log u: 0, 1, -.266667; 15 z: 17.320477, -8.660239 twice
    # D = -16.620477, 10.360239, 9.093572; w = 1.5, .5, 3.6 clipped: 1.2, .8, 1.2
    # w D^2 = 331.4883, 85.8676, 99.2317, mean 172.1959; by log Z: 2 w D / 3 = -13.296382, 5.525461, 7.274858
    cfg = of("flow_rl")
    batch = credited(explored_batch(LOGP - LOG_U), cfg)
    leaf, values = LOGP.clone().requires_grad_(), torch.full((3, 1), 0.7, requires_grad=True)
    value, stats = loss(replace(scores(leaf), values=values), batch, cfg, {})
    by_logp, by_value = torch.autograd.grad(value, (leaf, values))
    measured = means(to_stats(stats))
    assert (measured["flow_loss"], measured["log_z"]) == (pytest.approx(172.1959, abs=2e-3), pytest.approx(0.7))
    assert by_value[:, 0].tolist() == pytest.approx([-13.296382, 5.525461, 7.274858], abs=2e-5)
    lengths = torch.tensor([2.0, 1.0, 3.0])
    assert by_logp.tolist() == pytest.approx((by_value[:, 0] / lengths)[batch.seq].tolist(), rel=1e-5)
    assert measured["advantage_magnitude"] == pytest.approx((2 * 39.889146 + 16.576382 + 3 * 21.824573) / 6, abs=1e-4)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_of_equal_rewards_is_drawn_to_the_reference_and_trains_log_z(reward: float) -> None:
    # z = 0, so D = .7 + means of log u = .7, 1.7, .433333; by log Z: 2 w D / 3 = .56, .906667, .346667
    cfg = of("flow_rl")
    batch = explored_batch(LOGP - LOG_U)
    batch = credited(replace(batch, reward=torch.full((3,), reward)), cfg)
    leaf, values = LOGP.clone().requires_grad_(), torch.full((3, 1), 0.7, requires_grad=True)
    value, _ = loss(replace(scores(leaf), values=values), batch, cfg, {})
    by_logp, by_value = torch.autograd.grad(value, (leaf, values))
    assert by_value[:, 0].tolist() == pytest.approx([0.56, 0.906667, 0.346667], abs=1e-5)
    lengths = torch.tensor([2.0, 1.0, 3.0])
    assert by_logp.tolist() == pytest.approx((by_value[:, 0] / lengths)[batch.seq].tolist(), rel=1e-5)


def test_at_the_reference_with_log_z_0_flow_rl_has_30_times_the_gradient_of_grpo() -> None:
    cfg, plain = of("flow_rl"), of("grpo")
    gradients = []
    for one in (cfg, plain):
        leaf = SAMPLER.clone().requires_grad_()
        value, _ = loss(
            replace(scores(leaf), values=torch.zeros(3, 1)), credited(explored_batch(SAMPLER), one), one, {}
        )
        gradients.append(torch.autograd.grad(value, leaf)[0])
    torch.testing.assert_close(gradients[0], 30 * gradients[1], rtol=1e-5, atol=0)
    assert plain.reduction == "sequence_mean_token_mean" and plain.terms == {}


def test_flow_rl_has_one_value_head_at_the_prompts_end_and_scores_nothing_before_the_update() -> None:
    cfg = load(["method=flow_rl"])
    heads = cfg.objective.value_heads
    assert heads is not None and (heads.reads, heads.heads) == ("prompt", 1)
    assert cfg.objective.anchors == ["reference"] and not cfg.scores_first and not cfg.objective.only_advantages


def test_flow_rl_is_described_by_its_loss_and_the_divergence_whose_gradient_it_has() -> None:
    words = describe_policy_gradient(of("flow_rl", "objective.flow.beta=2"))
    assert words.startswith(
        "advantage flow (the exact gradient of w (log Z + mean_t log pi - 2 z - mean_t log reference)^2, z the reward's"
        " z-score in its group, w the answer's ratio, clipped to [0.8, 1.2], detached; log Z is a value head at the "
        "prompt's end; in expectation, for answers of T tokens and on-policy, 2 / T^2 of that of the reverse KL to "
        "reference x exp(2 T z) / Z)"
    )
    assert describe_no_terms(of("flow_rl")).startswith("no term of its own: the residual of flow balance")
