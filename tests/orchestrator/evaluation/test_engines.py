"""Policies of one evaluation: which of them share an engine, and that each has its own template and stop tokens."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.weights import pieces
from actors.weights.file_names import as_in_files
from orchestrator.evaluation.engines import by_engine
from orchestrator.evaluation.job import evaluate
from tests.conftest import make_policy
from tests.orchestrator.in_process import config

STOP_BYTES = "aeiou0123456789"
"""Bytes that end an answer of the instruct policy and not of the base."""


def change(folder: Path, name: str, **values: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def with_template(folder: Path, template: str) -> Path:
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_policy(tmp_path_factory.mktemp("base") / "base")
    return with_template(folder, "<{{ messages[0].content }}>")


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `base` with other stop tokens and another chat template."""
    folder = make_policy(tmp_path_factory.mktemp("instruct") / "instruct")
    change(folder, "generation_config.json", eos_token_id=[1, *(2 + ord(byte) for byte in STOP_BYTES)])
    return with_template(folder, "user: {{ messages[0].content }}\nassistant:")


def test_policies_of_equal_shapes_are_measured_with_their_own_templates_and_stop_tokens(
    base: Path, instruct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)  # every layer of their weights is published on its own
    settings = ("policy.chat_template=true", "sampling.max_prompt_tokens=64", "evaluate.frontier=[]", "seed=3")

    def measured(**policies: Path) -> dict[str, list[tuple[Any, ...]]]:
        runs = tmp_path / "-".join(policies)
        cfg = config(base, runs, *settings)
        asyncio.run(evaluate(cfg, {name: str(path) for name, path in policies.items()}, lambda line: None, runs))
        rows = pq.read_table(runs / "answers.parquet").to_pylist()
        columns = ("prompt_id", "sample_index", "answer", "finish_reason", "log_prob")
        return {n: [tuple(row[c] for c in columns) for row in rows if row["policy"] == n] for n in policies}

    together = measured(base=base, instruct=instruct)
    assert together == measured(base=base) | measured(instruct=instruct)
    instruct_answers = [answer for _, _, answer, _, _ in together["instruct"]]
    assert not any(byte in answer for answer in instruct_answers for byte in STOP_BYTES)
    assert any(byte in answer for _, _, answer, _, _ in together["base"] for byte in STOP_BYTES)
    assert together["base"] != together["instruct"]


def test_a_policy_and_its_checkpoint_share_an_engine_whatever_their_weights_and_templates(
    tiny_policy: Path, other_policy: Path, base: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    AutoModelForCausalLM.from_pretrained(other_policy).bfloat16().save_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(other_policy).save_pretrained(checkpoint)
    paths = {"base": str(tiny_policy), "trained": str(checkpoint), "template": str(base)}
    assert by_engine(paths, 64) == [paths]


@pytest.mark.parametrize("difference", ["stop", "rotary", "width", "special", "tokens"])
def test_policies_that_differ_in_more_than_weights_have_engines_of_their_own(
    tiny_policy: Path, tmp_path: Path, difference: str
) -> None:
    other = make_policy(tmp_path / "other", hidden=128 if difference == "width" else 64)
    if difference == "stop":
        change(other, "generation_config.json", eos_token_id=[1, 67])
    if difference == "rotary":  # the same shapes, other positions
        change(other, "config.json", rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    if difference == "special":
        change(other, "tokenizer_config.json", pad_token="a")
    if difference == "tokens":
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        ids = tokenizer["model"]["vocab"]
        ids["a"], ids["b"] = ids["b"], ids["a"]
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    paths = {"base": str(tiny_policy), "other": str(other), "same": str(tiny_policy)}
    assert by_engine(paths, 64) == [{"base": paths["base"], "same": paths["same"]}, {"other": paths["other"]}]


def test_a_publication_that_changes_the_policy_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: Any, named: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in as_in_files(model, named):
            yield name, torch.zeros_like(tensor) if name.endswith("layers.0.mlp.down_proj.weight") else tensor

    monkeypatch.setattr("orchestrator.supervision.without_learner.as_in_files", damaged)
    cfg = config(base, tmp_path, "sampling.max_prompt_tokens=64", "evaluate.frontier=[]")
    with pytest.raises(
        ValueError, match=r"^evaluate\.checkpoints: publishing .* must not change it, got .*base'.*16 first"
    ):
        asyncio.run(evaluate(cfg, {"base": str(base)}, lambda line: None, tmp_path))
