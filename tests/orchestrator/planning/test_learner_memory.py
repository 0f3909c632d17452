"""The arithmetic of a learner's memory, held to torch's FSDPMemTracker."""

from dataclasses import replace

import pytest

from configs.config import Config
from configs.load import load
from orchestrator.planning.learner_memory import learner_phases, states, update_phases
from orchestrator.planning.phases import Phase
from tests.orchestrator.planning.known_models import shapes_of
from tests.orchestrator.planning.test_memory_page import TRACKED
from tests.orchestrator.planning.tracked_learner import tracked_peak


def settings(*words: str) -> Config:
    return load(["scale=8gpu", "monitor.kl_to_base=false", *words])


def peak(cfg: Config, name: str) -> Phase:
    return max(update_phases(cfg, shapes_of(name)), key=lambda one: one.bytes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ranks"), TRACKED)
def test_the_peak_of_an_update_is_within_a_tenth_of_what_torch_tracks(name: str, ranks: int) -> None:
    """`docs/deployment.md` shows both numbers."""
    cfg = settings(f"placement.learners={ranks}")
    found = tracked_peak(name, cfg.learner, ranks=ranks, rows=4, width=4_096)
    assert peak(cfg, name).bytes == pytest.approx(found, rel=0.1)
    assert found == pytest.approx(TRACKED[name, ranks] * 1e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["learner.gradient_checkpointing=false"],
        ["learner.checkpoint_every=2"],
        ["learner.replicas=2"],
        ["learner.accumulate=unsharded"],
    ],
)
def test_the_peak_with_other_settings_of_the_learner_is_within_a_tenth_of_what_torch_tracks(words: list[str]) -> None:
    cfg = settings("placement.learners=4", "learner.token_budget=4096", *words)
    found = tracked_peak("1.5B", cfg.learner, ranks=4, rows=1, width=4_096)
    assert peak(cfg, "1.5B").bytes == pytest.approx(found, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["placement.learners=4"],
        ["placement.learners=4", "learner.gradient_checkpointing=false"],
        ["placement.learners=1"],
    ],
)
def test_the_peak_of_a_lora_update_is_within_a_tenth_of_what_torch_tracks(words: list[str]) -> None:
    """With small chunks of logits, because the tracker's slices of them are larger than those of a learner
    (`fake_ranks`), and no gradient of the LM head hides the difference."""
    cfg = settings("learner.lora.r=32", "learner.token_budget=4096", "learner.logits_megabytes=64", *words)
    found = tracked_peak("1.5B", cfg.learner, ranks=cfg.placement.learners, rows=1, width=4_096)
    most = max(update_phases(cfg, shapes_of("1.5B", 32)), key=lambda one: one.bytes)
    assert most.bytes == pytest.approx(found, rel=0.1)


def test_frozen_weights_take_two_bytes_and_adapters_sixteen() -> None:
    """Qwen2.5 7B, r = 16. A layer's A and B: 16 x (in + out) of q and o (2 x 7,168), k and v (2 x 4,096), and gate, up
    and down (3 x 22,528), 16 x 90,112 = 1,441,792; 28 layers have 40.37e6. On 4 ranks 2 x 7.6156e9 / 4 = 3.808e9 and
    16 x 40.37e6 / 4 = 0.161e9 bytes, an eighth of the 30.46e9 of all weights."""
    shapes, cfg = shapes_of("7B", 16), settings("learner.lora.r=16")
    assert (shapes.parameters, shapes.adapters) == (7_615_616_512, 28 * 1_441_792)
    assert (shapes.layer_adapters, shapes.largest_tensor) == (1_441_792, 152_064 * 3_584)
    assert sum(states(cfg, shapes).values()) == (2 * 7_615_616_512 + 16 * 28 * 1_441_792) / 4
    sent = learner_phases(cfg, shapes)[-1].parts
    assert not sent.get("buffers of the transfer"), "an adapter goes through host memory"


