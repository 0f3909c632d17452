"""The curve of the power distribution of a base, from its answers at temperature 1."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.watch.measurement import Measurement
from orchestrator.watch.power import effective_answers, power_passes
from orchestrator.watch.sharpening import ALPHAS, EFFECTIVE, power_curves
from tests.orchestrator.heldout.test_votes import result

ANSWERS = 64


def base() -> Measurement:
    random = np.random.default_rng(0)
    prompts = []
    for i in range(20):
        correct = int(random.integers(0, ANSWERS))
        log_probs = tuple(random.normal(-5, 0.5, ANSWERS).tolist())
        prompts.append(replace(result(f"p{i}", ANSWERS, (correct,), (correct,)), log_probs=log_probs))
    return Measurement(name="base", step=0, temperature=1.0, answers=ANSWERS, prompts=tuple(prompts))


def test_each_exponent_has_the_k_for_which_the_answers_suffice_with_the_values_of_all_choices() -> None:
    measured, ks = base(), [1, 4, 8, 64]
    log_probs, correct = [np.array(p.log_probs) for p in measured.prompts], [p.correct for p in measured.prompts]
    effective = {alpha: np.quantile(effective_answers(log_probs, alpha), 0.1) for alpha in ALPHAS}
    curves = power_curves(measured, ks)
    assert list(curves) == [1, 4, 8]
    for k, curve in curves.items():
        alphas = [alpha for alpha in ALPHAS if alpha == 1 or effective[alpha] >= EFFECTIVE * k]
        assert [1 / t for t in curve.temperatures] == pytest.approx(alphas)
        for row, alpha in enumerate(alphas):
            expected = power_passes(log_probs, correct, alpha, [1, k])
            assert curve.passes[1][row] == pytest.approx(expected[1])
            assert curve.passes[k][row] == pytest.approx(expected[k])
    assert len({len(curve.temperatures) for curve in curves.values()}) > 1, "a larger k has fewer exponents"
