"""MiniLLM: the reverse KL of whole answers to a teacher, split into each token's own part and that of later tokens."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from configs.sampling import SamplingConfig
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.divergence.distributions import vocabulary_values
from objectives.objective import loss
from objectives.wording import describe, describe_mixture
from tests.objectives.divergence.wiring.enumerated_answers import POLICY_TABLE, REFERENCE_TABLE, answer_logps
from tests.objectives.divergence_settings import EXACT
from tests.objectives.ragged_batch import make_batch, scores
from tests.objectives.random_answers import of

PAPERS = {"minillm": "2306.08543"}
WHOLE = ("objective.terms.later.horizon=later", "objective.reduction=sequence_mean_token_sum")
"""Without the length normalisation, and summed over the tokens."""


def rows_of(table: Tensor, answer: tuple[int, ...]) -> Tensor:
    """Return the logits [T, 3] of the next-token distributions along an answer."""
    return torch.stack([table[t, before] for t, before in enumerate((3, *answer[:-1]))])


def expected_gradient(cfg: ObjectiveConfig, length: int, share: float = 0.0) -> Tensor:
    """Return the mean gradient by the policy's logits over all answers of a mixture with this share of the teacher."""
    table = POLICY_TABLE.clone().requires_grad_()
    total, state = torch.zeros_like(table), initial_state(cfg, 10)
    for answer in itertools.product(range(3), repeat=length):
        rows, teacher = rows_of(table, answer), rows_of(REFERENCE_TABLE, answer)
        logp, logp_teacher = answer_logps(table, answer), answer_logps(REFERENCE_TABLE, answer)
        sampler = ((1 - share) * logp.detach().exp() + share * logp_teacher.exp()).log()
        batch = make_batch([("explore", 0, 1.0, list(answer))], logp_sampler=sampler, logp_old=logp.detach())
        batch = credit(replace(batch, anchors={"teacher": logp_teacher}), cfg, state)
        exact = {"divergence": vocabulary_values(cfg.terms["divergence"], rows, teacher, batch.tokens)}
        value, _ = loss(replace(scores(logp), exact=exact), batch, cfg, state.coefficients)
        total += sampler.sum().exp() * torch.autograd.grad(value, table)[0]
    return total


def test_minillm_charges_a_token_for_the_mean_log_ratio_of_the_tokens_after_it() -> None:
    # log pi / teacher is (.5, -.5), (1), (0, -1, .2); the means of later tokens are (-.5, 0), (0), (-.4, .2, 0)
    log_u = torch.tensor([0.5, -0.5, 1.0, 0.0, -1.0, 0.2])
    cfg = of("minillm")
    batch = make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 0, 0.0, [4, 5, 6])])
    batch = credit(replace(batch, anchors={"teacher": -log_u}), cfg, initial_state(cfg, 10))
    assert batch.advantage is not None
    assert batch.advantage.tolist() == pytest.approx([0.5, 0, 0, 0.4, -0.2, 0], abs=1e-6)


def test_without_length_normalisation_minillm_has_the_gradient_of_the_kl_between_whole_answers() -> None:
    table = POLICY_TABLE.clone().requires_grad_()
    answers = list(itertools.product(range(3), repeat=3))
    logp, teacher = (torch.stack([answer_logps(t, a).sum() for a in answers]) for t in (table, REFERENCE_TABLE))
    expected = torch.autograd.grad((logp.exp() * (logp - teacher)).sum(), table)[0]
    torch.testing.assert_close(expected_gradient(of("minillm", *WHOLE), 3), expected, rtol=1e-4, atol=1e-6)
    normalised = expected_gradient(of("minillm", "objective.reduction=sequence_mean_token_sum"), 3)
    assert (normalised - expected).abs().max() > 1e-2


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_minillm_on_answers_of_one_token_has_the_gradient_of_the_reverse_kl(share: float) -> None:
    table = POLICY_TABLE.clone().requires_grad_()
    value = EXACT["reverse_kl"](table[0, 3].softmax(0), REFERENCE_TABLE[0, 3].softmax(0), 0.2)
    expected = torch.autograd.grad(value, table)[0]
    torch.testing.assert_close(expected_gradient(of("minillm"), 1, share), expected, rtol=1e-4, atol=1e-6)


