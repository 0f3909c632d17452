"""`make setup` prints its steps, and what failed where one fails; `make demo` says what it does and what is next."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = """#!/bin/sh
echo "xgrammar 0.2.8 requires triton, which is not installed."
case "$*" in *--editable*) exit $EDITABLE_STATUS;; esac
"""
PYTHON = """#!/bin/sh
[ "$1" = -m ] && mkdir -p .venv/bin && cp pip python breadth .venv/bin/
exit 0
"""
BREADTH = '#!/bin/sh\necho "ran breadth $1"\n'


def make(folder: Path, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder with programs that only print, in place of python, pip and breadth."""
    shutil.copy(ROOT / "Makefile", folder)
    if not (folder / "pyproject.toml").exists():
        (folder / "pyproject.toml").touch()
    for name, text in {"pip": PIP, "python": PYTHON, "breadth": BREADTH}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    # `make test` would hand its own flags down.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", target, f"PYTHON={folder / 'python'}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=outside | {"EDITABLE_STATUS": "0", **variables},
    )


def test_a_set_up_that_succeeds_shows_no_output_of_pip_and_keeps_it_in_a_file(tmp_path: Path) -> None:
    done = make(tmp_path, "setup")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        lines[0].startswith("Installing into .venv: ") and lines[-1] == "Installed. The command is .venv/bin/breadth."
    )
    assert len(lines) == 5 and "triton" not in done.stdout + done.stderr
    assert (tmp_path / ".venv" / "install.log").read_text().count("requires triton") == 3
    assert "Installing" not in make(tmp_path, "setup").stdout, "a second call starts at once"


def test_a_set_up_that_fails_shows_what_pip_printed_and_is_not_taken_for_done(tmp_path: Path) -> None:
    done = make(tmp_path, "setup", EDITABLE_STATUS="1")
    assert done.returncode == 2
    assert "requires triton" in done.stdout and "failed: .venv/bin/pip install --quiet --editable" in done.stdout
    assert "Installed." not in done.stdout and not (tmp_path / ".venv" / ".ready").exists()


@pytest.mark.parametrize("active", [False, True])
def test_the_demo_opens_with_what_it_does_and_ends_with_what_to_open_and_the_next_command(
    tmp_path: Path, active: bool
) -> None:
    (tmp_path / "runs" / "smollm" / "policy").mkdir(parents=True)
    found = f"{tmp_path / '.venv' / 'bin'}:{os.environ['PATH']}" if active else os.environ["PATH"]
    done = make(tmp_path, "demo", PATH=found)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[0].startswith("This demo takes 6 minutes on 2 cores")
    assert [line for line in lines if line.startswith("ran ")] == [
        "ran breadth train", "ran breadth train", "ran breadth evaluate", "ran breadth report",
    ]  # fmt: skip
    opened, *following = lines[-3:]
    command = "breadth" if active else ".venv/bin/breadth"
    assert opened.startswith("Open runs/smollm/sums/report.html")
    assert [line.split("  ")[-1].strip() for line in following] == [f"{command} compare", f"{command} train --help"]
