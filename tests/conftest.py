"""The temporary folder of a session, and fixtures: tiny random policies on disk, and one process with vLLM imported."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tasks.characters import VOCABULARY_SIZE, save_tokenizer
from tests.actors.generation.generator_process import GeneratorServer

torch.set_num_threads(1)

FOLDER = Path(__file__).parent
TIMED = (
    "rewards/",
    "actors/test_grader.py",
    "orchestrator/commands/test_verify",
    "tasks/dataset/test_dataset_programs",
)
"""Tests of the timeouts of real processes. `make test` runs them with no other test beside them."""


def pytest_configure(config: pytest.Config) -> None:
    """Make a temporary folder of the session, which the workers of pytest-xdist inherit. It is removed at the end.

    Libraries leave files there when their process is killed, as many tests do: sockets, `pymp-*`.
    """
    if not hasattr(config, "workerinput"):
        # pytest keeps the directories of its last sessions where they are without this.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        # Its path is short, as that of a socket has at most 107 bytes.
        folder = tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t")
        # By its name, as tests may set TMPDIR.
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of TIMED, before pytest selects by marker."""
    for item in items:
        if item.path.relative_to(FOLDER).as_posix().startswith(TIMED):
            item.add_marker(pytest.mark.timed)


def make_policy(
    folder: Path,
    seed: int = 0,
    hidden: int = 64,
    tie: bool = True,
    layers: int = 2,
    head_size: int = 32,
    key_heads: int = 1,
) -> Path:
    """A random Qwen2 policy over bytes, with weights large enough that its distribution is far from uniform."""
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head_size,
        num_key_value_heads=key_heads,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def make_mixture_of_experts(folder: Path, seed: int = 0) -> Path:
    """A random Qwen3-MoE policy over bytes: 4 experts a layer, whose weights are large, so that the log-probs depend on
    them. transformers holds the experts of a layer as one parameter; the files do not."""
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = Qwen3MoeForCausalLM(config)
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(12)
        model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def other_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Same architecture, other weights."""
    return make_policy(tmp_path_factory.mktemp("other_policy"), seed=1)


@pytest.fixture(scope="session")
def vllm() -> Iterator[GeneratorServer]:
    """The process from which vLLM generators are forked; it starts with the first test that needs one."""
    server = GeneratorServer()
    yield server
    server.close()
