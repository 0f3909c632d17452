"""The check of memory at the start of a run."""

import os
from pathlib import Path

import pytest
from transformers import JetMoeConfig

from configs.load import load
from orchestrator.planning.phases import UNKNOWN, Host
from orchestrator.preflight.memory import check_memory, gpu_bytes, this_host
from tests.orchestrator.planning.known_models import write_config


def test_a_run_that_does_not_fit_is_refused_after_its_plan_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    path = f"policy.path={write_config('72B', tmp_path / 'policy')}"
    with pytest.raises(ValueError, match=r"^placement: a learner GPU \(4 of them\) must hold .* in 80\.0 GB, got "):
        check_memory(load(["scale=8gpu", "placement.gpu_gigabytes=80", path]), lines.append)
    [text] = lines
    assert "4 learner GPUs: " in text and "key-values: " in text and "host with 4 learner" in text


def test_the_memory_of_the_gpus_is_a_setting(tmp_path: Path) -> None:
    words = ["scale=8gpu", f"policy.path={write_config('14B', tmp_path / 'policy')}"]
    with pytest.raises(ValueError, match="placement: a learner GPU"):
        check_memory(load([*words, "placement.gpu_gigabytes=80"]), print)
    check_memory(load([*words, "placement.gpu_gigabytes=141"]), print)


def test_a_model_whose_memory_cannot_be_computed_is_not_refused_but_a_wrong_setting_is(tmp_path: Path) -> None:
    lines: list[str] = []
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64, "kv_channels": 16}
    JetMoeConfig(**sizes, architectures=["JetMoeForCausalLM"]).save_pretrained(tmp_path)
    check_memory(load(["scale=8gpu", f"policy.path={tmp_path}"]), lines.append)
    [line] = lines
    assert line.startswith("memory: not computed: policy.path: memory cannot be computed for JetMoeForCausalLM, got: ")
    path = f"policy.path={write_config('7B', tmp_path / 'policy')}"
    with pytest.raises(ValueError, match=r"^learner\.lora\.r: must be at most 512 unless"):
        check_memory(load(["scale=8gpu", "learner.lora.r=513", path]), lines.append)


def test_a_run_on_cpus_has_no_memory_plan() -> None:
    lines: list[str] = []
    check_memory(load(["scale=cpu"]), lines.append)
    assert lines == []


def test_the_memory_of_the_smallest_gpu_of_this_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_bytes(load(["scale=8gpu"])) == (80e9, "GPUs of 80 GB assumed, see placement.gpu_gigabytes")
    command.write_text("#!/bin/sh\necho 81559\necho 40960\n")
    command.chmod(0o755)
    assert gpu_bytes(load(["scale=8gpu"])) == (40_960 * 2**20, "this machine's GPUs")
    assert gpu_bytes(load(["scale=8gpu", "placement.gpu_gigabytes=141"]))[0] == 141e9


def test_a_host_is_known_where_its_gpus_hold_all_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cfg = load(["scale=1gpu"])
    assert this_host(cfg) == UNKNOWN
    command.write_text("#!/bin/sh\necho 81559\necho 40960\n")
    command.chmod(0o755)
    found = this_host(cfg)
    assert found.gpus == 2 and 1e9 < found.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert this_host(load(["scale=8gpu"])) == UNKNOWN
    alone = load(["scale=1gpu", "placement.kind=in_process", "generator.transfer=host", "placement.generators=3"])
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert this_host(cfg) == UNKNOWN
    assert this_host(alone) == found


def test_a_run_whose_host_lacks_memory_is_refused_after_its_plan_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    cfg = load(["scale=8gpu", "placement.gpu_gigabytes=80", f"policy.path={write_config('7B', tmp_path / 'policy')}"])
    with pytest.raises(
        ValueError, match=r"^placement: a host of 4 learner.* in 100\.0 GB, got checkpoint being written"
    ):
        check_memory(cfg, lines.append, Host(memory=100e9))
    assert " of 100.0 in an update" in lines[0]
    check_memory(cfg, lines.append, Host(memory=1000e9))
