"""The page of the rollout viewer: one HTML file that reads the answers from itself or from the server it came from."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.report.style import STYLE, escaped
from orchestrator.viewer.answer_file import AnswerFile

FOLDER = Path(__file__).parent
SCRIPT = (FOLDER / "page.js").read_text()
LOOK = (FOLDER / "page.css").read_text()
EXPORT_LIMIT = 64 * 2**20
"""Characters of the answers in an exported page; older answers are left out."""


def page(name: str, data: Mapping[str, Any]) -> str:
    """Return the HTML file. Its Content-Security-Policy allows no script but its own, and no other server.

    Args:
        name: of the run.
        data: what page.js reads, see there. Texts in it may be anything.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'"
    # Without "<" no text can end the element that holds the data.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    title = escaped(f"Answers of {name}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}{LOOK}</style></head>\n<body>\n<h1>{title}</h1>\n"
        '<noscript><p class="note">This page needs JavaScript.</p></noscript>\n'
        '<div id="page"></div>\n'
        f'<script type="application/json" id="data">{embedded}</script>\n<script>{SCRIPT}</script></body></html>\n'
    )


def exported(name: str, answers: AnswerFile, numbers: Sequence[int]) -> str:
    """Return a page that holds the answers of these numbers, the newest of them as far as EXPORT_LIMIT allows."""
    rows: list[dict[str, Any]] = []
    kept: list[int] = []
    room = EXPORT_LIMIT
    for number in reversed(numbers):
        row = answers.answer(number)
        room -= len(json.dumps(row))
        if room < 0:
            break
        rows.append(row)
        kept.append(number)
    data = {
        "live": False,
        "answers": [answers.summary(number).shown() for number in reversed(kept)],
        "rows": rows[::-1],
        "left_out": len(numbers) - len(kept) + answers.first,
        "broken": answers.broken,
    }
    return page(name, data)
