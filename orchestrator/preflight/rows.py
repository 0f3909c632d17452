"""Use every row of the run's files once before the start: render and tokenize its prompt, check its right answer.

The result is kept in `<runs>/row_checks`, so that the same rows are checked once.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from actors.policy_files.folder import policy_folder
from configs.config import Config
from configs.task import TaskConfig
from orchestrator.console.screen import Screen
from orchestrator.manifest import file_digest
from orchestrator.preflight.prompts import check_prompt
from orchestrator.rollout.encoding import PromptEncoder
from rewards.judge import Judge
from rewards.registry import check as check_verifier
from rewards.registry import version_of
from tasks.source import ListedPrompt, ListedSource, Source
from trajectories.atomic_write import replace_file

FOLDER = "row_checks"
"""Folder of the results, in `runs`."""
AT_A_TIME = 512
"""Rows that are tokenized and checked together."""
SHOWN = 10
"""Faults that are reported one by one."""
SIZES = {"path": "rows", "heldout_path": "heldout_rows"}
"""Options of a dataset: files, and how many rows they should have."""
FAULTY_LIMIT = 0.5
"""A run is refused if a larger fraction of its rows is faulty: another column or format was meant."""
TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt")


@dataclass(kw_only=True)
class Checked:
    """What was found in the rows."""

    rows: int = 0
    too_long: int = 0
    """Prompts with more than `sampling.max_prompt_tokens` tokens."""
    longest: int = 0
    """Tokens of the longest prompt."""
    faults: list[str] = field(default_factory=list)
    """File, line, field and reason of each row whose right answer its verifier cannot use."""


async def check_rows(
    cfg: Config, task: TaskConfig, source: Source, encode: PromptEncoder, report: Callable[[str], None]
) -> None:
    """Check every row of the files of a task, and report rows that are skipped or faulty.

    A task without files has no rows.

    Args:
        task: the settings of `source`.
        report: is called with each line of text about what was found.

    Raises:
        ValueError: a row cannot be tokenized or names no verifier, all prompts are too long, or more than
            FAULTY_LIMIT of the rows are faulty; names file and line.
    """
    rows = list(source.listed()) if isinstance(source, ListedSource) else []
    rows.sort(key=lambda row: (row.file, row.line))
    if not rows:
        return
    report_missing(task, len(rows), report)
    for verifier, row in {row.prompt.verifier: row for row in reversed(rows)}.items():
        try:
            check_verifier(verifier)
        except ValueError as error:
            raise ValueError(f"{error} ({row.where})") from None
    path = Path(cfg.runs) / FOLDER / f"{_key(cfg, task, rows)}.json"
    started = time.monotonic()
    checked = _read(path)
    known = checked is not None
    if checked is None:
        checked = await _check_all(cfg, rows, encode, Screen.of(report))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(json.dumps(asdict(checked)).encode())
    how = "checked before" if known else f"checked in {time.monotonic() - started:.1f} s"
    files = {row.file for row in rows}
    about = str(rows[0].file) if len(files) == 1 else f"{len(files)} files of {rows[0].file.parent}"
    _report(f"{about}: {checked.rows:,} rows {how}", checked, cfg.sampling.max_prompt_tokens, report)


def report_missing(task: TaskConfig, found: int, report: Callable[[str], None]) -> None:
    """Report that the files of a task have fewer rows than its options, or those of a known set, say."""
    expected = _expected(task.name, task.options)
    if found < expected:
        report(
            f"task {task.name}: {found:,} rows, where {expected:,} are expected: files are cut short, or rows malformed"
        )


def _expected(name: str, options: Mapping[str, Any]) -> int:
    """Return the number of rows that the options of a task say; 0 if they do not say that of all files."""
    if name == "mixture":
        domains = [_expected(str(one.get("name")), one.get("options", {})) for one in options.get("domains", [])]
        return sum(domains) if all(domains) else 0
    parts = [options.get(number, 0) for path, number in SIZES.items() if options.get(path)]
    return sum(parts) if all(parts) else 0


def _report(about: str, checked: Checked, limit: int, report: Callable[[str], None]) -> None:
    """Report what was found in the rows. Raise ValueError if they cannot be used."""
    faults = checked.faults
    if checked.too_long == checked.rows:
        raise ValueError(
            f"sampling.max_prompt_tokens: must be at least the number of tokens of some prompts, got {limit} and "
            f"{checked.rows:,} rows that are all longer, up to {checked.longest} tokens"
        )
    if len(faults) > FAULTY_LIMIT * checked.rows:
        raise ValueError(
            f"{faults[0]}; {len(faults):,} of {checked.rows:,} rows are faulty, allowed are half of them. Is the right "
            "answer in another field, or does it need another format or task.verifier?"
        )
    report(f"{about}; the longest prompt has {checked.longest} tokens")
    if checked.too_long:
        report(f"{checked.too_long:,} rows have prompts longer than sampling.max_prompt_tokens={limit}: skipped")
    if faults:
        report(f"{len(faults):,} rows have a faulty right answer, so right answers of the policy may get no reward:")
    for fault in faults[:SHOWN]:
        report(f"  {fault}")
    if len(faults) > SHOWN:
        report(f"  and {len(faults) - SHOWN:,} more")


async def _check_all(cfg: Config, rows: Sequence[ListedPrompt], encode: PromptEncoder, screen: Screen) -> Checked:
    folder = policy_folder(cfg.policy.path)
    vocabulary: int = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().vocab_size
    checked = Checked(rows=len(rows))
    judge = Judge(len(os.sched_getaffinity(0)), cfg.grader.timeout_s)
    try:
        with screen.phase("checking the data", "", of="rows", brief=True) as phase:
            for start in range(0, len(rows), AT_A_TIME):
                some = rows[start : start + AT_A_TIME]
                checks = (judge.faults(row.prompt.verifier, row.prompt.problem) for row in some)
                encoding = asyncio.to_thread(_encode, encode, some)
                tokens, found = await asyncio.gather(encoding, asyncio.gather(*checks))
                for row, ids in zip(some, tokens, strict=True):
                    check_prompt(encode, row.prompt, ids, vocabulary, row.where)
                lengths = list(map(len, tokens))
                checked.too_long += sum(length > cfg.sampling.max_prompt_tokens for length in lengths)
                checked.longest = max(checked.longest, *lengths)
                checked.faults += [_named(row, fault) for row, fault in zip(some, found, strict=True) if fault]
                screen.progress(phase, start + len(some), len(rows))
    finally:
        await judge.close()
    return checked


def _encode(encode: PromptEncoder, rows: Sequence[ListedPrompt]) -> list[list[int]]:
    """Return the token ids of the rows' prompts. Raise ValueError, naming file and line, if one cannot be rendered."""
    try:
        return encode.all([row.prompt for row in rows])
    except ValueError:
        for row in rows:  # find the one
            try:
                encode(row.prompt)
            except ValueError as error:
                raise ValueError(f"{row.where}: {error}") from None
        raise


