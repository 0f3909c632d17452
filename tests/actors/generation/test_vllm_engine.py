"""What only the vLLM engine does: it sleeps, ends a step in progress before an update, and divides a model."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_cache import HubCache

from actors.weights.host import pack, weights_info
from tests.actors.generation.collected import Keyed, answers, collect
from tests.actors.generation.generator_process import GeneratorServer
from tests.actors.weights.test_publication import in_files, job
from tests.conftest import make_policy

pytestmark = pytest.mark.ray

STEP_IN_PROGRESS = "tests.actors.generation.step_in_progress"


def assert_same(one: Keyed, other: Keyed, tolerance: float) -> None:
    for (_, a), (_, b) in zip(*(sorted(each, key=lambda t: t[1].sample_index) for each in (one, other)), strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.logp_sampler, b.logp_sampler, atol=tolerance)


def test_answers_in_flight_go_on_after_a_sleep_and_the_weights_wake_before_the_cache(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    folder = make_policy(tmp_path, hidden=128)
    generator = vllm.fork().build(folder, max_sequences=4)
    jobs = [job("a", 8, new=100)]
    expected = answers(generator, jobs)

    async def run() -> Keyed:
        await generator.submit(jobs)
        assert 0 < generator.call("sleep") <= 8
        nothing = await generator.collect(0.5)
        assert nothing.load.asleep and not len(nothing), "a sleeping engine decodes nothing"
        generator.call("wake_up", ["weights"])
        assert not len(await generator.collect(0.5)), "without a key-value cache nothing is decoded"
        await generator.init_weights(weights_info(in_files(folder)))
        assert await generator.update_weights(pack(in_files(folder), 1)) == 1
        generator.call("wake_up", ["kv_cache"])
        return await collect(generator, jobs, 8)

    found = asyncio.run(run())
    asyncio.run(generator.close())
    assert_same(expected, found, 1e-4)
    assert {t.last_version for _, t in found} == {1}


def test_logits_are_float32_as_the_learners_are_also_where_the_policy_is_bfloat16(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    folder = make_policy(tmp_path, hidden=128)
    process = vllm.fork()
    found = [
        process.run("tests.actors.generation.vllm_head", "head_dtype", policy=str(folder), dtype=dtype)
        for dtype in ("bfloat16", "float32")
    ]
    process.end()
    assert found == [("torch.bfloat16", "torch.float32"), ("torch.float32", "torch.float32")]


def test_a_policy_of_the_hub_answers_as_the_same_files_in_a_folder_do(vllm: GeneratorServer, tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "policy", hidden=128)
    cache = HubCache(tmp_path / "home")
    commit = cache.add_policy("org/tiny", folder)
    jobs = [job("sampled", 4), job("greedy", 1, temperature=0.0)]

    def answered(path: str) -> list[Keyed]:
        process = vllm.fork()
        process.run("hub_cache", "read_from", home=str(cache.home))
        generator = process.build(Path(path), max_sequences=4)
        found = [answers(generator, [one]) for one in jobs]
        asyncio.run(generator.close())
        return found

    for here, hub in zip(answered(str(folder)), answered(f"org/tiny@{commit}"), strict=True):
        assert_same(here, hub, 0.0)


def test_a_step_in_progress_is_finished_before_weights_are_loaded_and_its_answers_are_kept(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    process = vllm.fork()
    process.run(STEP_IN_PROGRESS, "check_drain", policy=make_policy(tmp_path, hidden=128))
    process.end()


def test_two_processes_that_share_a_model_answer_as_one_does_also_after_an_update(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    first, second = (make_policy(tmp_path / str(seed), seed=seed, hidden=128) for seed in range(2))

    def answered(tensor_parallel: int) -> list[Keyed]:
        generator = vllm.fork().build(first, max_sequences=8, tensor_parallel=tensor_parallel)
        jobs = [job("sampled", 4), job("greedy", 1, temperature=0.0)]
        found = [answers(generator, [one]) for one in jobs]
        asyncio.run(generator.init_weights(weights_info(in_files(second))))
        asyncio.run(generator.update_weights(pack(in_files(second), 1)))
        found += [answers(generator, [one]) for one in jobs]
        asyncio.run(generator.close())
        return found

    for alone, shared in zip(answered(1), answered(2), strict=True):
        assert_same(alone, shared, 1e-4)


@pytest.mark.parametrize(
    ("kv_tokens", "max_length", "expected"),
    [
        (380_000, 4096, 185),  # 2 * 380,000 / 4,096: Qwen3-8B on 80 GB
        (1_200_000, 4096, 512),  # the bound
        (3000, 4096, 1),
    ],
)
def test_as_many_answers_are_decoded_as_the_cache_holds_at_half_their_length(
    vllm: GeneratorServer, kv_tokens: int, max_length: int, expected: int
) -> None:
    process = vllm.fork()
    found: Any = process.run(
        "actors.generation.engine_limits", "sequences_that_fit", kv_tokens=kv_tokens, max_length=max_length
    )
    process.end()
    assert found == expected


def test_the_number_of_answers_at_a_time_comes_from_the_memory_unless_it_is_given(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    folder = make_policy(tmp_path, hidden=128)
    generator = vllm.fork().build(folder, max_length=512, max_sequences=0, kv_cache_bytes=2**24)
    load = asyncio.run(generator.collect(0.0)).load
    asyncio.run(generator.close())
    # Key and value, 2 layers, 1 head of 32 numbers in float32.
    tokens = 2**24 // (2 * 2 * 1 * 32 * 4)
    assert load.free_kv_tokens == pytest.approx(tokens, rel=0.01)
    assert load.free_sequences == pytest.approx(2 * tokens / 512, rel=0.02)
