"""Try users' own reward functions on the first rows before any role is started."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from configs.config import Config
from orchestrator.rollout.encoding import PromptEncoder
from rewards.judge import Judge
from rewards.registry import SETTING, VERIFIERS, check
from rewards.signatures import NO_REWARD
from rewards.user_functions import check_place, split_name
from rewards.verdict import Verdict
from tasks.source import Source
from trajectories.trajectory import Prompt, domain

SEARCHED = 64
"""First prompts of the train stream whose verifiers are tried."""
ROWS = 3
"""Rows on which each verifier is tried."""
GARBAGE = "I do not know."


@dataclass(frozen=True, kw_only=True)
class Row:
    """One problem, and a right answer to it; None if none is known."""

    prompt: Prompt
    right: str | None


def check_reward_names(cfg: Config, source: Source) -> None:
    """Raise ValueError if a verifier's name is unknown, or its file or module cannot be a user's. Imports nothing."""
    for verifier in _rows(cfg, source):
        setting = setting_of(cfg, verifier)
        if verifier in VERIFIERS or not all(split_name(verifier)):
            check(verifier, setting)
        else:
            check_place(verifier, setting)


async def check_rewards(cfg: Config, source: Source, encode: PromptEncoder, report: Callable[[str], None]) -> None:
    """Call every user verifier on the first rows with a right and a garbage answer, in a worker process.

    Reports the values, and a verifier that finds no right answer better than the garbage. A built-in verifier has
    canaries instead.

    Args:
        report: is called with each line of text about what was found.

    Raises:
        ValueError: a verifier cannot be loaded, raises, takes too long, ends its process, or returns no number; names
            its setting, and file and line of an exception.
    """
    for verifier, rows in _rows(cfg, source).items():
        if verifier not in VERIFIERS:
            judge = Judge(1, cfg.grader.timeout_s, first_call_timeout_s=cfg.grader.first_call_timeout_s)
            try:
                await _try(cfg, judge, verifier, rows, encode, report)
            finally:
                await judge.close()


def setting_of(cfg: Config, verifier: str) -> str:
    """Return the setting that names the verifier."""
    for name, reward in cfg.objective.rewards.items():
        if reward.verifier == verifier:
            return f"objective.rewards.{name}.verifier"
    options = cfg.task.options
    domains = options.get("domains") if isinstance(options.get("domains"), list) else []
    for index, one in enumerate(domains or []):
        if cfg.task.verifier != verifier and isinstance(one, dict):
            if one.get("verifier") == verifier:
                return f"task.options.domains[{index}].verifier"
            if one.get("options", {}).get("verifier") == verifier:
                return f"task.options.domains[{index}].options.verifier"
    return "task.options.verifier" if options.get("verifier") == verifier != cfg.task.verifier else SETTING


def _rows(cfg: Config, source: Source) -> dict[str, list[Row]]:
    """Return the first rows of each verifier of the run."""
    found: dict[str, list[Row]] = {}
    others = [reward.verifier for reward in cfg.objective.rewards.values() if reward.verifier]
    for position in range(SEARCHED):
        prompt = source.prompt(position)
        wanted = [v for v in (prompt.verifier, *others) if len(found.setdefault(v, [])) < ROWS]
        if wanted:
            row = _row(source, position, prompt)
            for verifier in wanted:
                found[verifier].append(row)
    return found


def _row(source: Source, position: int, prompt: Prompt) -> Row:
    try:
        prompt, right = source.demonstration(position)
    except ValueError:  # The task knows no right answers.
        return Row(prompt=prompt, right=None)
    return Row(prompt=prompt, right=right)


async def _try(
    cfg: Config,
    judge: Judge,
    verifier: str,
    rows: Sequence[Row],
    encode: PromptEncoder,
    report: Callable[[str], None],
) -> None:
    setting = setting_of(cfg, verifier)
    try:
        await judge.load(verifier)
    except ValueError as error:
        text = str(error)
        if text.startswith(f"{SETTING}:"):  # The worker knows no other setting.
            raise ValueError(text.replace(SETTING, setting, 1)) from None
        raise ValueError(
            f"{setting}: must be loaded within grader.first_call_timeout_s={cfg.grader.first_call_timeout_s:g}, got "
            f"{verifier!r} and {text}"
        ) from None
    pairs = [(row, answer) for row in rows for answer in (row.right, GARBAGE) if answer is not None]
    right: list[Verdict] = []
    garbage: list[Verdict] = []
    for row, answer in pairs:
        verdict = await judge.judge(verifier, row.prompt.problem, answer, _context(row.prompt, answer, encode))
        _require_value(cfg, setting, verifier, row, answer, verdict)
        (right if answer is row.right else garbage).append(verdict)
    if all(verdict.reward is None for verdict in (*right, *garbage)):
        raise ValueError(
            f"{setting}: must give rewards, got {verifier!r}, which returned None for {len(pairs)} answers"
        )
    _report(verifier, right, garbage, report)


def _context(prompt: Prompt, answer: str, encode: PromptEncoder) -> dict[str, Any]:
    """Return what the verifier is told besides answer and problem, as in training before the first step."""
    tokens = encode.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return {
        "prompt": prompt.text,
        "messages": list(prompt.messages),
        "completion_ids": [*tokens, encode.tokenizer.eos_token_id],
        "step": 0,
        "domain": domain(prompt.id),
    }


def _require_value(cfg: Config, setting: str, verifier: str, row: Row, answer: str, verdict: Verdict) -> None:
    """Raise ValueError unless the verdict has a reward, or the verifier gave none on purpose."""
    kind = "right" if answer is row.right else "garbage"
    named = verdict.reason if verifier in verdict.reason else f"{verifier!r} and {verdict.reason}"
    got = f"got {named} on the {kind} answer {answer!r:.80} to {row.prompt.id}"
    if verdict.status == "grader_error" and verdict.reason != NO_REWARD:
        raise ValueError(f"{setting}: must judge the first rows, {got}")
    if verdict.status == "timeout":
        raise ValueError(
            f"{setting}: must judge an answer within grader.timeout_s={cfg.grader.timeout_s:g}, the first one within "
            f"grader.first_call_timeout_s={cfg.grader.first_call_timeout_s:g}, {got}"
        )
    if verdict.status == "crash":
        raise ValueError(f"{setting}: must not end its process, {got}")


def _report(verifier: str, right: Sequence[Verdict], garbage: Sequence[Verdict], report: Callable[[str], None]) -> None:
    def values(verdicts: Sequence[Verdict]) -> str:
        return ", ".join("None" if verdict.reward is None else f"{verdict.reward:g}" for verdict in verdicts)

    first, last = (*right, *garbage)[0], garbage[-1]
    seconds = f"; the first call took {first.seconds:.3g} s, the last {last.seconds:.3g} s"
    known = f"right answers get {values(right)}" if right else "no right answers are known"
    report(f"reward {verifier}: {known}; {GARBAGE!r} gets {values(garbage)}{seconds}")
    if right and all((r.reward or 0.0) <= (g.reward or 0.0) for r, g in zip(right, garbage, strict=False)):
        report(
            f"warning: reward {verifier} gives the same value or less to a right answer than to {GARBAGE!r}; does it "
            "read the form in which the rows have their right answers?"
        )