def _named(row: ListedPrompt, fault: str) -> str:
    """Return a fault with file, line and column. A verifier's check starts it with the field of the problem."""
    name, colon, reason = fault.partition(": ")
    if not colon or name not in row.prompt.problem:
        return f"{row.where}: {fault}"
    return f"{row.where}: field {row.columns.get(name, name)!r}: {reason}"


def _key(cfg: Config, task: TaskConfig, rows: Sequence[ListedPrompt]) -> str:
    """Return a digest of everything that the result depends on."""
    files = sorted({row.file for row in rows})
    tokenizer = sorted(path for path in policy_folder(cfg.policy.path).iterdir() if path.suffix in TOKENIZER_FILES)
    databases = sorted({path for row in rows for path in _databases(row.prompt.problem)})
    key: dict[str, Any] = {
        "files": [[str(path), file_digest(path)] for path in files],
        "tokenizer": [[path.name, file_digest(path)] for path in tokenizer if path.is_file()],
        # A database may have gigabytes.
        "databases": [[path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in databases],
        "policy": asdict(cfg.policy),
        "task": [task.name, task.options, task.verifier],
        "limits": [cfg.sampling.max_prompt_tokens, cfg.grader.timeout_s],
        "verifiers": sorted(version_of(name) for name in {row.prompt.verifier for row in rows}),
        "versions": [metadata.version("transformers"), metadata.version("tokenizers")],
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _databases(problem: Mapping[str, Any]) -> list[str]:
    path = problem.get("database")
    others = problem.get("extra_dbs") or []
    return [path, *others] if isinstance(path, str) and os.path.isfile(path) else []


def _read(path: Path) -> Checked | None:
    try:
        return Checked(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # There is none, or another program cut it short.
