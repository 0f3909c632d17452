"""A session of tests cleans up after itself."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from breadth import ROOT

LEAVES = """
import os, tempfile

def pytest_runtest_setup():
    os.environ["TMPDIR"] = tempfile.mkdtemp()
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_session_leaves_nothing_in_the_temporary_folder(workers: str, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES)
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "leaves", "tests/trajectories/test_split.py"],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": temporary, "PYTEST_DEBUG_TEMPROOT": str(tmp_path), "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        assert not os.listdir(temporary)
