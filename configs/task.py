"""The task: which problems are posed, and which verifier decides the answers."""

from dataclasses import dataclass, field
from typing import Any

from configs.checks import require_positive
from configs.extraction import STRICT, check_mode


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A stream of prompts and its verifier."""

    name: str = "countdown"
    """A task of `tasks/registry.py`: countdown, few_shot_sums, word_problems, scratchpad_addition, sql_questions,
    programs, dataset (rows of files) or mixture; or a known set of `configs/sets/`, such as gsm8k, which is a dataset
    with its options. `task=NAME` is the same word for `task.name=NAME`, and in place of a file's task removes the
    options of that one."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the task, checked by the task itself."""
    verifier: str = ""
    """Replaces the task's verifier: a name of `rewards/registry.py`, or a function of your own, as an import path
    `package.module:function` or as a file `path/to/file.py:function`."""
    extraction: str = STRICT
    """Which part of a response is its final answer, for the verifier math: strict (the last box, else the text after a
    marker, else a bare answer), boxed (the last box alone), last_number (the last number, which evaluation harnesses
    call flexible) or tag:NAME (the text in the last `<NAME>...</NAME>`)."""
    heldout_prompts: int = 64
    """Number of held-out prompts on which the monitor and `breadth evaluate` measure Pass@k."""

    def __post_init__(self) -> None:
        check_mode(self.extraction)
        require_positive(self, "heldout_prompts")
