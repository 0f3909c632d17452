"""The generator's contract for both engines, and the engine thread with engines that fail on purpose."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.contracts import GenerationJob, HostWeights, WeightsInfo
from actors.finished import EngineLoad, Finished
from actors.generation.answers import AnswerBuilder
from actors.generation.engine_thread import EngineThread
from actors.generation.transformers_engine import TransformersGenerator
from configs.generator import GeneratorConfig
from tests.actors.generation.collected import Keyed, answers, collect
from tests.actors.generation.generator_process import GeneratorServer
from tests.conftest import make_policy
from trajectories.trajectory import Trajectory

END, SECOND_END = 1, 67
"""The tokenizer's end token, and one that only generation_config.json declares."""
MAX_LENGTH = 256


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose directory also sets other sampling parameters and a second end token; only the latter applies."""
    folder = make_policy(tmp_path_factory.mktemp("generated"), hidden=128)
    settings = {"eos_token_id": [END, SECOND_END], "repetition_penalty": 3.0, "temperature": 0.1, "top_k": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"do_sample": True}))
    return folder


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.ray)])
def generator(request: pytest.FixtureRequest, policy: Path) -> Iterator[Any]:
    if request.param == "vllm":
        vllm: GeneratorServer = request.getfixturevalue("vllm")
        made: Any = vllm.fork().build(policy, max_length=MAX_LENGTH, max_sequences=16)
    else:
        made = hf(policy)
    yield made
    asyncio.run(made.close())


def hf(policy: Path, max_sequences: int = 16) -> TransformersGenerator:
    config = GeneratorConfig(max_sequences=max_sequences, timeout_s=100)
    return TransformersGenerator(str(policy), config=config, dtype="float32", max_length=MAX_LENGTH)


def job(
    key: str,
    seeds: Sequence[int] = (1,),
    *,
    prompt: int = 7,
    new: int = 24,
    temperature: float = 1.0,
    **truncation: float,
) -> Any:
    tokens = np.random.default_rng(prompt).integers(2, 250, size=prompt).astype(np.int32)
    return GenerationJob(
        key=key,
        prompt_id=f"prompt/{key}",
        prompt_tokens=tokens,
        seeds=tuple(seeds),
        temperature=temperature,
        max_new_tokens=new,
        **truncation,  # type: ignore[arg-type]
    )


def gather(generator: Any, jobs: Sequence[GenerationJob]) -> dict[str, list[Trajectory]]:
    """The answers of each job, by key, in the order of their sample index."""

    found: dict[str, list[Trajectory]] = {one.key: [] for one in jobs}
    for key, trajectory in answers(generator, jobs):
        found[key].append(trajectory)
    return {key: sorted(group, key=lambda t: t.sample_index) for key, group in found.items()}


def tokens(group: Sequence[Trajectory]) -> list[list[int]]:
    return [t.tokens.tolist() for t in group]


def reference_logps(policy: Path, trajectory: Trajectory, temperature: float) -> np.ndarray:
    """Log-prob of each token given those before it, from a plain forward pass in transformers; 0 for the first."""
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    ids = torch.as_tensor(trajectory.tokens, dtype=torch.long)
    with torch.no_grad():
        logps = torch.log_softmax(model(ids[None]).logits[0] / temperature, dim=-1)
    chosen = logps[:-1].gather(-1, ids[1:, None]).squeeze(-1)
    return torch.cat([torch.zeros(1), chosen]).numpy()


def test_the_same_seeds_give_the_same_answers(generator: Any) -> None:
    first = gather(generator, [job("a", (5, 6, 7))])["a"]
    again = gather(generator, [job("a", (5, 6, 7))])["a"]
    assert tokens(first) == tokens(again)
    assert len({tuple(answer) for answer in tokens(first)}) == 3


def test_an_answer_does_not_depend_on_the_answers_beside_it(generator: Any) -> None:
    together = gather(generator, [job("b", (11, 12), prompt=9), job("c", range(20), prompt=30), job("d", (5,))])
    alone = gather(generator, [job("c", (13,), prompt=30)])["c"]
    assert tokens(together["c"])[13] == tokens(alone)[0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_plain_forward_at_the_sampling_temperature(
    generator: Any, policy: Path, temperature: float
) -> None:
    for trajectory in gather(generator, [job("e", range(4), prompt=40, temperature=temperature)])["e"]:
        expected = reference_logps(policy, trajectory, temperature)
        assert trajectory.logp_sampler.dtype == np.float32
        np.testing.assert_allclose(trajectory.logp_sampler[trajectory.mask], expected[trajectory.mask], atol=1e-4)


def test_at_temperature_0_every_token_is_the_most_likely_one_and_has_probability_1(
    generator: Any, policy: Path
) -> None:
    jobs = [job("greedy", (1, 2), prompt=20, temperature=0.0), job("sampled", (1, 2), prompt=20)]
    found = gather(generator, jobs)
    first, second = found["greedy"]
    assert first.tokens.tolist() == second.tokens.tolist() != found["sampled"][0].tokens.tolist()
    assert not first.logp_sampler.any()
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.as_tensor(first.tokens, dtype=torch.long)[None]).logits[0]
    assert logits[19:-1].argmax(-1).tolist() == first.tokens[20:].tolist()


def kept(probabilities: np.ndarray, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> np.ndarray:
    """Probabilities of one position after min_p, then top_k, then top_p, by their definitions."""
    left = np.where(probabilities >= min_p * probabilities.max(), probabilities, 0.0)
    if top_k:
        left[np.argsort(-left)[top_k:]] = 0.0
    left = left / left.sum()
    falling = np.argsort(-left)
    before = np.cumsum(left[falling]) - left[falling]
    left[falling[before >= top_p]] = 0.0
    return left / left.sum()


@pytest.mark.parametrize(
    "truncation",
    [{"top_p": 0.8}, {"top_k": 3}, {"min_p": 0.1}, {"top_p": 0.9, "top_k": 20, "min_p": 0.02}],
    ids=lambda truncation: "-".join(truncation),
)
def test_truncated_sampling_draws_from_the_tokens_that_are_kept_and_returns_their_log_probs(
    generator: Any, policy: Path, truncation: dict[str, Any]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    jobs = [job("cut", range(8), prompt=20, temperature=0.7, **truncation), job("whole", range(8), prompt=20)]
    found = gather(generator, jobs)
    for trajectory in found["cut"]:
        ids = torch.as_tensor(trajectory.tokens, dtype=torch.long)
        with torch.no_grad():
            distributions = torch.softmax(model(ids[None]).logits[0].double() / 0.7, -1).numpy()
        expected = [np.log(kept(row, **truncation)[token]) for row, token in zip(distributions, ids[1:], strict=False)]
        np.testing.assert_allclose(trajectory.logp_sampler[20:], expected[19:], atol=1e-3)
    assert tokens(found["cut"]) != tokens(found["whole"])


def test_the_single_most_likely_token_is_that_of_greedy_decoding(generator: Any) -> None:
    found = gather(generator, [job("one", (1, 2), top_k=1), job("greedy", (3,), temperature=0.0)])
    assert tokens(found["one"]) == tokens(found["greedy"]) * 2
    assert not found["one"][0].logp_sampler.any()


def test_an_answer_ends_with_a_stop_token_that_belongs_to_it_or_at_the_limit(generator: Any, policy: Path) -> None:
    long, decode = job("f", range(150), new=40), AutoTokenizer.from_pretrained(policy).decode
    group, start = gather(generator, [long])["f"], len(long.prompt_tokens)
    for trajectory in group:
        generated = trajectory.tokens[start:].tolist()
        assert trajectory.tokens[:start].tolist() == long.prompt_tokens.tolist()
        assert trajectory.mask.tolist() == [False] * start + [True] * len(generated)
        assert not trajectory.logp_sampler[:start].any() and trajectory.logp_sampler[start:].all()
        assert not {END, SECOND_END} & set(generated[:-1])
        stopped = generated[-1] in (END, SECOND_END)
        assert trajectory.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(generated) == 40
        assert trajectory.text == decode(generated[: len(generated) - stopped], skip_special_tokens=False)
    assert {t.tokens[-1] for t in group if t.finish_reason == "stop"} == {END, SECOND_END}
    assert "length" in {t.finish_reason for t in group}


def test_an_answer_ends_at_the_token_that_completes_a_stop_string(generator: Any) -> None:
    free = gather(generator, [job("g", range(60), new=40)])["g"]
    stopped = 0
    for t in free:
        answer = t.tokens[t.mask].tolist()
        pairs = [bytes(b - 2 for b in answer[i : i + 2] if b > END) for i in range(len(answer) - 1)]
        ends = [i + 2 for i, pair in enumerate(pairs) if len(pair) == 2 and pair.isalnum()]
        if not ends or stopped == 8:
            continue
        string, stopped = pairs[ends[0] - 2].decode(), stopped + 1
        [[found]] = gather(generator, [replace(job("h", (t.seed,), new=40), stop=("never", string))]).values()
        assert found.tokens[found.mask].tolist() == answer[: ends[0]], "as without stop strings, up to the string"
        np.testing.assert_allclose(found.logp_sampler, t.logp_sampler[: len(found.tokens)], atol=1e-4)
        assert found.finish_reason == "stop"
        assert found.text == t.text[: len(found.text)] and found.text.endswith(string)
    assert stopped == 8


def test_stop_strings_end_only_the_answers_of_their_job(generator: Any) -> None:
    jobs = [replace(job("i", range(8), new=40), stop=tuple("abcdefghijklmnopqrstuvwxyz")), job("k", range(8), new=40)]
    found = gather(generator, jobs)
    assert sum(t.answer_length for t in found["i"]) < sum(t.answer_length for t in found["k"])
    assert tokens(found["k"]) == tokens(gather(generator, [job("k", range(8), new=40)])["k"])


def test_the_text_ends_with_the_stop_string_where_its_token_has_more(policy: Path) -> None:
    builder = AnswerBuilder(str(policy), max_length=MAX_LENGTH)
    answer = [2 + ord(letter) for letter in "7\n\nQ: 8"]
    one = replace(job("m"), stop=("\n", "7\n\nQ"))
    row = np.array(answer)
    block = builder.finished([(one, 0)], [row], [-np.ones(len(row))], [0], 0)
    assert (block.texts, block.ends.tolist(), block.stopped.tolist()) == (["7\n"], [len(answer)], [True])


def test_a_group_has_each_of_its_answers_once_with_its_seed(generator: Any) -> None:
    found = gather(generator, [job("g", (31, 32, 33)), job("h", range(40, 60))])
    for key, seeds in (("g", [31, 32, 33]), ("h", list(range(40, 60)))):
        assert [t.seed for t in found[key]] == seeds
        assert [t.sample_index for t in found[key]] == list(range(len(seeds)))
        assert {t.prompt_id for t in found[key]} == {f"prompt/{key}"}


def test_answers_leave_while_others_are_still_decoded(generator: Any) -> None:
    async def run() -> list[str]:
        jobs = [job("short", range(4), new=2), job("long", range(4), new=200)]
        await generator.submit(jobs)
        first = await generator.collect(100.0)
        await collect(generator, jobs, 8 - len(first))
        return list(first.keys)

    first = asyncio.run(run())
    assert "short" in first and len(first) < 8


def test_the_load_counts_answers_tokens_and_free_key_value_memory(generator: Any) -> None:
    jobs = [job("long", range(24), new=200)]

    async def run() -> list[Finished]:
        blocks = [await generator.collect(0.0)]
        await generator.submit(jobs)
        while sum(map(len, blocks)) < 24:
            blocks.append(await generator.collect(0.01))
        return blocks

    blocks = asyncio.run(run())
    first, last = blocks[0].load, blocks[-1].load
    working = next(block.load for block in blocks if block.load.running)
    assert (first.waiting, first.running) == (0, 0) == (last.waiting, last.running)
    assert working.running <= 16 and working.waiting + working.running <= 24
    assert 0 <= working.free_kv_tokens < first.free_kv_tokens == last.free_kv_tokens
    assert first.tokens <= working.tokens
    assert last.tokens - first.tokens == sum(len(block.tokens) for block in blocks)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (job("i", prompt=MAX_LENGTH - 3, new=4), "sampling.max_prompt_tokens"),
        (job("i", prompt=0), "sampling.max_prompt_tokens"),
        (job("i", temperature=0.001), "sampling.temperature"),
    ],
)
def test_an_invalid_job_is_refused_and_later_jobs_run(generator: Any, wrong: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        asyncio.run(generator.submit([job("j"), wrong]))
    longest = job("k", prompt=MAX_LENGTH - 4, new=4)
    assert list(gather(generator, [longest])) == ["k"]


def test_answers_of_the_policys_directory_have_weight_version_minus_1(generator: Any) -> None:
    group = gather(generator, [job("l", range(5))])["l"]
    assert {t.first_version for t in group} == {-1} == {t.last_version for t in group}


def test_transformers_answers_are_the_same_to_the_bit_however_submissions_are_timed(policy: Path) -> None:
    first, second = job("m", range(6), new=30), job("n", range(9), prompt=12)

    async def at_once(generator: TransformersGenerator) -> Keyed:
        await generator.submit([first])
        await generator.submit([second])
        return await collect(generator, [first, second], 15)

    async def one_after_the_other(generator: TransformersGenerator) -> Keyed:
        await generator.submit([first])
        done = await collect(generator, [first], 6)
        await generator.submit([second])
        return done + await collect(generator, [second], 9)

    generator = hf(policy, max_sequences=4)
    one, two = asyncio.run(at_once(generator)), asyncio.run(one_after_the_other(generator))
    asyncio.run(generator.close())
    assert [t.key for _, t in one] == [t.key for _, t in two]
    for (_, a), (_, b) in zip(one, two, strict=True):
        assert a.logp_sampler.tobytes() == b.logp_sampler.tobytes()


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.ray)])
def build(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Any]]:
    """Build a generator of a policy that it must refuse."""
    if request.param == "transformers":
        yield hf
        return
    vllm: GeneratorServer = request.getfixturevalue("vllm")
    process = vllm.fork()
    yield process.build
    process.end()


@pytest.mark.parametrize("fault", ["missing", "no eos", "eos beyond the vocabulary", "too short"])
def test_a_policy_that_cannot_answer_is_refused_by_name(
    build: Callable[[Path], Any], fault: str, tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    if fault != "missing":
        make_policy(folder, hidden=128)
        name, change = {
            "no eos": ("tokenizer_config.json", {"eos_token": None}),
            "eos beyond the vocabulary": ("tokenizer_config.json", {"eos_token": "<new>"}),
            "too short": ("config.json", {"max_position_embeddings": MAX_LENGTH - 1}),
        }[fault]
        change_json(folder / name, change)
    with pytest.raises(ValueError, match=r"policy\.path"):
        build(folder)


@pytest.mark.parametrize("build", [pytest.param("vllm", marks=pytest.mark.ray)], indirect=True)
def test_vllm_on_cpu_refuses_heads_it_has_no_attention_for(build: Callable[[Path], Any], tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "policy", hidden=128)
    change_json(folder / "config.json", {"num_attention_heads": 8})
    with pytest.raises(ValueError, match=r"policy\.path.*got 16$"):
        build(folder)


def change_json(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


class OneStepEngine:
    """An engine with the real interface whose step is a function of the test."""

    version = -1

    def __init__(self, step: Callable[[], Finished | None]) -> None:
        self.step = step
        self.busy = False
        self.closed = False

    def submit(self, jobs: Sequence[GenerationJob]) -> None:
        self.busy = True

    def workload(self) -> EngineLoad:
        return EngineLoad()

    def declare(self, info: WeightsInfo) -> None:
        raise ValueError("refused")

    def load(self, weights: HostWeights) -> None:
        raise ValueError("half of the tensors fit")

    def close(self) -> None:
        self.closed = True


def raise_memory_error() -> Finished | None:
    raise MemoryError("no room")


def threaded(step: Callable[[], Finished | None], timeout_s: float = 10.0) -> tuple[EngineThread, OneStepEngine]:
    engine = OneStepEngine(step)
    return EngineThread(lambda: engine, max_length=MAX_LENGTH, timeout_s=timeout_s), engine


def test_what_a_step_raised_is_raised_by_every_later_call_and_closes_the_engine() -> None:
    generator, engine = threaded(raise_memory_error)
    weights = HostWeights(version=1, data=np.zeros(4, np.uint8))

    async def run() -> None:
        await generator.submit([job("a")])
        with pytest.raises(RuntimeError, match="no room"):
            await generator.collect(10.0)
        with pytest.raises(RuntimeError, match="no room"):
            await generator.submit([job("b")])
        generator._info = WeightsInfo(names=("w",), shapes=((1,),), dtype="float32")
        with pytest.raises(RuntimeError, match="no room"):
            await generator.update_weights(weights)
        await generator.close()

    asyncio.run(run())
    assert engine.closed


def test_an_error_wakes_a_collect_that_is_waiting() -> None:
    def fail_later() -> Finished | None:
        time.sleep(0.2)
        raise MemoryError("no room")

    generator, _ = threaded(fail_later)

    async def run() -> None:
        await generator.submit([job("a")])
        with pytest.raises(RuntimeError, match="no room"):
            await asyncio.wait_for(generator.collect(60.0), 10)
        await generator.close()

    asyncio.run(run())


def test_a_collect_that_is_cancelled_just_as_its_answer_comes_stays_cancelled() -> None:
    generator, _ = threaded(lambda: None)

    async def run() -> None:
        collecting = asyncio.create_task(generator.collect(60.0))
        while not generator._waiters:
            await asyncio.sleep(0.001)
        generator._waiters.pop().set_result(None)
        await asyncio.sleep(0)  # now the future it awaits is done, and it has not woken yet
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting
        await generator.close()

    asyncio.run(run())


def test_a_refused_command_leaves_the_engine_alive_and_a_half_loaded_policy_does_not() -> None:
    generator, _ = threaded(raise_memory_error)
    info = WeightsInfo(names=("w",), shapes=((1,),), dtype="float32")

    async def run() -> None:
        with pytest.raises(ValueError, match="refused"):
            await generator.init_weights(info)
        assert not len(await generator.collect(0.0))
        generator._info = info
        with pytest.raises(RuntimeError, match="version 1 failed: half"):
            await generator.update_weights(HostWeights(version=1, data=np.zeros(4, np.uint8)))
        with pytest.raises(RuntimeError, match="half"):
            await generator.collect(10.0)
        await generator.close()

    asyncio.run(run())


def test_an_engine_that_generates_nothing_for_too_long_is_an_error() -> None:
    generator, _ = threaded(lambda: None, timeout_s=0.2)

    async def run() -> None:
        assert not len(await generator.collect(0.3)), "an idle engine has no timeout"
        await generator.submit([job("a")])
        with pytest.raises(TimeoutError, match=r"generator\.timeout_s"):
            await generator.collect(0.5)
        await generator.close()

    asyncio.run(run())


def test_what_building_the_engine_raised_is_raised_by_the_constructor() -> None:
    def build() -> OneStepEngine:
        raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        EngineThread(build, max_length=8, timeout_s=10.0)


def test_closing_twice_is_harmless_and_nothing_is_accepted_afterwards() -> None:
    generator, engine = threaded(lambda: None)

    async def run() -> None:
        await generator.close()
        await generator.close()
        with pytest.raises(RuntimeError, match="closed"):
            await generator.submit([job("a")])

    asyncio.run(run())
    assert engine.closed and not generator._thread.is_alive()
