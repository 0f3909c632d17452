"""Tokenize prompts and answers in the form that the policy was trained on."""

from collections.abc import Callable, Sequence

from actors.learning.policy import load_tokenizer
from configs.checks import require
from configs.policy import PolicyConfig
from trajectories.trajectory import Prompt

Encoder = Callable[[str], list[int]]


def answer_encoder(config: PolicyConfig) -> Encoder:
    """Return a function from an answer's text to its token ids, with the end-of-sequence token."""
    tokenizer = load_tokenizer(config.path)
    return lambda text: [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def encoder(config: PolicyConfig) -> Encoder:
    """Return a function from a prompt's text to its token ids.

    The text is tokenized as it is or, with `policy.chat_template`, as one user turn of the chat template.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    tokenizer = load_tokenizer(config.path)
    if not config.chat_template:
        return lambda text: list(tokenizer(text)["input_ids"])
    has_template = tokenizer.chat_template is not None
    require(has_template, "policy.chat_template", "the tokenizer must have a chat template", config.path)

    def encode(text: str) -> list[int]:
        turn = [{"role": "user", "content": text}]
        return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])

    return encode


def encode_heldout(prompts: Sequence[Prompt], encode: Encoder, limit: int) -> list[list[int]]:
    """Return the token ids of held-out prompts.

    Raises:
        ValueError: one has more than `limit` tokens, `sampling.max_prompt_tokens`. It is not skipped, because that
            would change what is measured.
    """
    tokens = [encode(prompt.text) for prompt in prompts]
    longest = max(map(len, tokens))
    rule = f"must be at least the longest held-out prompt ({longest} tokens)"
    require(longest <= limit, "sampling.max_prompt_tokens", rule, limit)
    return tokens
