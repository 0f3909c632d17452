"""Whole runs that train LoRA adapters."""

import asyncio
from pathlib import Path
from typing import get_args

import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from vllm.config.lora import MaxLoRARanks

from actors.policy_files.reading import load_model
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.engine import HIGHEST_RANK, publishes_adapter, with_engine
from orchestrator.preflight import machine
from orchestrator.report.export import export
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.test_critic_run import SMALL, numbers, train

LORA = ("learner.lora.r=8", "learner.learning_rate=0.01", "name=l")


@pytest.mark.slow
def test_a_lora_run_trains_resumes_bit_for_bit_and_is_exported_merged(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = (*LORA, "task.verifier=toy_verifiers:even", "checkpoint.every=10")
    whole = train(tiny_policy, tmp_path / "whole", *words, "steps=20")
    train(tiny_policy, tmp_path / "parts", *words, "steps=10")
    resumed = train(tiny_policy, tmp_path / "parts", *words, "steps=20", resume=True)
    assert len(whole) == 20 and numbers(resumed) == numbers(whole)
    differences = [record["mismatch_abs_log_ratio"] for record in whole]  # between generators and learner
    assert all(difference < 1e-4 for difference in differences)
    exported = tmp_path / "exported"
    checkpoint = export(tmp_path / "whole" / "l", None, exported, "float32")
    base = AutoModelForCausalLM.from_pretrained(tiny_policy)
    tokens = torch.arange(2, 60)[None]
    with torch.no_grad():
        plain = base(tokens).logits.log_softmax(-1)
        adapter = PeftModel.from_pretrained(base, str(checkpoint / "adapter"))(tokens).logits.log_softmax(-1)
        found = load_model(str(exported))(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(found, adapter, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 0.01


def test_a_lora_run_has_the_same_frozen_reference_on_an_actor_and_on_the_learner_also_after_a_resume(
    tiny_policy: Path, tmp_path: Path
) -> None:
    """The reference is the policy without its adapter: at the first step their KL is 0, at the second it is not."""
    found = {}
    for placed in ("own", "learners"):
        words = (*LORA, "method=grpo_adaptive_kl", f"placement.references_on={placed}", "checkpoint.every=1")
        runs = tmp_path / placed
        train(tiny_policy, runs, *words, "steps=1")
        found[placed] = numbers(train(tiny_policy, runs, *words, "steps=2", resume=True))
    assert found["learners"] == found["own"]
    first, second = [record["kl_reference"] for record in found["own"]]
    assert abs(first) < 1e-6 and abs(second) > 1e-3


def test_without_peft_a_lora_run_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load(["placement.kind=in_process", *LORA])
    machine.check_devices(cfg)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    machine.check_devices(load(["placement.kind=in_process"]))
    with pytest.raises(ValueError, match=r"learner\.lora\.r: must be 0 where peft is not installed: pip install"):
        machine.check_devices(cfg)


def test_adapters_are_published_to_vllm_through_host_memory_and_merged_to_transformers() -> None:
    plain, merged = load(["scale=8gpu"]), "learner.lora.publish=merged"

    def published(*words: str) -> tuple[str, str]:
        cfg = with_engine(load([*LORA, *words]))
        return cfg.learner.lora.publish, cfg.generator.transfer

    assert published("scale=8gpu") == ("adapter", "host")
    assert published("scale=8gpu", merged) == ("merged", plain.generator.transfer)
    assert published("placement.kind=in_process") == ("merged", "host")
    assert with_engine(plain).learner == plain.learner and not publishes_adapter(plain)
    with pytest.raises(ValueError, match=r"learner\.lora\.publish: must not be 'adapter' with the transformers engine"):
        published("generator.engine=transformers", "learner.lora.publish=adapter")


def test_an_adapter_larger_than_those_of_vllm_is_refused_unless_it_is_merged() -> None:
    assert max(get_args(MaxLoRARanks)) == HIGHEST_RANK
    large = ["scale=8gpu", f"learner.lora.r={HIGHEST_RANK + 1}"]
    assert publishes_adapter(load([*large[:1], f"learner.lora.r={HIGHEST_RANK}"]))
    assert not publishes_adapter(load([*large, "learner.lora.publish=merged"]))
    with pytest.raises(ValueError, match=r"^learner\.lora\.r: must be at most 512 unless .*got 513"):
        publishes_adapter(load(large))


@pytest.mark.ray
@pytest.mark.slow
def test_vllm_engines_over_ray_sample_from_the_adapter_that_two_ranks_train(tmp_path: Path) -> None:
    """At the start and at the resume, generators and learner must agree (`rollout/agreement.py`)."""
    words = [*SMALL, *LORA, "learner.learning_rate=0.001", "groups_per_step=6", "sampling.group_size=4"]
    words += ["sampling.max_new_tokens=12", "task.heldout_prompts=4", "evaluate.answers=4", "evaluate.ks=[1,4]"]
    words += [f"runs={tmp_path}", "generator.engine=vllm", "placement.learners=2", "logbook.console=false"]
    words += ["placement.threads_per_generator=1", "placement.threads_per_learner=1"]
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        for steps in (2, 4):
            cfg = absolute(load([*words, f"steps={steps}"]))
            run_dir = asyncio.run(run_training(cfg, resume=steps > 2, log=lambda text: None))
    finally:
        ray.shutdown()
    records = read_records(run_dir / "metrics.jsonl")
    name = "mismatch_abs_log_ratio"  # a step whose answers all have the same reward has none
    differences = [record[name] for record in records if name in record]
    assert len(records) == 4 and len(differences) > 1 and max(differences) < 1e-4
    names = {path.name for path in (run_dir / "checkpoints" / "step-000004").iterdir()}
    assert {"policy", "adapter", "optimizer"} <= names
