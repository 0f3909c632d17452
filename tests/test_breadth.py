"""The command `breadth` in a working directory whose files have the names of Breadth's packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from breadth import PACKAGES, ROOT
from tests.test_house import ROOMS

SCRIPT = ("-c", "import sys; from breadth import main; sys.exit(main())")
"""What the installed command does."""


def test_every_room_of_the_house_is_one_of_the_packages_that_come_first() -> None:
    assert sorted(PACKAGES) == sorted(ROOMS)


@pytest.mark.parametrize("start", [SCRIPT, ("-m", "breadth")], ids=["script", "module"])
@pytest.mark.parametrize("verifier", ["rewards.py:exact", "math"])
def test_the_command_uses_its_own_packages_in_any_working_directory(
    tmp_path: Path, start: tuple[str, ...], verifier: str
) -> None:
    for package in PACKAGES:
        (tmp_path / f"{package}.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "rewards.py").write_text("def exact(answer, problem):\n    return float(answer == problem['gold'])\n")
    rows = [{"id": number, "gold": "4", "answer": str(number)} for number in (4, 5)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--verifier", verifier, "--input", "answers.jsonl", "--output", "verdicts.jsonl", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, *start, "verify", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), ROOT])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [verdict["status"] for verdict in verdicts] == ["correct", "wrong"]
