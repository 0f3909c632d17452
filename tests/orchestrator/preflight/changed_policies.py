"""Copies of a policy whose tokenizer or config is changed, and the check of a run with them."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from orchestrator.preflight.check import check_run
from tests.orchestrator.in_process import config

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</' + m.role + '>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""A chat template of plain tags."""


def changed(policy: Path, folder: Path, **changes: dict[str, Any]) -> Path:
    """Copy a policy. `changes` are new entries by the name of a JSON file without its suffix: `config={...}`."""
    shutil.copytree(policy, folder)
    for name, entries in changes.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def with_special_tokens(policy: Path, folder: Path, before: str = "", after: str = "") -> Path:
    """Copy a policy whose tokenizer then writes the token `before` (its BOS) and the token `after` around a text."""
    ids = {"<pad>": 0, "<end>": 1}
    around = [{"SpecialToken": {"id": token, "type_id": 0}} for token in (before, after) if token]
    around.insert(bool(before), {"Sequence": {"id": "A", "type_id": 0}})
    processor = {
        "type": "TemplateProcessing",
        "single": around,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()},
    }
    bos = {"bos_token": before} if before else {}
    return changed(policy, folder, tokenizer={"post_processor": processor}, tokenizer_config=bos)


def with_template(policy: Path, folder: Path, template: str = TEMPLATE) -> Path:
    """Copy a policy whose tokenizer then has this chat template."""
    return changed(policy, folder, tokenizer_config={"chat_template": template})


def rows(path: Path, *rows: Any) -> Path:
    """Write a jsonl file of these rows; a string is a whole line."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def dataset(path: Path, **options: Any) -> list[str]:
    """Return the overrides that train on the rows of a file, without measuring."""
    given = {"path": str(path), **options}
    return ["task.name=dataset", f"task.options={json.dumps(given)}", "monitor.every=0"]


def reported(policy: Path, runs: Path, *overrides: str) -> list[str]:
    """Check a run and return the lines that it reports."""
    lines: list[str] = []
    asyncio.run(check_run(config(policy, runs, *overrides), lines.append))
    return lines
