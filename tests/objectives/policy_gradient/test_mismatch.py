"""Corrections for sampler mismatch: weights and masks computed from k = pi_old / pi_sampler."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import MismatchConfig
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.policy_gradient.mismatch import mismatch_weights
from tests.objectives.equal_objectives import loss_gradient, on_policy
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of
from tests.objectives.random_answers import random_batch
from trajectories.batch import Batch

# Two answers, whose tokens have k = (0.5, 3, 1) and (0.9, 1.1).
K = torch.tensor([0.5, 3.0, 1.0, 0.9, 1.1])
SEQ = torch.tensor([0, 0, 0, 1, 1])
SAMPLER = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.7])
ADVANTAGE = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])


def weights(k: Tensor = K, seq: Tensor = SEQ, advantage: Tensor = ADVANTAGE, **choices: object) -> list[float]:
    old = SAMPLER[: len(k)] + k.log()
    cfg = MismatchConfig(**choices)  # type: ignore[arg-type]
    return mismatch_weights(old, SAMPLER[: len(k)], old, advantage, seq, cfg).tolist()


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"kind": "none"}, [1, 1, 1, 1, 1]),
        ({"kind": "token_truncate", "high": 2.0}, [0.5, 2, 1, 0.9, 1.1]),
        ({"kind": "token_mask", "low": 0.6, "high": 2.0}, [0, 0, 1, 0.9, 1.1]),
        # products 1.5 and 0.99
        ({"kind": "sequence_truncate", "high": 1.2}, [1.2, 1.2, 1.2, 0.99, 0.99]),
        ({"kind": "sequence_mask", "low": 0.995, "high": 2.0}, [1.5, 1.5, 1.5, 0, 0]),
        # geometric means 1.5^(1/3) = 1.1447 and 0.99^(1/2) = 0.99499
        ({"kind": "geometric", "low": 0.993, "high": 1.01}, [0, 0, 0, 1, 1]),
        # (ln^2 .5 + ln^2 3) / 6 = (0.480453 + 1.206949) / 6 = 0.281234; (0.011101 + 0.009084) / 4 = 0.005046
        ({"kind": "k2", "high": 0.2812}, [0, 0, 0, 1, 1]),
        ({"kind": "k2", "high": 0.2813}, [1, 1, 1, 1, 1]),
        # (.5 - 1 + .693147 + 2 - 1.098612) / 3 = 0.364845; (-.1 + .105361 + .1 - .095310) / 2 = 0.005025
        ({"kind": "k3", "high": 0.3648}, [0, 0, 0, 1, 1]),
        ({"kind": "k3", "high": 0.3649}, [1, 1, 1, 1, 1]),
        ({"kind": "k3", "high": 0.005}, [0, 0, 0, 0, 0]),
        ({"kind": "none", "veto": 0.6}, [0, 0, 0, 1, 1]),
        ({"kind": "token_truncate", "high": 2.0, "veto": 0.95}, [0, 0, 0, 0, 0]),
    ],
)
def test_each_correction_has_the_weights_computed_by_hand(choices: dict[str, object], expected: list[float]) -> None:
    assert weights(**choices) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_without_a_mismatch_all_weights_are_1(kind: str) -> None:
    assert weights(torch.ones(5), kind=kind, low=0.5, high=2.0, veto=1e-4) == [1.0] * 5


def test_without_limits_a_correction_is_full_importance_sampling() -> None:
    assert weights(kind="token_mask", low=0.0, high=1e9) == pytest.approx(K.tolist())
    assert weights(kind="token_truncate", high=1e9) == pytest.approx(K.tolist())
    assert weights(kind="sequence_mask", high=1e9) == pytest.approx([1.5] * 3 + [0.99] * 2)


@pytest.mark.parametrize("rule", ["truncate", "mask"])
def test_on_answers_of_one_token_the_token_and_the_sequence_kind_are_equal(rule: str) -> None:
    alone, limits = torch.arange(5), {"low": 0.6, "high": 2.0}
    assert weights(seq=alone, kind=f"token_{rule}", **limits) == weights(seq=alone, kind=f"sequence_{rule}", **limits)


def test_the_truncated_weight_is_unbiased_below_its_limit() -> None:
    sampler, old = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.2, 0.1])
    values = torch.tensor([3.0, -1.0, 5.0])
    cfg = MismatchConfig(kind="token_truncate", high=10.0)
    k = mismatch_weights(old.log(), sampler.log(), old.log(), values, torch.arange(3), cfg)
    assert float((sampler * k * values).sum()) == pytest.approx(float((old * values).sum()))


def test_the_off_policy_mask_leaves_out_whole_answers_of_negative_advantage_far_from_the_policy() -> None:
    # mean log(sampler / policy) of the answers: 0.4 and 0.2
    policy = SAMPLER - torch.tensor([0.2, 0.4, 0.6, 0.3, 0.1])

    def kept(advantage: list[float], limit: float) -> list[float]:
        cfg = MismatchConfig(off_policy=limit)
        return mismatch_weights(SAMPLER, SAMPLER, policy, torch.tensor(advantage), SEQ, cfg).tolist()

    assert kept([-1, -1, -1, -1, -1], 0.3) == [0, 0, 0, 1, 1]
    assert kept([-1, -1, -1, -1, -1], 0.1) == [0, 0, 0, 0, 0]
    assert kept([1, 1, 1, -1, -1], 0.3) == [1, 1, 1, 1, 1]
    # A penalty in the advantage can give the tokens of an answer different signs.
    assert kept([0.5, -1, -1, -1, -1], 0.3) == [0, 0, 0, 1, 1]
    assert kept([-0.5, 1, 1, -1, -1], 0.3) == [1, 1, 1, 1, 1]


# Through the objective.


def batch_of(sampler: Tensor = SAMPLER) -> Batch:
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2, 3]), ("explore", 0, 0.0, [4, 5])],
        logp_sampler=sampler,
        logp_reference=torch.full((5,), -1.5),
        logp_old=SAMPLER + K.log(),
    )
    return replace(batch, advantage=ADVANTAGE)


POLICY = SAMPLER + K.log() + torch.tensor([0.1, -0.05, 0.0, 0.1, 0.02])


def gradient(cfg: ObjectiveConfig, batch: Batch, coefficient: float = 0.0) -> Tensor:
    logp = POLICY.clone().requires_grad_()
    value, _ = loss_of(logp, batch, cfg, coefficient)
    return torch.autograd.grad(value, logp)[0]


def corrected(**choices: object) -> ObjectiveConfig:
    return objective(old_policy="learner", mismatch=MismatchConfig(**choices))  # type: ignore[arg-type]


def test_the_weight_multiplies_the_policy_gradient_whose_ratio_is_to_the_old_policy() -> None:
    plain = gradient(objective(old_policy="learner"), batch_of())
    got = gradient(corrected(kind="token_truncate", high=2.0), batch_of())
    torch.testing.assert_close(got, plain * torch.tensor([0.5, 2, 1, 0.9, 1.1]))


def test_rejected_tokens_count_in_the_denominators() -> None:
    plain = gradient(objective(old_policy="learner"), batch_of())
    got = gradient(corrected(kind="geometric", low=0.99, high=1.01), batch_of())
    assert got[:3].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(got[3:], plain[3:])


def test_other_log_probs_of_the_sampler_change_the_weight_only() -> None:
    moved = batch_of(SAMPLER + 0.1)
    uncorrected = objective(old_policy="learner")
    assert torch.equal(gradient(uncorrected, moved), gradient(uncorrected, batch_of()))
    full = corrected(kind="token_mask", high=1e9)
    torch.testing.assert_close(gradient(full, moved), gradient(full, batch_of()) * math.exp(-0.1))


def test_without_a_mismatch_no_correction_changes_the_gradient_bit_for_bit() -> None:
    equal = batch_of(SAMPLER + K.log())
    plain = gradient(objective(old_policy="learner"), equal)
    for kind in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric", "k2", "k3"):
        assert torch.equal(gradient(corrected(kind=kind, low=0.5, high=2.0, veto=1e-4), equal), plain)


def test_no_correction_changes_a_divergence_in_the_loss() -> None:
    kl = divergence("reverse_kl", estimator="k2")
    all_rejected = replace(corrected(kind="k3", high=1e-9), terms={"divergence": kl})
    batch = credit(batch_of(), all_rejected, state_of(0.5))
    explored = torch.full((5,), -1.5)
    expected = 0.5 * (POLICY - explored) / 5
    torch.testing.assert_close(gradient(all_rejected, batch, 0.5), expected)


def test_the_metrics_report_the_mean_weight_and_the_fraction_of_rejected_tokens() -> None:
    _, stats = loss_of(POLICY, batch_of(), corrected(kind="token_mask", low=0.6, high=2.0))
    found = means(to_stats(stats))
    assert found["mismatch_weight"] == pytest.approx((1 + 0.9 + 1.1) / 5)
    assert found["mismatch_rejected"] == pytest.approx(2 / 5)
    assert found["mismatch_ratio"] == pytest.approx(float(K.mean()))
    assert "mismatch_weight" not in loss_of(POLICY, batch_of(), objective())[1]


def test_a_weight_is_refused_where_the_ratio_already_contains_the_sampler() -> None:
    with pytest.raises(ValueError, match=r"^old_policy: must be 'learner'.*count it twice"):
        objective(mismatch=MismatchConfig(kind="token_truncate"))
    assert objective(mismatch=MismatchConfig(veto=1e-4, off_policy=0.5)).mismatch.active, (
        "masks are allowed with either ratio"
    )


def test_with_the_samplers_log_probs_as_old_policy_no_correction_changes_the_gradient() -> None:
    batch = on_policy(random_batch())
    old = replace(batch, logp_old=batch.logp_sampler)
    learner = objective(old_policy="learner")
    for kind in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric", "k2", "k3"):
        corrected = replace(learner, mismatch=MismatchConfig(kind=kind, low=0.5, high=2.0))
        assert torch.equal(loss_gradient(corrected, old), loss_gradient(learner, old))
