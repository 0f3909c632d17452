"""Every preset trains 20 steps of the CPU scale, with small batches."""

from pathlib import Path

import numpy as np
import pytest

from configs.load import load, presets
from objectives.coefficient.controllers import term_metric
from tests.orchestrator.test_train import config, train

STEPS = 20
SMALL = ("sampling.group_size=8", "rehearsal.prompts=16", "rehearsal.batch=4", f"monitor.every={STEPS}")
TEACHER = "tasks/base_policies/three_domains"
"""A policy with the vocabulary of the trained one but other weights, so that no divergence is 0."""
TAUGHT_BY_REFERENCE = ("logp_regression",)
"""Presets whose teacher is the main reference."""


@pytest.mark.slow
@pytest.mark.parametrize("method", presets("method"))
def test_every_method_trains_20_steps(tmp_path: Path, method: str) -> None:
    references = load([f"method={method}"]).references
    teacher = [f"references.teacher.path={TEACHER}"] if "teacher" in references else []
    teacher += [f"reference_path={TEACHER}"] if method in TAUGHT_BY_REFERENCE else []
    cfg = config(tmp_path, f"method={method}", "scale=cpu", f"steps={STEPS}", "name=run", *SMALL, *teacher)
    records = train(cfg)
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert [record["skipped_updates"] for record in records[1:]] == [0.0] * STEPS
    for name in cfg.objective.terms:
        values = [record.get(term_metric(name, "value"), np.nan) for record in records[1:]]
        assert np.isfinite(values).any(), f"{name} was never measured"
        assert all(np.isfinite(record[term_metric(name, "coefficient")]) for record in records[1:])
    assert any(record["grad_norm"] > 0 for record in records[1:])
    assert 0 <= records[-1]["heldout/pass@4"] <= 1
