"""generator.engine=auto: which engine it stands for, and that the run says so."""

import importlib.util
from typing import Any

import pytest

from configs.load import load
from orchestrator.commands.jobs.compare import SETTINGS
from orchestrator.commands.pages.show_config import plan
from orchestrator.engine import LONGEST_FOR_TRANSFORMERS as LIMIT
from orchestrator.engine import chosen_engine, with_engine

SHORT = f"sampling.max_new_tokens={LIMIT}"
LONG = f"sampling.max_new_tokens={LIMIT + 1}"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster elsewhere, and vLLM is installed."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())


def test_on_a_cpu_the_length_of_the_answers_decides_and_the_run_says_why() -> None:
    lines: list[str] = []
    assert with_engine(load([SHORT]), lines.append).generator.engine == "transformers"
    assert with_engine(load([LONG]), lines.append).generator.engine == "vllm"
    assert [line.split(", because")[0] for line in lines] == [
        "generator.engine=auto: transformers",
        "generator.engine=auto: vllm",
    ]
    assert all(
        line.endswith(f"sampling.max_new_tokens is {n}") for line, n in zip(lines, (LIMIT, LIMIT + 1), strict=True)
    )
    assert plan(load([SHORT]))["generation"].startswith("transformers engine: on a CPU it is the faster one")


def test_an_engine_that_was_set_stays_and_nothing_is_said() -> None:
    lines: list[str] = []
    cfg = load([SHORT, "generator.engine=vllm"])
    assert with_engine(cfg, lines.append) == cfg
    assert lines == []


def test_a_gpu_always_has_vllm_and_one_process_never() -> None:
    assert chosen_engine(load(["scale=1gpu", SHORT]))[0] == "vllm"
    assert chosen_engine(load(["placement.kind=in_process", LONG])) == (
        "transformers",
        "placement.kind is in_process",
    )
    on_gpu = load(["scale=1gpu", "placement.kind=in_process", "generator.transfer=host"])
    assert with_engine(on_gpu).generator.engine == "transformers"


def test_the_transformers_engine_has_one_gpu_and_weights_from_host_memory() -> None:
    own = ("scale=8gpu", "generator.engine=transformers", "generator.transfer=host")
    assert load(list(own)).generator.engine == "transformers"
    with pytest.raises(ValueError, match=r"^generator\.transfer: must be 'host' with the transformers .*got 'nccl'"):
        load(list(own[:2]))
    with pytest.raises(ValueError, match=r"^placement\.tensor_parallel: must be 1 with the transformers .*got 2"):
        load([*own, "placement.tensor_parallel=2"])


def test_a_mixture_of_two_policies_needs_the_transformers_engine_whatever_the_length() -> None:
    engine, why = chosen_engine(load(["method=minillm", LONG, "sampling.mixed_with=teacher"]))
    assert (engine, why) == ("transformers", "sampling.mixed_with needs an engine that reads two policies")


def test_without_vllm_the_transformers_engine_is_chosen_unless_the_roles_run_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str, *_: Any) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert chosen_engine(load([LONG])) == ("transformers", "vLLM is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert chosen_engine(load([LONG]))[0] == "vllm"


def test_the_comparison_of_methods_runs_vllm() -> None:
    assert chosen_engine(load(["scale=cpu", *SETTINGS]))[0] == "vllm"
