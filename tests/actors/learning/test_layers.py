"""Recomputed and compiled decoder layers: the same numbers, and which layers are computed again."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import Qwen2Config, Qwen2ForCausalLM

from actors.learning.layers import compile_layers
from actors.learning.sharding import decoder_layers
from objectives.diagnostics import means
from tests.actors.learning.learner_ranks import assert_near, batch_of, config_of, gradients_of, joined, step
from tests.conftest import make_policy

LAYERS = 3
MICROBATCHES = 3
"""Of `batch_of(0)`."""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("deep"), layers=LAYERS)


def test_only_every_nth_layer_is_computed_again_in_the_backward_pass(deep: Path) -> None:
    alone = joined(str(deep))
    expected = means(step(alone, batch_of(0)))
    for every, twice in ((1, {0, 1, 2}), (2, {0, 2}), (3, {0})):
        learner = joined(str(deep), config=config_of(gradient_checkpointing=True, checkpoint_every=every))
        calls = [0] * LAYERS
        for number, layer in enumerate(learner.policy.model.model.layers):

            def count(*_: Any, number: int = number, calls: list[int] = calls) -> None:
                calls[number] += 1

            layer.mlp.register_forward_pre_hook(count)
        assert means(step(learner, batch_of(0))) == pytest.approx(expected, rel=1e-6)
        assert_near(gradients_of(learner), gradients_of(alone), atol=1e-6)
        assert calls == [MICROBATCHES * (2 if number in twice else 1) for number in range(LAYERS)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_layers_give_the_same_gradients(deep: Path) -> None:
    """Sharded and recomputed: the hooks of FSDP and the recomputation are outside what is compiled."""
    one_shape: dict[str, Any] = {"share_prefixes": False, "token_budget": 10_000}
    alone = joined(str(deep), config=config_of(**one_shape))
    config = config_of(compile=True, gradient_checkpointing=True, offload_states=True, **one_shape)
    learner = joined(str(deep), config=config)
    try:
        expected, found = means(step(alone, batch_of(0))), means(step(learner, batch_of(0)))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert_near(gradients_of(learner), gradients_of(alone), atol=1e-5)
    finally:
        learner.close()


def test_layers_are_compiled_once_for_all_layers_and_lengths() -> None:
    config = Qwen2Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config)
    counters.clear()
    compile_layers(decoder_layers(model), backend="eager")
    for rows, columns in ((2, 5), (3, 7), (2, 12)):
        model.model(input_ids=torch.ones(rows, columns, dtype=torch.long), use_cache=False)
    assert counters["stats"]["unique_graphs"] == 1
