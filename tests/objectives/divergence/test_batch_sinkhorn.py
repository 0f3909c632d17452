"""Optimal transport between the rows of student and teacher (SinKD): values, gradients, and blocks of an answer."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.transport import TransportConfig
from objectives.divergence.batch_sinkhorn import BLOCK, answer_blocks, batch_sinkhorn
from tests.objectives.ragged_batch import divergence

CFG = divergence(
    "batch_sinkhorn",
    wiring="vocabulary",
    estimator="exact",
    transport=TransportConfig(epsilon=0.1, iterations=20),
)


def value(logits: Tensor, anchor: Tensor, seq: list[int]) -> Tensor:
    return batch_sinkhorn(CFG, logits, anchor, *answer_blocks(torch.tensor(seq, dtype=torch.long)))


def random_logits(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(rows, 5, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def transport(logits: Tensor, anchor: Tensor) -> Tensor:
    """Return sum_j P_ij C_ij [rows] of one block, without logarithms."""
    cost = ((logits / 2).softmax(-1)[:, None] - (anchor / 2).softmax(-1)[None]).abs().sum(-1)
    plan = (-cost / 0.1).exp()
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return (plan * cost).sum(1)


def softened(*rows: tuple[float, float]) -> Tensor:
    """Return logits whose softmax at temperature 2 are these rows."""
    return 2 * torch.tensor(rows, dtype=torch.float64).log()


def test_a_block_of_one_row_is_the_l1_distance_at_temperature_2() -> None:
    # |.7 - .5| + |.3 - .5|
    assert value(softened((0.7, 0.3)), softened((0.5, 0.5)), [0]).tolist() == pytest.approx([0.4])
    logits, anchor = random_logits(6)
    expected = ((logits / 2).softmax(-1) - (anchor / 2).softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(value(logits, anchor, [0, 1, 2, 3, 4, 5]), expected)


def test_two_rows_have_the_numbers_computed_by_hand() -> None:
    # Costs |.8 - .7| + |.2 - .3| = .2, |.8 - .6| * 2 = .4; |.5 - .7| * 2 = .4, |.5 - .6| * 2 = .2. The kernel
    # exp(-C / .1) is [[e^-2, e^-4], [e^-4, e^-2]], symmetric, so one sweep makes its rows and columns sum to 1:
    # 1 / (1 + e^-2) on the diagonal, and each row has .2 / (1 + e^-2) + .4 e^-2 / (1 + e^-2) = .2238406.
    found = value(softened((0.8, 0.2), (0.5, 0.5)), softened((0.7, 0.3), (0.6, 0.4)), [0, 0])
    assert found.tolist() == pytest.approx([0.2238406, 0.2238406], abs=1e-7)
    # Costs 0, .4; .4, .8, so exp(-C / .1) is [[1, s], [s, s^2]], s = e^-4, of rank one: rows and columns that sum to 1
    # make it 1/2 everywhere, although transport along the diagonal has the same cost: .2 and .6.
    found = value(softened((0.7, 0.3), (0.9, 0.1)), softened((0.7, 0.3), (0.5, 0.5)), [0, 0])
    assert found.tolist() == pytest.approx([0.2, 0.6], abs=1e-9)


def test_equal_rows_cost_0_and_different_rows_on_which_both_agree_cost_more() -> None:
    logits, _ = random_logits(4)
    assert not value(logits[:1].expand(4, 5), logits[:1].expand(4, 5), [0] * 4).any()
    # Cost 0 on the diagonal, but the entropic plan has off-diagonal mass e^-2 / (1 + e^-2), at a cost of .2.
    rows = softened((0.6, 0.4), (0.5, 0.5))
    assert value(rows, rows, [0, 0]).tolist() == pytest.approx([0.2 * math.exp(-2) / (1 + math.exp(-2))] * 2)


def test_value_and_gradient_equal_autograd_through_the_plan_on_ragged_blocks() -> None:
    seq = [0] * 3 + [1] * (BLOCK + 2) + [3]
    logits, anchor = random_logits(len(seq))
    logits.requires_grad_()
    starts = [0, 3, 3 + BLOCK, len(seq) - 1, len(seq)]
    blocks = [slice(*ends) for ends in itertools.pairwise(starts)]
    expected = torch.cat([transport(logits[block], anchor[block]) for block in blocks])
    found = value(logits, anchor, seq)
    torch.testing.assert_close(found, expected)
    tilt = torch.linspace(0.5, 2, len(seq), dtype=torch.float64)
    by_found, by_expected = (torch.autograd.grad((tilt * v).sum(), logits)[0] for v in (found, expected))
    torch.testing.assert_close(by_found, by_expected)
    assert by_expected.abs().max() > 0.05
    # The plan has a gradient too: with the plan detached the gradient differs.
    part = logits[blocks[1]]
    cost = ((part / 2).softmax(-1)[:, None] - (anchor[blocks[1]] / 2).softmax(-1)[None]).abs().sum(-1)
    plan = (-cost / 0.1).exp()
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    detached = torch.autograd.grad((plan.detach() * cost).sum(), logits, retain_graph=True)[0]
    through = torch.autograd.grad((plan * cost).sum(), logits)[0]
    assert (detached - through).abs().max() > 0.1 * through.abs().max()


def test_the_tokens_of_an_answer_form_blocks_of_32_from_its_first_token() -> None:
    position, size = answer_blocks(torch.tensor([0] * 70 + [2] * 32 + [5]))
    assert position.tolist() == [*range(32), *range(32), *range(6), *range(32), 0]
    assert size.tolist() == [32] * 64 + [6] * 6 + [32] * 32 + [1]
    assert [len(column) for column in answer_blocks(torch.zeros(0, dtype=torch.long))] == [0, 0]
    assert value(torch.zeros(0, 5), torch.zeros(0, 5), []).shape == (0,)


def test_an_incomplete_block_is_refused() -> None:
    logits, anchor = random_logits(4)
    position, size = answer_blocks(torch.zeros(4, dtype=torch.long))
    for cut in (slice(0, 3), slice(1, 4)):
        with pytest.raises(AssertionError, match="whole blocks"):
            batch_sinkhorn(CFG, logits[cut], anchor[cut], position[cut], size[cut])


def test_the_cost_of_an_answer_does_not_depend_on_other_answers() -> None:
    logits, anchor = random_logits(9)
    together = value(logits, anchor, [0, 0, 0, 1, 1, 2, 2, 2, 2])
    torch.testing.assert_close(together[3:5], value(logits[3:5], anchor[3:5], [0, 0]))
    order = [5, 6, 7, 8, 0, 1, 2, 3, 4]
    torch.testing.assert_close(value(logits[order], anchor[order], [0, 0, 0, 0, 1, 1, 1, 2, 2]), together[order])
    within = [1, 0, 2]  # nor on the order inside a block
    torch.testing.assert_close(value(logits[:3][within], anchor[:3][within], [0, 0, 0]), together[:3][within])


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("objective.terms.rows.wiring=joint", "wiring: must be one of vocabulary for batch_sinkhorn"),
        ("objective.terms.rows.top=8", "top: must be 0 for batch_sinkhorn, which needs all tokens"),
    ],
)
def test_settings_without_a_meaning_are_refused(setting: str, rule: str) -> None:
    estimator = ["objective.terms.rows.estimator=k1"] if "joint" in setting else []
    with pytest.raises(ValueError, match=rule):
        load(["method=sinkd", setting, *estimator])
