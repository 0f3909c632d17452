"""Render and tokenize the first prompts of a run: repair or refuse what a tokenizer or a template does wrong."""

from collections.abc import Callable, Sequence

from transformers import AutoConfig

from actors.generation.answers import AnswerBuilder
from actors.policy_files.folder import policy_folder
from actors.policy_files.reading import has_usable_padding
from configs.config import Config
from orchestrator.rollout.encoding import PromptEncoder, encode_heldout
from tasks.source import Source
from trajectories.trajectory import Prompt

FIRST = 64
"""Prompts of the train stream that are rendered and tokenized."""
SHOWN = 2_000
"""Characters of the rendered prompt that are reported: its beginning and its end."""


def check_prompts(
    cfg: Config, source: Source, heldout: Sequence[Prompt], report: Callable[[str], None]
) -> PromptEncoder:
    """Tokenize the first prompts of the train stream, and the held-out prompts.

    Reports the first prompt as the policy sees it, what is repaired, and a chat template that is not used.

    Args:
        heldout: the held-out prompts; empty if nothing is measured.
        report: is called with each line of text about what was found.

    Returns: the encoder of all prompts of the run.

    Raises:
        ValueError: a prompt is empty, has a token that the model does not have, or was rendered already; all prompts
            are too long, or a held-out one is; the policy has too few positions.
    """
    limit = cfg.sampling.max_prompt_tokens
    AnswerBuilder(cfg.policy.path, max_length=limit + cfg.longest_answer)  # checks the policy's positions
    encode = PromptEncoder(cfg.policy)
    vocabulary = report_repairs(cfg.policy.path, encode, report)
    prompts = [source.prompt(position) for position in range(FIRST)]
    rows = encode.all(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        check_prompt(encode, prompt, row, vocabulary, prompt.id)
    fitting = [(prompt, row) for prompt, row in zip(prompts, rows, strict=True) if len(row) <= limit]
    if not fitting:
        lengths = sorted(map(len, rows))
        raise ValueError(
            f"sampling.max_prompt_tokens: the first {FIRST} prompts must not all be longer, got {limit} and prompts of "
            f"{lengths[0]} to {lengths[-1]} tokens"
        )
    if len(fitting) < FIRST:
        report(
            f"prompts: {FIRST - len(fitting)} of the first {FIRST} have more than sampling.max_prompt_tokens={limit} "
            f"tokens (at most {max(map(len, rows))}) and are skipped"
        )
    prompt, row = fitting[0]
    report(f"first prompt, {prompt.id}, {len(row)} tokens:\n{shortened(encode.shown(row))}")
    if heldout:
        for prompt, row in zip(heldout, encode_heldout(encode, heldout, limit), strict=True):
            check_prompt(encode, prompt, row, vocabulary, prompt.id)
    return encode


def check_prompt(encode: PromptEncoder, prompt: Prompt, row: Sequence[int], vocabulary: int, where: str) -> None:
    """Refuse a prompt that the policy cannot read.

    Args:
        row: the token ids of the prompt.
        vocabulary: number of tokens that the model has.
        where: names the prompt in errors.

    Raises:
        ValueError: the prompt has no token, or one that the model does not have; or its text begins with a special
            token, so that it would be rendered a second time.
    """
    if not row:
        raise ValueError(f"task: prompts must have at least one token, got an empty one ({where})")
    if max(row) >= vocabulary:
        raise ValueError(
            f"policy.path: its tokenizer must use token ids below its model's {vocabulary}, got {max(row)} in {where}"
        )
    # An earlier answer of the assistant may begin with a special token, such as one before its reasoning.
    given = [turn["content"] for turn in prompt.messages if turn["role"] != "assistant"]
    begun = [text.lstrip() for text in given or [prompt.text]]
    if encode.templated and any(text.startswith(encode.special_tokens) for text in begun):
        found = [token for token in encode.special_tokens if any(text.startswith(token) for text in begun)]
        raise ValueError(
            f"policy.chat_template: must be false, because the prompt of {where} is already rendered (it begins with "
            f"{found[0]!r}), got True"
        )


def report_repairs(policy: str, encode: PromptEncoder, report: Callable[[str], None]) -> int:
    """Report what is wrong with the policy's tokenizer and is repaired. Return the size of the model's vocabulary."""
    config = AutoConfig.from_pretrained(policy_folder(policy), local_files_only=True)
    vocabulary: int = config.get_text_config().vocab_size
    pad = encode.tokenizer.pad_token_id
    if not has_usable_padding(config) or (pad is not None and not 0 <= pad < vocabulary):
        pads = f"{config.get_text_config().pad_token_id} in config.json, {pad} in the tokenizer"
        report(
            f"policy.path: its padding token must be below its model's {vocabulary} tokens, got {pads}; "
            "the end-of-sequence token pads instead"
        )
    if encode.appends_eos and not encode.templated:
        report("policy.path: its tokenizer appends an end-of-sequence token to prompts, which is removed")
    if encode.tokenizer.chat_template is not None and not encode.templated:
        report(
            "policy.chat_template: is false, but the tokenizer has a chat template; set it to true if the policy was "
            "trained on chats"
        )
    return vocabulary


def shortened(text: str) -> str:
    half = SHOWN // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n... {left_out:,} characters ...\n{text[-half:]}"
