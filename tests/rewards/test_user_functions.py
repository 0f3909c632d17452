"""Verifier functions of users by import path and by file, where their files have the names of Breadth's packages."""

from pathlib import Path

import pytest

import rewards.judge
from rewards.judge import judge_all
from rewards.registry import check, resolve, version_of

EXACT = "def exact(answer, problem):\n    return float(answer == problem['gold'])\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, first on the import path, whose files have the names of Breadth's packages."""
    (tmp_path / "rewards.py").write_text("import marking\nfrom dataclasses import dataclass\n" + EXACT)
    (tmp_path / "marking.py").write_text("")
    (tmp_path / "tasks.py").write_text("raise RuntimeError('not this one')\n")
    for package in ("configs", "actors"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_function_named_by_file_is_called_though_the_file_has_the_name_of_a_package(folder: Path) -> None:
    for name in ("rewards.py:exact", f"{folder}/rewards.py:exact"):
        assert [resolve(name)(text, {"gold": "4"}).reward for text in ("4", "5")] == [1.0, 0.0]
        assert version_of(name).startswith(f"{name}@")
    assert Path(rewards.judge.__file__).parent != folder


def test_workers_judge_with_breadths_packages_and_the_users_file(folder: Path) -> None:
    pairs = [({"gold": "4"}, "4"), ({"gold": "4"}, "5")]
    assert [verdict.status for verdict in judge_all("rewards.py:exact", pairs)] == ["correct", "wrong"]
    pairs = [({"answer": "4"}, "4"), ({"answer": "4"}, "5")]
    assert [verdict.status for verdict in judge_all("math", pairs)] == ["correct", "wrong"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("rewards:exact", "rewards.py:exact"),
        ("tasks:exact", "tasks.py:exact"),
        ("configs.own:exact", "path/to/configs/own.py:exact"),
    ],
)
def test_a_module_name_that_is_breadths_is_refused_with_the_advice_to_name_the_file(
    folder: Path, name: str, file: str
) -> None:
    with pytest.raises(ValueError, match="name the file of your function instead") as caught:
        check(name)
    assert f"instead, {file}, got" in str(caught.value)


def test_a_missing_file_and_one_whose_import_fails_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.verifier: must name an existing file, got 'nowhere\.py:exact'"):
        check("nowhere.py:exact")
    with pytest.raises(ValueError, match=r"import raised RuntimeError: not this one"):
        check("tasks.py:exact")
    with pytest.raises(ValueError, match=r"must name a function of rewards\.py"):
        check("rewards.py:other")


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "rewards.py").write_text(f"def fixed(answer, problem):\n    return {number}.0\n")
    assert [resolve(f"{tmp_path}/{number}/rewards.py:fixed")("", {}).reward for number in (0, 1)] == [0.0, 1.0]
