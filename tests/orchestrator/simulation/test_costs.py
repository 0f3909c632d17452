"""Costs of GPUs, against published measurements and the arithmetic of a review."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from configs.config import Config
from configs.load import load
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.simulation.costs import LearnerCosts, gpu_costs, multiplied, traffic_s
from orchestrator.simulation.hardware import GPUS, gpu_named
from tests.orchestrator.planning.known_models import shapes_of


def llama(hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, vocabulary: int) -> ModelShapes:
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
    )
    with torch.device("meta"):
        return ModelShapes(AutoModelForCausalLM.from_config(config), torch.bfloat16)


LLAMA_7B = (4096, 11_008, 32, 32, 32, 32_000)
LLAMA_8B = (4096, 14_336, 32, 32, 8, 128_256)


def settings(*words: str) -> Config:
    return load(["scale=8gpu", "policy.path=/policy", *words])


def test_the_input_embedding_is_in_no_matrix_product() -> None:
    untied, tied = shapes_of("7B"), shapes_of("1.5B")
    assert multiplied(untied) == pytest.approx(untied.parameters - 152_064 * 3584, rel=1e-5)
    assert multiplied(tied) == pytest.approx(tied.parameters, rel=1e-5)


def test_decoding_on_an_a100_is_near_the_published_rate() -> None:
    """TensorRT-LLM 0.6.1, docs/source/performance.md: LLaMA 7B, FP16, batch 60, 128 + 2,048 tokens: 1,928 tokens/s."""
    engine = gpu_costs(settings(), llama(*LLAMA_7B), GPUS["a100-80"]).engine
    step = engine.step_s(60) + 60 * (128 + 1024) * engine.kv_s
    assert 60 / step == pytest.approx(1_928, rel=0.2)


def test_training_on_eight_h100_is_near_the_published_rate() -> None:
    """torchtitan, docs/performance.md: Llama 3.1 8B, FSDP2, batch 2 of 8,192 tokens: 5,762 tokens/s per GPU."""
    words = ("placement.learners=8", "placement.generators=1", "learner.token_budget=16384")
    learner = gpu_costs(settings(*words), llama(*LLAMA_8B), GPUS["h100"]).learner
    seconds, _ = learner.update([8_192] * 16)
    assert 2 * 8_192 / seconds == pytest.approx(5_762, rel=0.25)


def test_the_reviewed_update_of_67_million_tokens_has_the_reviewed_arithmetic() -> None:
    """7B on 32 H100, one answer of 8.4k tokens per microbatch: update 360 s, FSDP traffic 390 s."""
    words = ("placement.learners=32", "placement.generators=1")
    learner = gpu_costs(settings(*words), shapes_of("7B"), GPUS["h100"]).learner
    lengths = [8_200] * 8_192
    computed = (sum(lengths) * learner.token_s + sum(n**2 for n in lengths) * learner.token_squared_s) / 32
    assert computed == pytest.approx(360, rel=0.15)
    assert 256 * learner.traffic_s == pytest.approx(390, rel=0.15)
    seconds, exposed = learner.update(lengths)
    assert exposed == pytest.approx(max(0.0, 256 * learner.traffic_s - computed))
    assert seconds >= computed + exposed


def test_replicas_within_a_node_and_unsharded_accumulation_need_less_traffic_per_microbatch() -> None:
    shapes, gpu = shapes_of("32B"), GPUS["h100"]
    words = ("placement.learners=32", "placement.generators=1")
    whole, _ = traffic_s(settings(*words), shapes, gpu)
    in_nodes, summed = traffic_s(settings(*words, "learner.replicas=4"), shapes, gpu)
    assert in_nodes < whole / 5 and summed > 0
    gathered, once = traffic_s(settings(*words, "learner.accumulate=unsharded"), shapes, gpu)
    assert gathered == 0 and 0 < once < whole


def test_more_gpus_per_engine_read_less_each_and_hold_more() -> None:
    one, four = (
        gpu_costs(settings(f"placement.tensor_parallel={n}"), shapes_of("14B"), GPUS["h100"]).engine for n in (1, 4)
    )
    assert four.weights_s == pytest.approx(one.weights_s / 4)
    assert four.kv_tokens > 4 * one.kv_tokens
    assert four.overhead_s > one.overhead_s


def test_an_engine_whose_answers_are_not_counted_decodes_as_many_as_it_holds_at_half_of_their_length() -> None:
    engine = gpu_costs(settings("generator.max_sequences=0"), shapes_of("7B"), GPUS["a100-40"]).engine
    assert engine.max_sequences == min(512, int(engine.kv_tokens / (4_096 / 2)))
    given = gpu_costs(settings("generator.max_sequences=7"), shapes_of("7B"), GPUS["a100-40"]).engine
    assert given.max_sequences == 7


def test_references_are_counted_where_they_score() -> None:
    words = ("method=dpo", "objective.pairs.mask=none")
    own, held = (
        gpu_costs(load([f"scale={scale}", "policy.path=/policy", *words]), shapes_of("7B"), GPUS["h100"])
        for scale in ("8gpu", "8gpu_colocated")
    )
    assert (own.scores, own.early_references, own.late_references, own.held_references) == (1, 1, 0, 0)
    assert (held.scores, held.early_references, held.late_references, held.held_references) == (1, 0, 0, 1)
    none = gpu_costs(settings(), shapes_of("7B"), GPUS["h100"])
    assert none.scoring([1000] * 8) == (0.0, 0.0) and not none.early_references


def test_a_pass_for_scores_is_a_quarter_of_an_update_and_one_for_whole_distributions_is_in_the_update() -> None:
    lengths = [4_000] * 64
    plain = gpu_costs(settings("method=dpo"), shapes_of("7B"), GPUS["h100"]).learner
    assert plain.score(lengths) == pytest.approx((plain.update(lengths)[0] - plain.update_s) / 4)
    distilled = gpu_costs(settings("method=gkd"), shapes_of("7B"), GPUS["h100"]).learner
    assert distilled.token_s == pytest.approx(plain.token_s * 5 / 4)
    assert distilled.score(lengths) < distilled.update(lengths)[0] / 4


def test_more_reference_actors_score_a_group_sooner() -> None:
    one, two = (
        gpu_costs(settings("method=dpo", f"placement.references={n}"), shapes_of("7B"), GPUS["h100"]).reference
        for n in (1, 2)
    )
    assert two.score([3_000] * 16) == pytest.approx(one.score([3_000] * 16) / 2)


def test_a_trajectory_wider_than_half_of_the_budget_fills_a_microbatch() -> None:
    learner = LearnerCosts(token_budget=100, microbatch_s=1.0)
    assert learner.update([60] * 4)[0] == 4
    assert learner.update([50] * 4)[0] == 2


def test_an_unknown_gpu_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"gpu: must be one of a100-40, .*, l40s \(did you mean 'h100'\?\)"):
        gpu_named("h10")
