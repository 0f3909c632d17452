"""Lines of trajectories.jsonl for tests of the viewer."""

import json
from pathlib import Path
from typing import Any

HOSTILE = (
    "</script><script>document.title='OWNED'</script>",
    "<img src=x onerror=\"document.title='OWNED'\">",
    "\u202edesrever\u2066",
    "\x00\x1b[31m\x07",
    "\ud800",
    "שלום",
    "\u2028line",
    "x" * 1_000_000,
)
"""Texts of tokens that must not break a page or a terminal."""


def row(
    step: int = 1, sample_index: int = 0, texts: tuple[str, ...] = ("1", "+", "2"), **changes: Any
) -> dict[str, Any]:
    values = [0.1 * (i + 1) for i in range(len(texts))]
    return {
        "step": step,
        "prompt_id": f"sums/train/{step}",
        "sample_index": sample_index,
        "prompt": "1,2=3:",
        "rendered": "<user>1,2=3:",
        "verifier": "countdown",
        "problem": {"target": 3},
        "answer": "".join(texts),
        "reward": 1.0,
        "status": "correct",
        "reason": "",
        "first_version": 0,
        "last_version": 0,
        "finish_reason": "stop",
        "route": "explore",
        "tokens": {"count": len(texts), "texts": list(texts), "logp_sampler": [-v for v in values], "entropy": values},
        **changes,
    }


def write(path: Path, *rows: dict[str, Any], end: str = "") -> Path:
    with path.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)
        file.write(end)
    return path
