"""Tokenize prompts and answers in the form that the policy was trained on."""

import inspect
import re
from collections.abc import Callable, Sequence

from actors.policy_files.reading import load_tokenizer
from configs.checks import require
from configs.policy import PolicyConfig
from trajectories.trajectory import Prompt

Encoder = Callable[[Prompt], list[int]]
"""Turns a prompt into its token ids."""


class PromptEncoder:
    """Turns prompts into token ids: the text itself or, with `policy.chat_template`, its turns in the chat template.

    A text is one user turn. `policy.system_prompt` replaces the system message of a prompt.

    Without a template, the tokenizer may add special tokens. An end-of-sequence token that it appends is removed: the
    policy would have to answer after the end. A beginning-of-sequence token is removed where the text begins with one.

    Raises:
        ValueError: the tokenizer has no chat template, or the template does not read one of
            `policy.template_arguments`.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.tokenizer = load_tokenizer(config.path)
        self.templated, self.system_prompt = config.chat_template, config.system_prompt
        self.arguments = config.template_arguments
        has_template = self.tokenizer.chat_template is not None
        rule = "the tokenizer must have a chat template"
        require(has_template or not self.templated, "policy.chat_template", rule, config.path)
        for name, value in self.arguments.items():
            reserved = {"messages", *inspect.signature(self.tokenizer.apply_chat_template).parameters}
            read = name not in reserved and re.search(rf"\b{re.escape(name)}\b", self.tokenizer.get_chat_template())
            rule = "must be a variable that the tokenizer's chat template reads"
            require(bool(read), f"policy.template_arguments.{name}", rule, value)
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        self.appends_eos: bool = self.tokenizer("a")["input_ids"][-1] == self.tokenizer.eos_token_id != bare[-1]
        """Whether the tokenizer appends an end-of-sequence token to every text."""
        added = self.tokenizer.added_tokens_decoder.values()
        self.special_tokens = tuple(token.content for token in added if token.special and token.content)
        """Texts of the tokenizer's special tokens."""

    def text(self, prompt: Prompt) -> str:
        """Return the text of a prompt as the policy sees it, without what the tokenizer adds.

        Raises:
            ValueError: the prompt is a list of messages and there is no chat template, or the template refuses it;
                names the prompt.
        """
        if not self.templated:
            rule = f"must be true, because prompt {prompt.id} is a list of messages"
            require(not prompt.messages, "policy.chat_template", rule, False)
            return prompt.text
        turns = [dict(turn) for turn in prompt.messages] or [{"role": "user", "content": prompt.text}]
        if self.system_prompt:
            others = [turn for turn in turns if turn["role"] != "system"]
            turns = [{"role": "system", "content": self.system_prompt}, *others]
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False, **self.arguments
            )
            return str(rendered)
        except Exception as error:  # A template is a program and may raise anything.
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"policy.chat_template: must render prompt {prompt.id}, got {reason}") from None

    def __call__(self, prompt: Prompt) -> list[int]:
        return self.all([prompt])[0]

    def all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids of many prompts, faster than one by one."""
        texts = [self.text(prompt) for prompt in prompts]
        # A chat template writes the special tokens itself.
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=not self.templated)["input_ids"]
        return rows if self.templated else [self._without_repeats(row) for row in rows]

    def shown(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids with every special token visible."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _without_repeats(self, row: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if self.appends_eos:
            row = row[:-1]
        return row[1:] if bos is not None and row[:2] == [bos, bos] else row


def encode_heldout(encode: Encoder, prompts: Sequence[Prompt], max_prompt_tokens: int) -> list[list[int]]:
    """Return the token ids of the held-out prompts.

    Raises:
        ValueError: one has more than `max_prompt_tokens` tokens; names `sampling.max_prompt_tokens`.
    """
    rows = [encode(prompt) for prompt in prompts]
    longest = max(len(row) for row in rows)
    rule = f"must be at least the longest held-out prompt ({longest} tokens)"
    require(longest <= max_prompt_tokens, "sampling.max_prompt_tokens", rule, max_prompt_tokens)
    return rows


def answer_encoder(config: PolicyConfig) -> Callable[[str], list[int]]:
    """Return a function from an answer's text to its token ids, with the end-of-sequence token."""
    tokenizer = load_tokenizer(config.path)
    return lambda text: [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
