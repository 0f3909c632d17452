"""Memory plans of whole runs."""

import math

import pytest

from actors.generation.engine_limits import GPU_STEP_TOKENS
from configs.config import Config
from configs.load import load
from orchestrator.placement import takes_turns
from orchestrator.planning.host_memory import PROCESS
from orchestrator.planning.memory import CONTEXT, CUDA_GRAPHS, memory_plan
from orchestrator.planning.phases import Host, MemoryPlan
from tests.orchestrator.planning.known_models import shapes_of


def planned(name: str, *words: str, gpu_bytes: float = 80e9) -> MemoryPlan:
    return memory_plan(load(list(words)), shapes_of(name), gpu_bytes)


def test_split_roles_have_gpus_of_their_own() -> None:
    plan = planned("7B", "scale=8gpu")
    assert [(place.name, place.count) for place in plan.gpus] == [("learner", 4), ("generator", 3), ("reference", 1)]
    assert plan.fits
    without = planned("7B", "scale=8gpu", "monitor.kl_to_base=false")
    assert [place.name for place in without.gpus] == ["learner", "generator"]


def test_references_on_the_learners_need_no_gpu_and_lie_in_host_memory() -> None:
    own, shared = (planned("7B", "scale=8gpu", f"placement.references_on={where}") for where in ("own", "learners"))
    assert [place.name for place in shared.gpus] == ["learner", "generator"]
    assert "shards of references" not in own.hosts[0].phases[0].parts
    assert shared.hosts[0].phases[0].parts["shards of references"] == 2 * 7_615_616_512
    assert shared.gpus[0].peak.bytes == own.gpus[0].peak.bytes, "an update needs more than a forward pass"


@pytest.mark.parametrize(("scale", "policy"), [("1gpu", "1.5B"), ("8gpu", "8B")])
def test_presets_fit_the_policies_that_they_are_for(scale: str, policy: str) -> None:
    assert planned(policy, f"scale={scale}").fits


def test_key_values_fill_what_weights_and_activations_leave_of_the_fraction() -> None:
    """0.9 x 80 GB - 2 x 7.6156 GB - 133,072 x 8,192 bytes = 55.68 GB; 57,344 bytes x 4,096 tokens: 237 answers."""
    plan = planned("7B", "scale=8gpu")
    forward = shapes_of("7B").activations.forward * GPU_STEP_TOKENS
    assert plan.key_values == pytest.approx(0.9 * 80e9 - 2 * 7_615_616_512 - forward)
    assert plan.key_values_per_token == 57_344
    assert plan.sequences == int(plan.key_values / (57_344 * 4_096)) == 237


def test_tensor_parallel_divides_weights_and_key_values() -> None:
    one, two = (planned("14B", "scale=8gpu", f"placement.tensor_parallel={size}") for size in (1, 2))
    assert two.key_values_per_token == one.key_values_per_token / 2
    weights = [plan.gpus[1].peak.parts["engine's weights"] for plan in (one, two)]
    assert weights[1] == weights[0] / 2


def test_gpus_beyond_the_key_heads_hold_copies_of_their_key_values() -> None:
    """Qwen2.5 1.5B has 12 heads and 2 key heads."""
    sizes = (1, 2, 4)
    plans = [planned("1.5B", "scale=8gpu", f"placement.tensor_parallel={size}") for size in sizes]
    one, two, four = (plan.key_values_per_token for plan in plans)
    assert two == four == one / 2


def test_roles_of_one_process_share_a_gpu_and_its_context() -> None:
    own = ("placement.kind=in_process", "generator.transfer=host", "placement.references_on=own")
    plan = planned("1.5B", "scale=1gpu", *own, "generator.max_sequences=64")
    [place] = plan.gpus
    peak, size = place.peak.parts, 2 * shapes_of("1.5B").parameters
    assert peak["CUDA contexts and NCCL"] == CONTEXT
    assert peak["engine's weights"] == peak["weights of references"] == size
    assert "CUDA graphs" not in peak
    assert peak["engine's key-values"] == 64 * 4_096 * plan.key_values_per_token
    assert plan.sequences == 64
    [two] = planned("1.5B", "scale=1gpu", *own, "generator.max_sequences=64", "placement.generators=2").gpus
    assert two.peak.parts["engine's weights"] == 2 * size


@pytest.mark.parametrize("mode", ["colocated", "split"])
def test_the_host_of_one_process_holds_that_process_with_all_its_roles(mode: str) -> None:
    own = ("placement.kind=in_process", "generator.transfer=host", "placement.references_on=own")
    plan = memory_plan(
        load(["scale=1gpu", *own, f"placement.mode={mode}", "placement.generators=2"]),
        shapes_of("1.5B"),
        80e9,
        Host(memory=500e9, gpus=1),
    )
    [place] = plan.hosts
    assert place.name == "1 learner, 2 generator, 1 reference"
    [update] = [one for one in place.phases if one.name == "an update"]
    assert update.parts["processes"] == PROCESS
    assert update.parts["weights for generators"] == 2 * shapes_of("1.5B").parameters
    assert "the publication" not in [one.name for one in place.phases]


