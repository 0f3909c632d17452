"""How much an engine computes at a time. Imports no engine, so that the memory of a run can be planned."""

GPU_STEP_TOKENS = 8192
"""Most tokens of one step of vLLM on a GPU, prompts included. With vLLM's default here, 2,048, a GPU computes prompts
in small steps."""
MOST_SEQUENCES = 512
"""Most answers that vLLM decodes at the same time if `generator.max_sequences` is 0. It keeps memory for the logits of
so many."""
PROMPT_TOKENS = 16_384
"""Most tokens of the prompts, with padding, that the transformers engine computes in one step."""
MOST_ROWS = 256
"""Most answers that the transformers engine decodes at the same time if `generator.max_sequences` is 0."""


def sequences_that_fit(kv_tokens: float, max_length: int) -> int:
    """Return how many answers are decoded at the same time: 2 * kv_tokens / max_length.

    Answers that all reach the greatest length are half generated on average while others take the places of finished
    ones. Where more memory is needed for a time, vLLM computes the key-values of some answers again later.

    Args:
        kv_tokens: tokens whose key-values the engine's memory holds.
        max_length: most tokens of a prompt and its answer together.
    """
    return max(1, min(MOST_SEQUENCES, int(2 * kv_tokens // max_length)))
