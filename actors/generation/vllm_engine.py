"""Generator on vLLM's engine, which runs in this process and in our own step loop (`EngineThread`).

vLLM changes the random state and the thread counts of its process, so each engine needs a process of its own, apart
from the learner's. VLLM_ENABLE_V1_MULTIPROCESSING=0 must be set there before vllm is imported.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import vllm.envs as envs
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.engine.llm_engine import LLMEngine

from actors.contracts import GenerationJob, HostWeights, WeightsInfo
from actors.finished import EngineLoad, Finished
from actors.generation.answers import AnswerBuilder
from actors.generation.engine_limits import sequences_that_fit
from actors.generation.engine_thread import EngineThread
from actors.generation.vllm_settings import engine_settings
from actors.weights.host import span
from actors.weights.publication import ADAPTER
from configs.generator import GeneratorConfig
from configs.lora import LoraConfig


class VllmEngine:
    """Continuous batching with vLLM.

    At most `max_sequences` answers are inside vLLM; the others wait here, in order. So each answer starts under the
    weights of the moment it enters, and its `cache_salt`, the weight version, excludes cached key-values of older
    weights.
    """

    def __init__(
        self,
        policy_path: str,
        *,
        config: GeneratorConfig,
        dtype: str,
        max_length: int,
        device: str,
        tensor_parallel: int,
        sleeps: bool,
        lora: LoraConfig | None,
    ) -> None:
        assert not envs.VLLM_ENABLE_V1_MULTIPROCESSING, "set VLLM_ENABLE_V1_MULTIPROCESSING=0 before importing vllm"
        self.builder = AnswerBuilder(policy_path, max_length=max_length)
        settings = engine_settings(
            policy_path,
            config=config,
            dtype=dtype,
            max_length=max_length,
            device=device,
            tensor_parallel=tensor_parallel,
            sleeps=sleeps,
            lora=lora,
        )
        self.vllm = LLMEngine.from_vllm_config(settings, disable_log_stats=True)
        self.vllm.output_processor.tokenizer = self.builder.tokenizer  # decodes only answers with stop strings
        kv_tokens = settings.cache_config.kv_cache_size_tokens
        assert kv_tokens is not None, "vLLM sets it when it allocates the key-value cache"
        self.max_sequences = config.max_sequences or sequences_that_fit(kv_tokens, max_length)
        self.lora = lora
        """Of the adapter that updates consist of; None: they consist of weights."""
        self.version, self.finished_tokens = -1, 0
        self.updating = False
        """True from `start_update` to `finish_update`. Nothing is decoded then, as the weights may be partly loaded."""
        self.asleep = False
        """True from `sleep` until weights and key-value cache are both in the GPU's memory again."""
        self._drained: list[Finished] = []
        self._waiting: deque[tuple[GenerationJob, int]] = deque()
        self._inside: dict[str, tuple[GenerationJob, int, int]] = {}
        """Request id -> job, sample index, weight version at which the answer entered vLLM."""

    @property
    def busy(self) -> bool:
        return not self.updating and not self.asleep and bool(self._waiting or self._inside or self._drained)

    @property
    def _core(self) -> Any:
        """vLLM's scheduler and executor, which run in this process."""
        return self.vllm.engine_core.engine_core  # type: ignore[attr-defined]

    def submit(self, jobs: Sequence[GenerationJob]) -> None:
        assert not any(job.mixture for job in jobs), "`Config` refuses a mixture: vLLM reads one policy"
        self._waiting.extend((job, index) for job in jobs for index in range(len(job.seeds)))

    def step(self) -> Finished | None:
        while self._waiting and len(self._inside) < self.max_sequences:
            self._admit(*self._waiting.popleft())
        blocks, self._drained = self._drained, []
        blocks += self._step()
        return Finished.joined(blocks) if blocks else None

    def _step(self) -> list[Finished]:
        done = [output for output in self.vllm.step() if output.finished]
        return [self._finish(done)] if done else []

    def _drain(self) -> None:
        """Finish the steps in progress, of which asynchronous scheduling has one. Their answers leave with the next
        step. vLLM's own pause does not do this for an engine in this process."""
        core = self._core
        core.scheduler.set_pause_state(PauseState.PAUSED_ALL)  # schedules nothing
        while core.batch_queue:
            self._drained += self._step()
        core.scheduler.set_pause_state(PauseState.UNPAUSED)

    def _admit(self, job: GenerationJob, index: int) -> None:
        request = f"{job.key}#{index}"
        assert request not in self._inside, f"job key {job.key!r} is already in flight"
        params = SamplingParams(
            temperature=job.temperature,
            top_p=job.top_p,
            top_k=job.top_k,
            min_p=job.min_p,
            max_tokens=job.max_new_tokens,
            seed=job.seeds[index],
            ignore_eos=True,  # `stop_token_ids` holds all stop tokens, the same as in the transformers engine
            stop_token_ids=self.builder.stop_ids,
            logprobs=0,
            flat_logprobs=True,
            # vLLM finds stop strings in the text that it decodes. Special tokens are part of it.
            stop=list(job.stop),
            detokenize=bool(job.stop),
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        prompt = tokens_input(job.prompt_tokens.tolist(), cache_salt=f"v{self.version}")
        adapter = None if self.lora is None or self.version < 0 else ADAPTER
        self.vllm.add_request(request, prompt, params, lora_request=adapter)
        self._inside[request] = (job, index, self.version)

    def _finish(self, outputs: Sequence[Any]) -> Finished:
        inside = [self._inside.pop(output.request_id) for output in outputs]
        answers = [output.outputs[0] for output in outputs]
        self.finished_tokens += sum(len(answer.token_ids) for answer in answers)
        return self.builder.finished(
            [(job, index) for job, index, _ in inside],
            [np.array(answer.token_ids, np.int32) for answer in answers],
            [np.array(answer.logprobs.logprobs, np.float32) for answer in answers],
            [version for *_, version in inside],
            self.version,
        )

    def workload(self) -> EngineLoad:
        scheduler = self._core.scheduler
        pool = scheduler.kv_cache_manager.block_pool
        running = list(scheduler.running)
        return EngineLoad(
            waiting=len(self._waiting) + len(self._inside) - len(running),
            running=len(running),
            free_sequences=self.max_sequences - len(running),
            free_kv_tokens=pool.get_num_free_blocks() * self.vllm.vllm_config.cache_config.block_size,
            tokens=self.finished_tokens + sum(request.num_output_tokens for request in scheduler.requests.values()),
            asleep=self.asleep,
        )

    def declare(self, info: WeightsInfo) -> None:
        if self.lora is None:
            self.init_transfer({"names": info.names, "shapes": info.shapes, "dtype": info.dtype})
        self.info = info

    def load(self, weights: HostWeights) -> None:
        if self.lora is not None:
            self._load_adapter(weights)
            return
        first, end = span(self.info, weights)
        if first == 0:
            self.start_update()
        self.receive({"data": weights.data, "tensors": (first, end)})
        if end == len(self.info.names):
            self.finish_update(weights.version)

    def _load_adapter(self, weights: HostWeights) -> None:
        """Replace the adapter. Answers in flight go on with the new one."""
        assert self.lora is not None
        self._drain()
        names = {"r": "r", "alpha": "lora_alpha", "use_rslora": "use_rslora", "target_modules": "target_modules"}
        settings = {theirs: getattr(self.lora, ours) for ours, theirs in names.items()}
        self.vllm.collective_rpc("load_adapter", args=(self.info, weights.data, settings))
        self._serve(weights.version)

    def init_transfer(self, info: dict[str, Any]) -> None:
        self.vllm.collective_rpc("shutdown_weight_transfer_engine")  # leaves the group of an earlier learner or member
        self.vllm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": info})

    def start_update(self) -> None:
        self._drain()
        self.updating = True
        if self.version < 0:
            # The engine was started with weights from files. Without them, log-probs show what the update left out.
            self.vllm.collective_rpc("clear_weights")
        self.vllm.collective_rpc("start_weight_update")

    def receive(self, info: dict[str, Any]) -> None:
        self.vllm.collective_rpc("update_weights", kwargs={"update_info": info})

    def finish_update(self, version: int) -> int:
        self.vllm.collective_rpc("finish_weight_update")
        self._serve(version)
        return version

    def _serve(self, version: int) -> None:
        self.vllm.set_weight_version(str(version))
        self.version, self.updating = version, False

    def sleep(self) -> int:
        """Give the GPU's memory back: weights go to host memory, key-values are discarded. Answers in flight stay in
        vLLM, which computes their key-values again when it wakes. On a CPU vLLM keeps the memory.

        Returns:
            The number of unfinished answers.
        """
        self._drain()
        self.vllm.sleep(level=1, mode="keep")
        self.asleep = True
        return len(self._waiting) + len(self._inside)

    def wake_up(self, tags: Sequence[str]) -> None:
        """Take GPU memory again for `weights`, which `sleep` kept, or for an empty `kv_cache`."""
        self.asleep = not self.vllm.wake_up(list(tags))

    def close(self) -> None:
        self.vllm.engine_core.shutdown()


class VllmGenerator(EngineThread[VllmEngine]):
    """Generator on `VllmEngine`.

    Besides the contract it has the four calls of a `WeightReceiver`, for learners that send from GPU to GPU. Nothing is
    decoded between `start_update` and `finish_update`.

    Args:
        max_length: most tokens of a prompt and its answer together.
        sleeps: whether the engine's GPU memory can be given back (`sleep`), for which vLLM allocates it differently.
        lora: of the learner. With `publish` "adapter" the engine keeps its weights and gets the adapter.

    Raises:
        ValueError: the policy cannot be used (see `AnswerBuilder`), or vLLM has no attention kernel for its heads.
    """

    def __init__(
        self,
        policy_path: str,
        *,
        config: GeneratorConfig,
        dtype: str,
        max_length: int,
        device: str = "cpu",
        tensor_parallel: int = 1,
        sleeps: bool = False,
        lora: LoraConfig | None = None,
    ) -> None:
        super().__init__(
            lambda: VllmEngine(
                policy_path,
                config=config,
                dtype=dtype,
                max_length=max_length,
                device=device,
                tensor_parallel=tensor_parallel,
                sleeps=sleeps,
                lora=lora if lora is not None and lora.r and lora.publish == "adapter" else None,
            ),
            max_length=max_length,
            timeout_s=config.timeout_s,
        )

    async def sleep(self) -> int:
        def sleep(engine: VllmEngine) -> int:
            unfinished = engine.sleep()
            self._measure_load(engine)
            return unfinished

        unfinished: int = await self._call(sleep)
        return unfinished

    async def wake_up(self, tags: Sequence[str]) -> None:
        await self._call(lambda engine: engine.wake_up(tags))

    async def init_transfer(self, info: dict[str, Any]) -> None:
        await self._call(lambda engine: engine.init_transfer(info))

    async def start_update(self) -> None:
        await self._call(lambda engine: engine.start_update())

    async def receive(self, info: dict[str, Any]) -> None:
        await self._call(lambda engine: engine.receive(info))

    async def finish_update(self, version: int) -> int:
        served: int = await self._call(lambda engine: engine.finish_update(version))
        return served
