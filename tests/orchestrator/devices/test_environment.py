"""The environment variables that each role's actors get."""

import pytest

from configs.config import Config
from configs.load import load
from orchestrator.devices.environment import environment, secrets
from orchestrator.submission.runtime import ROLES_VARIABLE

ALL = ("learner", "generator", "grader", "reference")
CONF = "PYTORCH_ALLOC_CONF"


def config(*words: str) -> Config:
    return load(["policy.path=p", "generator.engine=vllm", *words])


def of(cfg: Config, role: str) -> dict[str, str]:
    gpu = cfg.placement.device == "gpu" and role != "grader"
    return environment(cfg, role, gpu=gpu, names=ALL, cores=2)


def test_learners_and_references_on_gpus_have_expandable_segments_and_engines_do_not() -> None:
    cfg = config("scale=8gpu")
    assert {role: of(cfg, role).get(CONF) for role in ALL} == {
        "learner": "expandable_segments:True",
        "reference": "expandable_segments:True",
        "generator": None,
        "grader": None,
    }


def test_memory_that_is_opened_in_another_process_has_no_expandable_segments() -> None:
    cfg = config("scale=1gpu")
    assert cfg.generator.transfer == "ipc"
    assert not any(CONF in of(cfg, role) for role in ALL)


def test_every_role_has_a_bounded_number_of_threads_and_those_on_cpus_wait_passively() -> None:
    for scale in ("cpu", "8gpu"):
        assert all(int(of(config(f"scale={scale}"), role)["OMP_NUM_THREADS"]) >= 1 for role in ALL)
    assert of(config("scale=8gpu"), "learner")["OMP_NUM_THREADS"] == "4", "cpus_per_learner"
    assert "OMP_WAIT_POLICY" in of(config("scale=cpu"), "learner")
    assert "OMP_WAIT_POLICY" not in of(config("scale=8gpu"), "learner")


def test_compilation_is_off_on_cpus_only() -> None:
    assert of(config("scale=cpu"), "generator")["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in of(config("scale=8gpu"), "generator")


def test_what_the_user_sets_for_a_role_comes_after_what_is_set_for_all_and_after_the_defaults() -> None:
    cfg = config(
        "scale=8gpu",
        "placement.environment={all: {NCCL_DEBUG: WARN, NCCL_IB_HCA: mlx5}, learner: {NCCL_DEBUG: INFO}}",
        f"placement.environment.learner.{CONF}=max_split_size_mb:512",
        "placement.environment.grader.OMP_NUM_THREADS=3",
    )
    learner, generator = of(cfg, "learner"), of(cfg, "generator")
    assert (learner["NCCL_DEBUG"], learner["NCCL_IB_HCA"], learner[CONF]) == ("INFO", "mlx5", "max_split_size_mb:512")
    assert (generator["NCCL_DEBUG"], generator["NCCL_IB_HCA"]) == ("WARN", "mlx5")
    assert of(cfg, "grader")["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learner.WANDB_API_KEY=secret", r"^placement\.environment\.learner\.WANDB_API_KEY: must be the name of"),
        (
            "lerner.NCCL_DEBUG=INFO",
            r"^placement\.environment: must have roles of .*'learner'.*got 'lerner'",
        ),
        ("all.CUDA_VISIBLE_DEVICES=0", r"^placement\.environment\.all\.CUDA_VISIBLE_DEVICES: must be left out: Ray"),
    ],
)
def test_a_variable_that_may_not_be_set_is_refused_by_name(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(f"placement.environment.{word}")


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
def test_an_older_name_of_the_allocator_s_settings_takes_the_place_of_the_default(name: str) -> None:
    """torch reads `PYTORCH_ALLOC_CONF` first, and others only without it."""
    learner = of(config("scale=8gpu", f"placement.environment.learner.{name}=max_split_size_mb:512"), "learner")
    assert learner[name] == "max_split_size_mb:512" and CONF not in learner
    assert CONF in of(config("scale=8gpu", f"placement.environment.learner.{name}=x"), "reference")


@pytest.mark.parametrize(
    ("word", "offline"),
    [
        ("policy.path=runs/policy/gone/x", True),
        ("policy.path=org/tiny", False),
        ("reference_path=org/tiny@main", False),
        ("references.mix.soup={org/tiny: 1.0}", False),
        ("evaluate.checkpoints=[base=org/tiny]", False),
    ],
)
def test_an_actor_may_ask_the_hub_only_if_a_policy_is_named_by_a_repository(word: str, offline: bool) -> None:
    found = environment(load([word]), "learner", gpu=False, names=["learner"], cores=2)
    assert (found.get("HF_HUB_OFFLINE") == "1") == offline


def test_roles_that_load_a_policy_of_the_hub_get_its_token_and_no_variable_of_an_actor_holds_it() -> None:
    given = {"HF_TOKEN": "hf_abc", "WANDB_API_KEY": "0123"}
    hub, here = config("reference_path=org/name"), config(f"policy.path={__file__}", f"reference_path={__file__}")
    assert {role: secrets(hub, role, given) for role in ALL} == {
        "learner": {"HF_TOKEN": "hf_abc"},
        "generator": {"HF_TOKEN": "hf_abc"},
        "reference": {"HF_TOKEN": "hf_abc"},
        "grader": {},
    }
    assert not any(secrets(here, role, given) or secrets(hub, role, {"HF_TOKEN": ""}) for role in ALL)
    assert not any("HF_TOKEN" in of(hub, role) for role in ALL)


def test_every_role_gets_the_secrets_that_the_user_names_and_no_variable_of_an_actor_holds_them() -> None:
    given = {"JUDGE_KEY": "0123", "HF_TOKEN": "hf_abc", "WANDB_API_KEY": "4567", "EMPTY": ""}
    here, hub = config(f"policy.path={__file__}", f"reference_path={__file__}"), config("reference_path=org/name")
    named = given | {ROLES_VARIABLE: "JUDGE_KEY,EMPTY,GONE"}
    assert {role: secrets(here, role, named) for role in ALL} == {role: {"JUDGE_KEY": "0123"} for role in ALL}
    assert secrets(hub, "generator", named) == {"HF_TOKEN": "hf_abc", "JUDGE_KEY": "0123"}
    assert secrets(here, "grader", given | {ROLES_VARIABLE: "HF_TOKEN"}) == {"HF_TOKEN": "hf_abc"}
    assert not any("JUDGE_KEY" in of(hub, role) for role in ALL)
