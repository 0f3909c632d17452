"""vLLM's settings for an engine: which memory, how many answers, which executor.

Importing this module, as vLLM's workers import `actors.weights.publication`, keeps weights as ordinary parameters.
"""

from typing import Any, get_args

from transformers import AutoConfig
from vllm import ModelRegistry
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

import breadth
from actors.generation.engine_limits import GPU_STEP_TOKENS, MOST_SEQUENCES
from actors.learning.adapters import target_names
from actors.policy_files.folder import policy_folder
from actors.policy_files.reading import empty_model
from actors.weights.publication import WorkerExtension
from configs.generator import GeneratorConfig
from configs.lora import LoraConfig

CPU_BLOCK_SIZE = 32
"""Tokens of a key-value block. With vLLM's default on CPU, 128, prompts shorter than that have no cached prefix."""
CPU_STEP_TOKENS = 4096
"""Most tokens of one step on a CPU, prompts included."""


def engine_settings(
    policy_path: str,
    *,
    config: GeneratorConfig,
    dtype: str,
    max_length: int,
    device: str,
    tensor_parallel: int,
    sleeps: bool,
    lora: LoraConfig | None = None,
) -> VllmConfig:
    """Return vLLM's settings.

    Args:
        max_length: most tokens of a prompt and its answer together.
        sleeps: whether the engine's GPU memory can be given back, for which vLLM allocates it differently.
        lora: the adapter that the engine gets; None: it gets weights.

    Raises:
        ValueError: vLLM has no attention kernel for the policy's heads, or for experts beside an adapter.
    """
    policy_path = str(policy_folder(policy_path))
    most = config.max_sequences or MOST_SEQUENCES
    if device == "cpu":
        _register_architectures(policy_path)
    settings: VllmConfig = EngineArgs(
        model=policy_path,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        # The learner's logits are float32 also where the head is bfloat16.
        hf_overrides={"head_dtype": "float32"},
        max_model_len=max_length,
        max_num_seqs=most,
        skip_tokenizer_init=True,
        generation_config="vllm",  # ignores the sampling settings in the policy's directory
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        tensor_parallel_size=tensor_parallel,
        distributed_executor_backend="mp" if tensor_parallel > 1 else "uni",
        weight_transfer_config=WeightTransferConfig(backend=config.transfer),
        worker_extension_cls=f"{breadth.__name__}.{WorkerExtension.__name__}",
        **({} if lora is None else _adapter_settings(lora, policy_path)),
        **_device_settings(config, device, max_length=max_length, most=most, sleeps=sleeps),
    ).create_engine_config()
    if device == "cpu" and lora is not None and settings.model_config.is_moe:
        raise ValueError(
            "learner.lora.publish: must be 'merged' for a mixture of experts on a CPU, because vLLM has no kernel for "
            f"experts beside adapters there, got {lora.publish!r}"
        )
    sizes, size = CPUAttentionBackend.get_supported_head_sizes(), settings.model_config.get_head_size()
    if device == "cpu" and size not in sizes:
        raise ValueError(
            f"policy.path: vLLM on CPU has attention for heads (hidden_size / num_attention_heads) of {sizes}, "
            f"got {size}"
        )
    return settings


def _adapter_settings(lora: LoraConfig, policy_path: str) -> dict[str, Any]:
    ranks = [rank for rank in get_args(MaxLoRARanks) if rank >= lora.r]
    assert ranks, "`engine.publishes_adapter` has refused larger ones"
    # By default vLLM also keeps memory for adapters of the LM head and of experts.
    targets = target_names(lora, empty_model(policy_path))
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(ranks), "lora_target_modules": targets}


def _device_settings(
    config: GeneratorConfig, device: str, *, max_length: int, most: int, sleeps: bool
) -> dict[str, Any]:
    if device == "cpu":
        return {
            "enforce_eager": True,
            "kv_cache_memory_bytes": config.kv_cache_bytes,
            "block_size": CPU_BLOCK_SIZE,
            # A prompt processed in chunks needs its random generator reset, which vLLM supports on CUDA only.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_STEP_TOKENS, max_length, most),
            "async_scheduling": False,
        }
    return {
        "gpu_memory_utilization": config.memory_fraction,
        "enable_sleep_mode": sleeps,
        "max_num_batched_tokens": max(GPU_STEP_TOKENS, most),
        # The next step is scheduled while the GPU computes one; `VllmEngine` ends that one before an update.
        "async_scheduling": True,
    }


def _register_architectures(policy_path: str) -> None:
    """Import the model's class here. Otherwise vLLM inspects it in a subprocess when it first starts (14 s)."""
    for name in AutoConfig.from_pretrained(policy_path, local_files_only=True).architectures or []:
        if name in ModelRegistry.models:
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
