"""Hints for settings that do not exist: those of TRL, verl and OpenRLHF, keys without their section, typos."""

import re

import pytest

from configs.explain import explain
from configs.load import load
from configs.other_trainers import COUNTERPARTS, counterparts


def error(*overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        load(overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("num_generations=8", "sampling.group_size"),
        ("group_size=8", "sampling.group_size"),
        ("rollout.n=8", "sampling.group_size"),
        ("actor_rollout_ref.rollout.n=8", "sampling.group_size"),
        ("n_samples_per_prompt=8", "sampling.group_size"),
        ("train_batch_size=64", "groups_per_step"),
        ("data.train_batch_size=64", "groups_per_step"),
        ("per_device_train_batch_size=4", "learner.token_budget"),
        ("lr=1e-6", "learner.learning_rate"),
        ("learner.lr=1e-6", "learner.learning_rate"),
        ("learning_rate=1e-6", "learner.learning_rate"),
        ("actor_rollout_ref.actor.optim.lr=1e-6", "learner.learning_rate"),
        ("actor_learning_rate=1e-6", "learner.learning_rate"),
        ("kl_coef=0.001", "objective.terms.divergence.coefficient.value"),
        ("beta=0.04", "objective.terms.divergence.coefficient.value"),
        ("actor_rollout_ref.actor.kl_loss_coef=0.001", "objective.terms.divergence.coefficient.value"),
        ("init_kl_coef=0.01", "objective.terms.divergence.coefficient.value"),
        ("max_completion_length=256", "sampling.max_new_tokens"),
        ("data.max_response_length=256", "sampling.max_new_tokens"),
        ("max_prompt_length=256", "sampling.max_prompt_tokens"),
        ("temperature=0.7", "sampling.temperature"),
        ("model_name_or_path=x", "policy.path"),
        ("data.train_files=x", "task.options.path"),
        ("max_new_token=3", "sampling.max_new_tokens"),
    ],
)
def test_a_setting_of_another_trainer_answers_with_the_one_here(override: str, ours: str) -> None:
    key, _, value = override.partition("=")
    message = error(override)
    assert re.match(rf"{re.escape(key)}: unknown key \(.*{re.escape(ours)}\b", message)
    assert message.endswith(f"got {float(value)}" if "." in value or "e" in value else f"got {value}") or "x" in value


def test_a_value_in_the_place_of_a_section_answers_with_its_setting() -> None:
    assert (
        error("policy=runs/x")
        == "policy: must be a section of settings (did you mean policy.path=runs/x?), got 'runs/x'"
    )
    assert "did you mean policy.path=/models/mine?" in error("policy=/models/mine")
    assert "must be a section of the settings group_size, temperature, " in error("sampling=3")


@pytest.mark.parametrize(("given", "nearest"), [("gpro", "grpo"), ("dhp_f", "dph_f"), ("gsop", "gspo")])
def test_a_method_with_swapped_letters_answers_with_the_right_one(given: str, nearest: str) -> None:
    message = error(f"method={given}")
    assert f"(did you mean {nearest!r}?), which `breadth methods` describes, got {given!r}" in message


@pytest.mark.parametrize(("override", "allowed"), [("method=?", "dph_f"), ("scale=?", "8gpu"), ("steps=?", "Integer")])
def test_a_question_mark_answers_with_what_is_allowed(override: str, allowed: str) -> None:
    message = error(override)
    assert message.startswith(override[:-1].rstrip("=") + ": ") and allowed in message and "\n" not in message


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref={rollout: {n: 8}}",
        "steps={a: 1}",
        "policy.path={a: 1}",
        "evaluate.checkpoints={a: {b: 1}}",
        "monitor.ks={a: 1}",
        "sampling.group_size={a: 1}",
        "replay.options={path: x}",
    ],
)
def test_no_error_shows_a_python_dictionary(override: str) -> None:
    assert not re.search(r"\{['\"]", error(override))


def test_truncated_sampling_is_refused_with_the_reason_under_every_name() -> None:
    for key in ("top_p", "actor_rollout_ref.rollout.top_p", "min_p"):
        assert error(f"{key}=0.9").startswith(f"{key}: must be left out: truncated sampling biases every")


def test_a_name_that_is_almost_one_of_its_section_here_is_corrected_first() -> None:
    assert "(did you mean 'evaluate.temperatures'?)" in error("evaluate.temperature=0")


def test_every_counterpart_is_a_setting_that_exists() -> None:
    for row in COUNTERPARTS:
        assert not row.ours or row.ours.startswith("task.options.") or explain(row.ours), row
        assert any(row.names.values()) and (row.ours or row.note), row


def test_a_name_of_another_trainer_leads_to_its_row_by_its_full_name_and_by_its_end() -> None:
    for row in COUNTERPARTS:
        for names in row.names.values():
            for name in names:
                assert row in [found for _, found in counterparts(name)]
                assert row in [found for _, found in counterparts(name.rpartition(".")[2])]
    assert counterparts("temperatures") == []


def test_no_setting_here_is_taken_for_one_of_another_trainer() -> None:
    for key in ("steps", "sampling.temperature", "learner.weight_decay", "seed"):
        load([f"{key}=1"])
