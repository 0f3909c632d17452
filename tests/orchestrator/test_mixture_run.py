"""A whole run with teacher-mixed sampling: what is trained on is mixed, and what is measured is not."""

from pathlib import Path

from configs.load import load, to_yaml
from orchestrator.constructors import generator_arguments
from orchestrator.evaluation.record import settings_of
from orchestrator.manifest import SETTINGS
from tests.orchestrator.test_critic_run import train

MIXED = ("method=minillm", "sampling.mixed_with=teacher", "sampling.mixture=0.5")


def test_training_answers_have_the_log_probs_of_the_mixture_and_measured_ones_those_of_the_policy(
    tiny_policy: Path, other_policy: Path, tmp_path: Path
) -> None:
    teacher, measured = f"references.teacher.path={other_policy}", ("monitor.every=1", "steps=1")
    mixed = train(tiny_policy, tmp_path, *MIXED, teacher, *measured, "name=mixed")
    plain = train(tiny_policy, tmp_path, "method=minillm", teacher, *measured, "name=plain")
    assert mixed[1]["mismatch_abs_log_ratio"] > 0.1 > 1e-3 > plain[1]["mismatch_abs_log_ratio"]
    assert mixed[1]["grad_norm"] > 0
    assert mixed[1]["kl_update"] < 1e-4, "the size of the update, not the distance to the mixture"
    heldout = [{name: value for name, value in r[0].items() if name.startswith("heldout/")} for r in (mixed, plain)]
    assert heldout[0] == heldout[1] != {}


def test_an_evaluation_of_the_run_loads_no_teacher(tmp_path: Path) -> None:
    cfg = load([*MIXED, "references.teacher.path=/teacher"])
    assert generator_arguments(cfg, "/policy")["mixed_with"] == "/teacher"
    run = tmp_path / "run"
    run.mkdir()
    (run / SETTINGS).write_text(to_yaml(cfg))
    assert "mixed_with" not in generator_arguments(settings_of(run, []), "/policy")
    assert settings_of(run, ["generator.engine=vllm"]).generator.engine == "vllm"
