"""A run in which nothing can have a gradient is refused."""

from pathlib import Path

import pytest
import torch

from configs.config import Config
from configs.load import load
from configs.policy_gradient import ClipConfig
from configs.terms import TermConfig
from objectives.credit import credit
from orchestrator.preflight.gradient import check_gradient
from tests.objectives.divergence_settings import REFERENCE, label, settings
from tests.objectives.ragged_batch import loss_of, make_batch, objective, state_of

DISTILLED = ("gkd", "distillm", "cakld", "minillm", "exopd", "tip", "sinkd")
"""Presets that train on a divergence to a teacher alone."""
TERM = "objective.terms.divergence"


def config(*words: str) -> Config:
    return load(["scale=cpu", *words])


@pytest.mark.parametrize("method", DISTILLED)
def test_a_policy_that_is_its_own_only_teacher_is_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^references\.teacher\.path: must be another policy than policy\.path, .* got ''"
    ):
        check_gradient(config(f"method={method}"))
    with pytest.raises(ValueError, match=r"^references\.teacher\.path: must be another policy"):
        check_gradient(config(f"method={method}", f"policy.path={tmp_path}", f"references.teacher.path={tmp_path}/."))
    check_gradient(config(f"method={method}", f"references.teacher.path={tmp_path}"))
    check_gradient(config(f"method={method}", f"references.teacher.soup={{{tmp_path}: 1.0}}"))


def test_a_policy_can_teach_itself_where_its_copy_reads_feedback() -> None:
    check_gradient(config("method=sdpo"))
    with pytest.raises(ValueError, match=r"^references\.teacher\.path: must be another policy"):
        check_gradient(config("method=sdpo", "references.teacher.reads=prompt"))


@pytest.mark.parametrize(
    "words",
    [
        ["objective.advantage=group_zscore"],
        ["objective.entropy_bonus=0.01"],
        [f"{TERM}.name=plackett_luce"],
        ["objective.terms.data={name: forward_kl, route: rehearse, estimator: supervised, coefficient: {value: 0.1}}"],
    ],
)
def test_a_run_that_trains_on_something_else_is_accepted(words: list[str]) -> None:
    check_gradient(config("method=tip", f"{TERM}.weights.importance=none", *words))


def test_the_setting_that_is_named_belongs_to_the_anchor_of_the_term() -> None:
    words = ("objective.advantage=none", f"{TERM}={{name: reverse_kl, estimator: k2, coefficient: {{value: 0.1}}}}")
    with pytest.raises(ValueError, match=r"^reference_path: must be another policy than policy\.path, .* got ''"):
        check_gradient(config(*words))
    with pytest.raises(ValueError, match=r"^objective\.terms\.divergence\.anchor: must be another policy .* got 'old'"):
        check_gradient(config(*words, f"{TERM}.anchor=old"))
    with pytest.raises(
        ValueError, match=r"^objective\.advantage: must be other than 'none' where every coefficient is 0"
    ):
        check_gradient(config(*words, f"{TERM}.coefficient.value=0"))


def gradient_at_the_anchor(cfg: TermConfig, token: int) -> torch.Tensor:
    """Return the gradient by the logits [3] of one answer of one token, where policy, anchor and sampler are equal."""
    route, group, reward = ("rehearse", -1, None) if cfg.rehearses else ("explore", 0, 1.0)
    logp = REFERENCE.log()[[token]]
    batch = make_batch([(route, group, reward, [token])], logp_sampler=logp, logp_reference=logp)
    whole = objective(terms={"divergence": cfg}, clip=ClipConfig(kind="none"))
    logits = REFERENCE.log().requires_grad_()
    batch = credit(batch, whole, state_of(1.0))
    value, _ = loss_of(logits.log_softmax(0)[batch.tokens], batch, whole, 1.0)
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("cfg", settings(every_alpha=True), ids=label)
def test_a_term_that_is_said_to_vanish_at_its_anchor_has_no_gradient_there_for_any_answer(cfg: TermConfig) -> None:
    largest = max(float(gradient_at_the_anchor(cfg, token).abs().max()) for token in range(3))
    if cfg.vanishes_at_anchor:
        assert largest < 1e-7
    elif cfg.rehearses and cfg.name == "forward_kl":
        assert largest > 1e-3, "negative log-likelihood"