def test_a_second_policy_of_the_transformers_engine_is_counted() -> None:
    words = ("scale=8gpu", "generator.transfer=host", "generator.max_sequences=8")
    plain = planned("1.5B", *words, "generator.engine=transformers")
    mixed = planned("1.5B", *words, "method=minillm", "sampling.mixed_with=teacher")
    for part in ("engine's weights", "engine's key-values"):
        assert mixed.gpus[1].peak.parts[part] == 2 * plain.gpus[1].peak.parts[part]


def colocated(*words: str) -> Config:
    return load(["scale=1gpu", *words])


def test_a_colocated_engine_sleeps_during_the_update_and_only_where_the_roles_take_turns() -> None:
    turns, beside = colocated(), colocated("lag=1", "objective.old_policy=sampler")
    assert takes_turns(turns) and not takes_turns(beside) and not takes_turns(load(["scale=8gpu"]))
    update = [
        next(one for one in memory_plan(cfg, shapes_of("1.5B"), 80e9).gpus[0].phases if "layer" in one.name)
        for cfg in (turns, beside)
    ]
    assert update[0].bytes + 0.45 * 80e9 == pytest.approx(update[1].bytes)


def test_each_colocated_phase_holds_weights_and_moments_of_the_learner_and_an_update_gradients_too() -> None:
    [place] = memory_plan(colocated(), shapes_of("1.5B"), 80e9).gpus
    states = 12 * shapes_of("1.5B").parameters
    [generation] = [one for one in place.phases if one.name == "generation"]
    assert generation.bytes == pytest.approx(states + 0.45 * 80e9 + 2 * CONTEXT + CUDA_GRAPHS)
    assert all(one.bytes > states for one in place.phases)
    with_gradients = [one.name for one in place.phases if "float32 gradients" in one.parts]
    assert with_gradients and not {"generation", "the publication"} & set(with_gradients)


def test_colocated_gpus_with_and_without_a_reference_are_told_apart() -> None:
    plan = planned(
        "7B", "scale=8gpu", "placement.mode=colocated", "generator.transfer=ipc", "placement.generators=8",
        "placement.learners=8", "generator.memory_fraction=0.5",
    )  # fmt: skip
    names = [(place.name, place.count) for place in plan.gpus]
    assert names == [("learner + generator + reference", 1), ("learner + generator", 7)]
    assert plan.gpus[0].peak.bytes > plan.gpus[1].peak.bytes


def host(*words: str) -> dict[str, dict[str, float]]:
    """Parts by phase of the host of 4 of 4 learner ranks."""
    [place] = planned("7B", "scale=8gpu", *words).hosts
    return {one.name: dict(one.parts) for one in place.phases}


def test_hosts_hold_what_is_written_published_and_offloaded() -> None:
    """Policy and moments are 12 bytes per parameter in a checkpoint; 14 with a policy in bfloat16, as the float32
    weights are beside it."""
    size = 7_615_616_512
    assert host()["an update"]["checkpoint being written"] == pytest.approx(12 * size)
    assert host("checkpoint.dtype=bfloat16")["an update"]["checkpoint being written"] == pytest.approx(14 * size)
    assert host("generator.transfer=host")["an update"]["weights for generators"] == 2 * size
    elsewhere = host("generator.transfer=host", "placement.generators=8")
    assert "weights for generators" not in elsewhere["an update"]
    # Two copies of the embedding, the largest piece, whatever the size of the policy.
    assert elsewhere["the publication"]["pieces of the weights"] == 2 * 2 * 152_064 * 3_584
    assert host("method=sparse_po")["an update"]["hidden states of references"] > 0
    assert "hidden states of references" not in host("method=gkd")["an update"]
    assert host("method=gkd")["an update"]["shards of references"] == 2 * size
    assert host("learner.offload_states=true")["loading"]["states of the learner"] == pytest.approx(16 * size)
    assert host("learner.offload_activations=true")["an update"]["activations"] == 4 * 28 * 2 * 16_384 * 3_584


def test_pinned_memory_takes_powers_of_two() -> None:
    def rounded(size: float) -> float:
        return 2.0 ** math.ceil(math.log2(size))

    sizes, input_ = shapes_of("7B").sizes, 2 * 16_384 * 3_584
    assert sum(sizes) == 7_615_616_512
    of_shards = sum(rounded(4 * size / 4) - 4 * size / 4 for size in sizes)
    unused = "pinned memory, rounded up"
    assert host("learner.offload_states=true")["an update"][unused] == pytest.approx(4 * 2 * of_shards)
    assert host("learner.offload_activations=true")["an update"][unused] == 4 * 28 * (rounded(input_) - input_)
    of_references = sum(rounded(2 * size / 4) - 2 * size / 4 for size in sizes)
    assert host("method=gkd")["loading"][unused] == pytest.approx(4 * of_references)
    assert unused not in host()["an update"]
    [asleep] = planned("7B", "scale=8gpu_colocated", "monitor.kl_to_base=false").hosts
    parts = next(one.parts for one in asleep.phases if one.name == "an update")
    assert parts[unused] == pytest.approx(8 * sum(rounded(2 * size) - 2 * size for size in sizes))


def test_a_sleeping_engine_keeps_its_weights_in_host_memory() -> None:
    [place] = planned("1.5B", "scale=1gpu").hosts
    [update] = [one for one in place.phases if one.name == "an update"]
    assert update.parts["weights of sleeping engines"] == 2 * shapes_of("1.5B").parameters
