"""The vLLM engine with a step in progress between two calls, as asynchronous scheduling has it on a GPU. Runs in a
process that has vLLM imported."""

from collections import deque
from pathlib import Path
from typing import Any

from actors.finished import Finished
from actors.generation.vllm_engine import VllmEngine
from actors.weights.host import pack, weights_info
from configs.generator import GeneratorConfig
from tests.actors.weights.test_publication import in_files, job


def check_drain(policy: Path) -> None:
    """Load weights while vLLM has a step in its queue, whose answers are not lost."""
    engine = VllmEngine(
        str(policy),
        config=GeneratorConfig(max_sequences=4),
        dtype="float32",
        max_length=256,
        device="cpu",
        tensor_parallel=1,
        sleeps=False,
        lora=None,
    )
    core: Any = engine._core
    core.batch_queue_size, core.batch_queue = 2, deque(maxlen=2)
    core.step_fn = core.step_with_batch_queue
    engine.submit([job("a", 3, new=1), job("b", 1, new=30)])
    blocks: list[Finished] = []
    while not core.batch_queue:
        blocks += [block for block in [engine.step()] if block is not None]
    assert sum(map(len, blocks)) == 0, "the step is still in progress"
    tensors = in_files(policy)
    engine.declare(weights_info(tensors))
    engine.start_update()
    assert not core.batch_queue
    engine.receive({"data": pack(tensors, 5).data, "tensors": (0, len(tensors))})
    engine.finish_update(5)
    while engine.busy:
        blocks += [block for block in [engine.step()] if block is not None]
    done = Finished.joined(blocks)
    assert sorted(done.keys) == ["a", "a", "a", "b"], done.keys
    # The answers of one token were sampled before the update, the longer one mostly after it.
    assert {(key, int(last)) for key, last in zip(done.keys, done.last_version, strict=True)} == {("a", -1), ("b", 5)}
    engine.close()