def test_the_ratio_of_a_mixed_token_is_its_importance_weight() -> None:
    # Of two tokens, the first is weighed by p_S / p~, so that its part is an expectation under p_S; the second, which
    # the first is charged for, is drawn from p~.
    cfg = of("minillm", *WHOLE, "objective.clip.kind=none")
    share, table = 0.2, POLICY_TABLE.clone().requires_grad_()
    first = table[0, 3].softmax(0)
    expected = torch.zeros(())
    for y, reached in enumerate(first):
        p, q = POLICY_TABLE[1, y].softmax(0), REFERENCE_TABLE[1, y].softmax(0)
        expected = expected + reached * (((1 - share) * p + share * q) * (p / q).log()).sum()
        mixed = (1 - share) * reached.detach() + share * REFERENCE_TABLE[0, 3].softmax(0)[y]
        expected = expected + mixed * EXACT["reverse_kl"](table[1, y].softmax(0), q, 0.2)
    expected = expected + EXACT["reverse_kl"](first, REFERENCE_TABLE[0, 3].softmax(0), 0.2)
    gradient = torch.autograd.grad(expected, table)[0]
    torch.testing.assert_close(expected_gradient(cfg, 2, share), gradient, rtol=1e-4, atol=1e-6)
    own = expected_gradient(cfg, 2)
    assert (own - gradient).abs().max() > 1e-3
    torch.testing.assert_close(expected_gradient(cfg, 2, 1e-9), own, rtol=1e-4, atol=1e-6)


def test_a_mixed_batch_is_scored_by_the_learner_and_show_config_says_what_the_ratio_corrects() -> None:
    plain, mixed = (load(["method=minillm", *more]) for more in ((), ("sampling.mixed_with=teacher",)))
    assert (plain.scores_first, mixed.scores_first) == (False, True)
    words = describe_mixture(mixed.sampling)
    assert "drawn from 0.8 policy + 0.2 teacher; the ratio policy / sampler is its importance weight" in words
    assert "a loss without a ratio has no weight; measurements are not mixed" in words
    assert "divided by the number of later tokens" in describe(mixed.objective.terms["later"])
    assert SamplingConfig().mixed_with == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("sampling.mixed_with=base", r"sampling.mixed_with: must be 'reference' or one of references \(teacher\)"),
        ("references.teacher.update=periodic", r"sampling.mixed_with: must be a reference with a directory of its own"),
        ("references.teacher.soup={a: 0.5, b: 0.5}", r"sampling.mixed_with: must be a reference with a directory of"),
        ("generator.engine=vllm", r"generator.engine: must not be 'vllm' with sampling.mixed_with: vLLM reads one"),
        ("scale=8gpu", r"generator.transfer: must be 'host' with sampling.mixed_with: the transformers engine"),
        ("objective.ratio=none", r"objective.ratio: must be 'token' with sampling.mixed_with"),
        ("objective.old_policy=learner", r"objective.old_policy: must be 'sampler' with sampling.mixed_with"),
        ("sampling.mixture=1", r"sampling.mixture: must be in \(0, 1\), got 1"),
    ],
)
def test_a_mixture_that_cannot_be_sampled_or_corrected_is_refused(settings: str, message: str) -> None:
    exact = "objective.terms.divergence=null"  # its teacher may not move, whatever is sampled from
    with pytest.raises(ValueError, match=rf"^{message}"):
        load(["method=minillm", "sampling.mixed_with=teacher", exact, settings])


def test_a_negative_coefficient_on_later_tokens_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^objective\.terms\.later\.coefficient\.value: must not be negative"):
        load(["method=minillm", "objective.terms.later.coefficient.value=-0.5"])
    with pytest.raises(ValueError, match=r"^objective\.terms\.later\.normalised: must be false for a horizon of later"):
        load(["method=minillm", "objective.terms.later.normalised=true"])