def test_states_are_sixteen_bytes_per_parameter_divided_among_the_ranks() -> None:
    """Qwen2.5 7B has 7,615,616,512 parameters: 16 x 7.6156e9 / 4 = 30.46e9."""
    assert shapes_of("7B").parameters == 7_615_616_512
    assert sum(states(settings(), shapes_of("7B")).values()) == pytest.approx(30.462e9, rel=1e-4)


def test_checkpointed_inputs_are_two_bytes_per_token_hidden_dimension_and_layer() -> None:
    """27 of 28 layers: the last one's is freed. 27 x 2 x 16,384 x 3,584 = 3.171e9."""
    [backward] = [
        one for one in update_phases(settings(), shapes_of("7B")) if one.name == "the backward pass of a layer"
    ]
    assert backward.parts["checkpointed inputs of 27 layers"] == 27 * 2 * 16_384 * 3_584


def test_a_microbatch_is_as_long_as_the_longest_trajectory() -> None:
    long = settings("sampling.max_new_tokens=31744", "sampling.max_prompt_tokens=1024")
    assert peak(long, "7B").bytes == pytest.approx(peak(settings("learner.token_budget=32768"), "7B").bytes)


def test_ipc_holds_one_buffer_and_nccl_two() -> None:
    """As large as the embedding, 2 x 152,064 x 3,584 bytes."""
    cfg = settings()
    sent = {
        transfer: learner_phases(replace(cfg, generator=replace(cfg.generator, transfer=transfer)), shapes_of("7B"))[-1]
        for transfer in ("nccl", "ipc", "host")
    }
    assert sent["ipc"].bytes - sent["host"].bytes == 2 * 152_064 * 3_584
    assert sent["nccl"].bytes - sent["host"].bytes == 2 * 2 * 152_064 * 3_584


def test_a_critic_a_look_ahead_and_the_heads_of_references_are_counted() -> None:
    plain = peak(settings(), "7B")
    assert "weights before a look-ahead" in peak(settings("method=nash_mp"), "7B").parts
    assert peak(settings("method=safe_critic"), "7B").parts["states of the critic"] > 0
    heads = peak(settings("method=gkd", "learner.token_budget=1024"), "7B")
    assert heads.parts["LM heads of references"] == 2 * 152_064 * 3_584
    assert not {"weights before a look-ahead", "LM heads of references"} & plain.parts.keys()


def test_one_rank_in_float32_is_not_sharded_and_gathers_nothing() -> None:
    cfg = settings("policy.dtype=float32", "placement.learners=1")
    names = {one.name for one in update_phases(cfg, shapes_of("1.5B"))}
    assert names == {"the backward pass of a layer", "the backward pass of the LM head"}
    assert not {"gathered root weights", "reduce-scatter buffer"} & peak(cfg, "1.5B").parts.keys()


def test_states_in_host_memory_take_none_of_the_gpu() -> None:
    on_gpu, on_host = (peak(settings(f"learner.offload_states={value}"), "7B") for value in ("false", "true"))
    shards = 2 * 4 * shapes_of("7B").layer / 4
    assert on_gpu.bytes - on_host.bytes == pytest.approx(16 * 7_615_616_512 / 4 - shards)


def test_activations_in_host_memory_leave_the_inputs_of_two_layers() -> None:
    on_host = peak(settings("learner.offload_activations=true"), "7B")
    assert on_host.parts["checkpointed inputs of 2 layers"] == 2 * 2 * 16_384 * 3_584


def test_context_parallelism_divides_the_tokens() -> None:
    both = peak(settings("learner.context_parallel=4", "learner.layout=pad"), "7B")
    assert both.bytes == pytest.approx(peak(settings("learner.token_budget=4096"), "7B").bytes)


def test_replicas_divide_the_states_among_fewer_ranks() -> None:
    two = sum(states(settings("learner.replicas=2"), shapes_of("7B")).values())
    assert two == 2 * sum(states(settings(), shapes_of("7B")).values())
