"""What vLLM's settings say of the LM head. Runs in a process that has vLLM imported."""

from actors.generation.vllm_settings import engine_settings
from configs.generator import GeneratorConfig


def head_dtype(policy: str, dtype: str) -> tuple[str, str]:
    """Return the dtypes of the policy and of its logits."""
    model = engine_settings(
        policy, config=GeneratorConfig(), dtype=dtype, max_length=64, device="cpu", tensor_parallel=1, sleeps=False
    ).model_config
    return str(model.dtype), str(model.head_dtype)
