"""LoRA adapters that vLLM gets from the learner's memory, without the weights."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from actors.contracts import HostWeights
from actors.learning.learner import FsdpLearner
from configs.lora import LoraConfig
from tests.actors.generation.collected import Keyed, answers, collect
from tests.actors.generation.generator_process import GeneratorProcess, GeneratorServer
from tests.actors.learning.learner_ranks import batch_of, config_of, joined, save, step
from tests.actors.weights.test_publication import assert_answers_of, job
from tests.conftest import make_mixture_of_experts, make_policy

pytestmark = pytest.mark.ray

LORA = LoraConfig(r=4, publish="adapter", use_rslora=True)


class Adapted:
    """A learner of an adapter, and a vLLM generator that holds the weights the learner started from."""

    def __init__(self, vllm: GeneratorServer, folder: Path, lora: LoraConfig) -> None:
        self.learner: FsdpLearner = joined(str(folder), config=config_of(lora=lora, learning_rate=0.01))
        self.generator: GeneratorProcess = vllm.fork().build(folder, max_sequences=8, lora=lora)
        asyncio.run(self.generator.init_weights(self.learner.weights_info()))
        self.version = 0

    def publish(self) -> HostWeights:
        self.version += 1
        weights = self.learner.weights(self.version, checksum=True)
        assert weights is not None
        assert asyncio.run(self.generator.update_weights(weights)) == self.version
        return weights

    def merged(self, folder: Path) -> Any:
        self.learner.save_policy(str(folder))
        return AutoModelForCausalLM.from_pretrained(folder)

    def train(self) -> None:
        step(self.learner, batch_of(self.version))


@pytest.fixture(scope="module", params=["tied", "untied"])
def adapted(
    request: pytest.FixtureRequest, vllm: GeneratorServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Adapted]:
    folder = tmp_path_factory.mktemp("base")
    make_policy(folder, hidden=128, tie=request.param == "tied")
    found = Adapted(vllm, folder, LORA)
    yield found
    asyncio.run(found.generator.close())


def test_answers_under_a_published_adapter_have_the_log_probs_of_the_merged_policy(
    adapted: Adapted, tmp_path: Path
) -> None:
    before = answers(adapted.generator, [job("base", 4)])
    for update in range(3):
        weights = adapted.publish()
        done = answers(adapted.generator, [job("a", 4)])
        assert_answers_of(adapted.merged(tmp_path / str(update)), done, 1.0)
        assert {(t.first_version, t.last_version) for _, t in done} == {(adapted.version, adapted.version)}
        if update == 0:  # B is 0
            assert same_tokens(before, done)
        adapted.train()
    assert not same_tokens(before, done), "an adapter that changes nothing would show nothing"
    assert weights.data is not None
    everything = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tmp_path / "0").parameters())
    assert weights.data.nbytes < 4 * everything / 4


def same_tokens(one: Keyed, other: Keyed) -> bool:
    found = [sorted((t.sample_index, *t.tokens.tolist()) for _, t in each) for each in (one, other)]
    return found[0] == found[1]


def test_answers_in_flight_go_on_under_the_next_adapter(adapted: Adapted) -> None:
    adapted.publish()
    generator, first = adapted.generator, adapted.version
    adapted.train()

    async def run() -> Keyed:
        jobs = [job("b", 4, new=100)]
        await generator.submit(jobs)
        weights = adapted.learner.weights(first + 1)
        await generator.update_weights(weights)
        return await collect(generator, jobs, 4)

    done = asyncio.run(run())
    adapted.version = first + 1
    assert {t.last_version for _, t in done} == {first + 1}


def test_vllm_loads_a_checkpoints_policy_and_computes_what_peft_does_with_its_adapter(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    base = make_policy(tmp_path / "base", hidden=128)
    learner = joined(str(base), config=config_of(lora=LORA, learning_rate=0.01))
    for update in range(2):
        step(learner, batch_of(update))
    save(learner, tmp_path)
    generator = vllm.fork().build(tmp_path / "policy", max_sequences=8)
    done = answers(generator, [job("c", 4)])
    asyncio.run(generator.close())
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    assert_answers_of(expected, done, 1.0)


def test_an_adapter_beside_experts_is_refused_on_a_cpu(vllm: GeneratorServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"learner\.lora\.publish: must be 'merged' for a mixture of experts"):
        vllm.fork().build(make_mixture_of_experts(tmp_path), lora=LORA)


def test_a_target_that_vllm_does_not_adapt_ends_the_engine_with_the_setting(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    folder = make_policy(tmp_path, hidden=128)
    adapted = Adapted(vllm, folder, LORA)
    info, weights = adapted.learner.weights_info(), adapted.learner.weights(1)
    names = tuple(name.replace("q_proj", "unknown") for name in info.names)
    asyncio.run(adapted.generator.init_weights(replace(info, names=names)))
    with pytest.raises(RuntimeError, match=r"learner\.lora\.publish: must be merged"):
        asyncio.run(adapted.generator.update_weights(weights))
    adapted.generator.end()
