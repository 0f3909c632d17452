"""Defaults of the committed policies, which are tuned for 358k parameters: they apply to those policies alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs.config import Config
from configs.load import COMMITTED, load, presets
from orchestrator.commands.jobs.compare import METHODS, SETTINGS

TUNED = {"grpo_nll": 1.0, "dph_f": 1.0, "dph_alpha": 1.0, "dph_js": 2.0, "dph_js_definition": 1.0}
"""Coefficients with which the README and the comparisons of methods were measured."""
POLICIES = sorted(folder.name for folder in COMMITTED.iterdir() if folder.is_dir())


def coefficient(cfg: Config) -> float:
    return cfg.objective.terms["divergence"].coefficient.value


@pytest.mark.parametrize("scale", presets("scale"))
def test_a_brought_policy_has_the_learning_rate_of_the_field_at_every_scale(scale: str) -> None:
    assert load([f"scale={scale}", "policy.path=/models/mine"]).learner.learning_rate == 1e-6


def test_a_brought_policy_has_the_coefficients_of_the_papers() -> None:
    """DPH-RL, arXiv:2509.07430: 0.01 to 0.05 for the forward KL and alpha, 0.2 for Jensen-Shannon (f halved)."""
    papers = {"dph_f": 0.05, "grpo_nll": 0.05, "dph_alpha": 0.05, "dph_js": 2 * 0.2, "dph_js_definition": 0.2}
    for method, value in papers.items():
        assert coefficient(load([f"method={method}", "policy.path=/models/mine"])) == value


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", TUNED)
def test_a_committed_policy_has_the_settings_it_was_measured_with(policy: str, method: str) -> None:
    for path in (f"tasks/base_policies/{policy}", str(COMMITTED / policy)):
        cfg = load([f"method={method}", f"policy.path={path}"])
        assert (cfg.learner.learning_rate, coefficient(cfg)) == (3e-4, TUNED[method])


@pytest.mark.parametrize("method", METHODS)
def test_the_comparison_differs_from_a_brought_policy_in_learning_rate_and_coefficient_alone(method: str) -> None:
    settings = [f"method={method}", "scale=cpu", *SETTINGS, *METHODS[method]]
    compared = load(settings)
    tuned = ["learner.learning_rate=3e-4"]
    if method in TUNED:
        tuned.append(f"objective.terms.divergence.coefficient.value={TUNED[method]}")
    brought = load([*settings, "policy.path=/models/mine", *tuned])
    assert replace(brought, policy=compared.policy) == compared


def test_file_and_command_line_come_after_the_settings_of_a_committed_policy(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{method: dph_f, learner: {learning_rate: 1.0e-5}}")
    chosen = "objective.terms.divergence.coefficient.value=0.5"
    cfg = load([chosen], str(file))
    assert (cfg.learner.learning_rate, coefficient(cfg)) == (1e-5, 0.5)
    assert load(["method=dph_f", "objective.terms.divergence=null"]).objective.terms == {}


def test_the_policy_of_a_file_decides_and_a_folder_of_the_same_name_elsewhere_is_a_brought_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("policy: {path: /models/mine}")
    assert load([], str(file)).learner.learning_rate == 1e-6
    assert load(["policy.path=tasks/base_policies/countdown"], str(file)).learner.learning_rate == 3e-4
    (tmp_path / "tasks" / "base_policies" / "countdown").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load(["policy.path=tasks/base_policies/countdown"]).learner.learning_rate == 1e-6
