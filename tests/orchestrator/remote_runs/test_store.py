"""Files below a URL: in memory, in a folder, and in a server of S3."""

import sys
import time
from pathlib import Path

import pytest

from orchestrator.remote_runs.place import check_url, is_url, split_run, work_folder
from orchestrator.remote_runs.store import Store, StoreError


def test_files_are_written_listed_read_and_removed(place: str, tmp_path: Path) -> None:
    store = Store(f"{place}/first")
    assert store.sizes() == {}
    source = tmp_path / "a.txt"
    source.write_text("hello")
    store.put(source, "checkpoints/step-000001/a.txt")
    store.put(source, "b.txt")
    assert store.sizes() == {"checkpoints/step-000001/a.txt": 5, "b.txt": 5}
    store.get("checkpoints/step-000001/a.txt", tmp_path / "there" / "a.txt")
    assert (tmp_path / "there" / "a.txt").read_text() == "hello" and store.read("b.txt") == b"hello"
    source.write_text("longer than before")
    store.put(source, "b.txt")
    assert store.sizes()["b.txt"] == 18
    store.remove("b.txt")
    store.remove("b.txt")
    assert set(store.sizes()) == {"checkpoints/step-000001/a.txt"}
    store.check_writable()
    assert set(store.sizes()) == {"checkpoints/step-000001/a.txt"}


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_refused_before_the_run(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(
        ValueError, match=r"^runs: must be a place that this user can write to, got 's3://no-such-bucket"
    ):
        Store("s3://no-such-bucket/runs").check_writable()


def test_a_missing_package_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        ValueError, match=r"^runs: must be a place whose package is installed \(pip install 'breadth\[gcs\]'"
    ):
        Store("gs://bucket/runs")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^runs: must be a URL that fsspec knows, got 's4://bucket"):
        Store("s4://bucket/runs")


def test_a_call_that_does_not_answer_ends_at_its_limit() -> None:
    store = Store("memory://bounded")
    with pytest.raises(StoreError, match="no answer within 0 s"):
        store._bounded(lambda: time.sleep(30), 0.05)


def test_a_url_is_told_from_a_path_and_holds_no_credentials() -> None:
    assert is_url("s3://bucket/runs") and is_url("file:///shared") and not is_url("/shared/runs") and not is_url("runs")
    with pytest.raises(ValueError, match=r"^runs: must hold no credentials") as caught:
        check_url("runs", "s3://key:secret@bucket/runs")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^mirror: must be a URL such as"):
        check_url("mirror", "s3://")


def test_each_place_has_a_local_folder_of_its_own() -> None:
    assert work_folder("s3://bucket/runs") == work_folder("s3://bucket/runs/")
    assert len({work_folder(url) for url in ("s3://b/runs", "gs://b/runs", "s3://b-runs", "s3://b/run/s")}) == 4
    assert split_run("s3://bucket/runs/first/") == ("s3://bucket/runs", "first")
    with pytest.raises(ValueError, match=r"^RUN: must be the URL of a run"):
        split_run("s3://bucket")
