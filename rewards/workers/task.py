"""Task: one answer to be judged."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rewards.registry import NO_CONTEXT


class Task(NamedTuple):
    """One answer, its problem and its verifier.

    Example: Task("countdown", {"numbers": [3, 7, 12], "target": 22}, "3+7+12")
    """

    verifier: str
    problem: Mapping[str, Any]
    answer: str | None
    """None: check the problem itself. A problem with faults is wrong, with the faults as the reason."""
    context: Mapping[str, Any] = NO_CONTEXT
    """What a user verifier may be told besides (see `rewards.forms.Call`)."""
