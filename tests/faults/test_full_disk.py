"""The disk of a run's directory is full: a small file system in memory, so only where this user may mount one."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.program import FILLER
from tests.faults.subject import Subject

pytestmark = [pytest.mark.slow, pytest.mark.faults]

REQUIRED = "BREADTH_REQUIRE_MOUNT"
"""Environment variable with which these tests fail where they cannot be made."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True).returncode:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this user may not mount a file system")
        pytest.skip("this user may not mount a file system: the tests of a full disk were not run")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("phase", ["recording", "checkpointing", "updating"])
def test_a_run_whose_disk_is_full_ends_and_goes_on_when_there_is_room(phase: str, disk: Path) -> None:
    subject = Subject(disk, ["placement.kind=in_process"])
    fault = {"action": "fill_disk", "role": "driver", "phase": phase, "step": 3, "value": 0}
    try:
        ended = subject.run(fault=fault)
        assert ended.status == 1 and re.search("No space left on device|wrote [0-9]+ of", ended.output), ended.output[
            -3000:
        ]
        assert "Traceback" not in ended.output, ended.output[-3000:]
        assert not subject.leftovers(records=False)
        (disk / FILLER).unlink()
        again = subject.run("--resume")
        assert again.status == 0, again.output[-3000:]
        subject.check()
        assert all(json.loads(line) for line in (subject.run_dir / "events.jsonl").read_text().splitlines())
    finally:
        subject.close()
