"""What of a working directory is sent: rules that leave files out, sizes, the bound, and the zip file."""

import os
import zipfile
from pathlib import Path

import pytest

from orchestrator.submission import package as packaging
from orchestrator.submission.package import LEFT_OUT, Package, in_words, own_source, working_directory

ROOT = Path(__file__).resolve().parents[3]


def test_runs_environments_caches_and_files_of_secrets_are_never_sent(tmp_path: Path) -> None:
    for name in (
        "rewards.py",
        "runs/first/metrics.jsonl",
        ".venv/bin/python",
        "a/__pycache__/x.pyc",
        ".git/HEAD",
        ".env",
        ".env.local",
        ".ssh/id_ed25519",
        ".ray/auth_token",
        ".cache/huggingface/token",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = working_directory(tmp_path)
    assert list(found.sizes) == ["rewards.py"]
    left_out = {".env", ".env.local", ".git/", ".venv/", "a/__pycache__/", "runs/", ".ssh/", ".ray/", ".cache/"}
    assert set(found.excluded) == left_out


def test_only_the_folder_that_wandb_writes_is_left_out_and_a_package_of_that_name_is_sent(tmp_path: Path) -> None:
    for name in ("wandb/run-1/files/config.yaml", "deploy/wandb/workspace.py", "mine/runs/first.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = working_directory(tmp_path)
    assert sorted(found.sizes) == ["deploy/wandb/workspace.py", "mine/runs/first.py"]
    assert found.excluded == ("wandb/",)


def test_the_page_names_every_folder_left_out_that_a_user_may_have_for_something_else() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    names = [pattern.lstrip("/") for pattern in LEFT_OUT if pattern.lstrip("/")[0].isalpha()]
    assert len(names) == 5 and [name for name in names if f"`{name}`" not in page] == []


def test_ignore_files_count_for_their_own_folder_and_cannot_undo_what_is_never_sent(tmp_path: Path) -> None:
    for name in ("data/big.bin", "data/train.jsonl", "data/raw/x.txt", "other/train.jsonl", "runs/a", "keep.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("*.bin\n!keep.bin\n!runs/\n")
    (tmp_path / "data" / ".rayignore").write_text("raw/\n")
    (tmp_path / "other" / ".gitignore").write_text("train.jsonl\n")
    found = working_directory(tmp_path)
    assert sorted(found.sizes) == [".gitignore", "data/.rayignore", "data/train.jsonl", "keep.bin", "other/.gitignore"]


def test_a_rule_of_a_folder_wins_over_those_above_it_and_a_malformed_one_matches_nothing(tmp_path: Path) -> None:
    for name in ("data/train.bin", "data/other.bin", "top.bin", "rewards.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("*.bin\n!\n[z-a]\n")
    (tmp_path / "data" / ".gitignore").write_text("!train.bin\n")
    sent = set(working_directory(tmp_path).sizes)
    assert sent == {".gitignore", "data/.gitignore", "data/train.bin", "rewards.py"}
    assert set(working_directory(tmp_path, ["train.bin"]).sizes) == sent - {"data/train.bin"}


@pytest.mark.parametrize("pattern", ["!", "[z-a]"])
def test_a_malformed_pattern_of_the_user_is_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--exclude: must be a pattern as in a .gitignore, got "):
        working_directory(tmp_path, [pattern])


def test_exclude_takes_patterns_as_in_a_gitignore(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("x")
    (tmp_path / "rewards.py").write_text("x")
    assert list(working_directory(tmp_path, ["data/"]).sizes) == ["rewards.py"]
    assert list(working_directory(tmp_path, ["*.csv"]).sizes) == ["rewards.py"]


def test_links_to_folders_and_broken_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = working_directory(tmp_path)
    assert list(found.sizes) == ["rewards.py"] and found.links == ("loop",)


def test_why_a_file_is_not_sent_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    for place in (folder / "data", tmp_path / "elsewhere"):
        place.mkdir(parents=True)
        (place / "train.jsonl").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / ".gitignore").write_text("data/\n")
    found = working_directory(folder)
    assert "a .gitignore, a .rayignore, --exclude" in found.why_not(folder / "data" / "train.jsonl")
    assert found.why_not(folder / "linked" / "train.jsonl").startswith("is behind the link linked")
    outside = found.why_not(folder / ".." / "elsewhere" / "train.jsonl")
    assert outside == f"is outside of {folder}"


def test_a_file_of_5_gigabytes_is_refused_at_once_and_one_that_cannot_be_read_with_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    with (folder / "my data.bin").open("wb") as file:
        file.truncate(5 * 10**9)
    with pytest.raises(ValueError, match=r"got 5.0 GB in .*a folder \(largest: my data.bin 5.0 GB\)"):
        working_directory(folder).check_size()
    (folder / "my data.bin").write_text("x")
    found = working_directory(folder)
    (folder / "my data.bin").unlink()
    with pytest.raises(ValueError, match=r"^--working-dir: must hold files that can be read .*my data.bin': "):
        found.write(tmp_path / "a.zip")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    with pytest.raises(ValueError, match=r"^--working-dir: must hold files .* names in UTF-8 .*caf"):
        working_directory(folder).write(tmp_path / "b.zip")


def test_the_largest_entries_are_shown_with_their_sizes(tmp_path: Path) -> None:
    found = Package(tmp_path, {"data/a": 2_000_000, "data/b": 3_000_000, "c.py": 10, "d.py": 20, "e.py": 30})
    assert found.largest() == "data/ 5.0 MB, e.py 30 B, d.py 20 B"
    assert [in_words(size) for size in (0, 999, 1000, 1_500_000_000)] == ["0 B", "999 B", "1.0 kB", "1.5 GB"]


def test_a_directory_above_the_limit_is_refused_with_what_is_largest(tmp_path: Path) -> None:
    found = Package(tmp_path, {"data/a.parquet": packaging.LIMIT, "c.py": 10})
    with pytest.raises(ValueError, match=r"^--working-dir: must hold at most 268.4 MB.*\(largest: data/ 268.4 MB"):
        found.check_size()
    Package(tmp_path, {"data/a.parquet": packaging.LIMIT}).check_size()


def test_the_limit_is_below_that_of_ray() -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    assert packaging.LIMIT < GCS_STORAGE_MAX_SIZE


def test_the_zip_file_has_the_files_with_their_modes_and_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "run.sh").write_text("echo hello")
    (folder / "run.sh").chmod(0o755)
    working_directory(folder).write(tmp_path / "a.zip")
    os.utime(folder / "run.sh", (0, 0))
    working_directory(folder).write(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        [entry] = archive.infolist()
        assert (entry.filename, entry.external_attr >> 16) == ("run.sh", 0o755)
        assert archive.read(entry) == b"echo hello"


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--working-dir: must be a directory"):
        working_directory(tmp_path / "nowhere")


def test_the_own_source_has_the_modules_and_their_data_and_is_small() -> None:
    found = own_source(ROOT)
    assert {"breadth.py", "orchestrator/train.py", "configs/methods/grpo.yaml"} <= found.sizes.keys()
    assert not any("__pycache__" in name or name.startswith("tests/") for name in found.sizes)
    assert found.size < 20_000_000
