"""Names of repositories of the Hugging Face Hub: their parts, what wins over them, pins, and errors."""

from pathlib import Path

import huggingface_hub
import pytest
from hub_cache import HubCache, hub_cache
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from configs.hub import HubName, fetch, listing, pin, policy_name, rows_name


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    return hub_cache(tmp_path / "home", monkeypatch)


@pytest.mark.parametrize(
    ("path", "repository", "part", "revision", "split"),
    [
        ("openai/gsm8k", "openai/gsm8k", "", "", ""),
        ("openai/gsm8k:test", "openai/gsm8k", "", "", "test"),
        ("openai/gsm8k/main:train", "openai/gsm8k", "main", "", "train"),
        ("openai/gsm8k/main@v1.0:train", "openai/gsm8k", "main", "v1.0", "train"),
        ("openai/gsm8k@refs/convert/parquet:test", "openai/gsm8k", "", "refs/convert/parquet", "test"),
        ("org/set/data/train-*.parquet", "org/set", "data/train-*.parquet", "", ""),
    ],
)
def test_a_name_of_rows_has_repository_subset_revision_and_split(
    path: str, repository: str, part: str, revision: str, split: str
) -> None:
    name = rows_name(path)
    assert name == HubName(kind="dataset", repository=repository, part=part, revision=revision, split=split)
    assert str(name) == path


@pytest.mark.parametrize(
    "path", ["", "gone", "/a/b", "./a/b", "~/a/b", "../a", "data/rows.jsonl", "data/train-*", "a/b c"]
)
def test_other_paths_name_no_repository(path: str) -> None:
    assert rows_name(path) is None


def test_a_policy_has_no_subset_and_no_split() -> None:
    assert policy_name("Qwen/Qwen3-4B@v2") == HubName(kind="model", repository="Qwen/Qwen3-4B", revision="v2")
    assert policy_name("tasks/base_policies/gone") is None
    assert policy_name("Qwen/Qwen3-4B:train") is None


def test_what_exists_here_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert policy_name("org/policy") and rows_name("org/rows")
    for folder in ("org/policy", "org/rows"):
        (tmp_path / folder).mkdir(parents=True)
    assert policy_name("org/policy") is None and rows_name("org/rows") is None


def test_a_name_is_pinned_to_the_commit_of_its_revision(cache: HubCache) -> None:
    main = cache.add("model", "org/policy", {"config.json": "{}"})
    other = cache.add("model", "org/policy", {"config.json": "[]"}, revision="v2")
    name = policy_name("org/policy")
    assert name and pin(name, "policy.path").revision == main != other
    newer = policy_name("org/policy@v2")
    assert newer and pin(newer, "policy.path").revision == other
    exact = policy_name(f"org/policy@{other}")
    assert exact and exact.pinned and pin(exact, "policy.path") == exact


def test_a_file_of_the_cache_that_holds_no_commit_is_no_revision(cache: HubCache) -> None:
    cache.add("model", "org/policy", {"config.json": "{}"})
    (cache.home / "hub/notes").write_text("no commit")
    name = policy_name("org/policy@../../notes")
    assert name
    with pytest.raises(ValueError, match=r"^policy.path: must be a directory or a Hugging Face repository"):
        pin(name, "policy.path")


def test_a_folder_has_what_the_cache_has_if_the_hub_does_not_answer(cache: HubCache) -> None:
    cache.add("dataset", "org/rows", {"README.md": "", "data/train.jsonl": "{}\n"})
    name = rows_name("org/rows:train")
    assert name
    folder = fetch(name, "task.options.path", ["data/*"])
    assert (folder / "data/train.jsonl").read_text() == "{}\n"
    assert listing(pin(name, ""), folder) == (["README.md", "data/train.jsonl"], False)


def test_a_name_that_is_neither_here_nor_in_reach_says_what_was_tried(cache: HubCache, tmp_path: Path) -> None:
    name = policy_name("org/policy")
    assert name
    with pytest.raises(ValueError) as caught:
        pin(name, "references.teacher.path")
    words = str(caught.value)
    assert words.startswith(
        "references.teacher.path: must be a directory or a Hugging Face repository; no directory '/"
    )
    assert "org/policy', and the Hub: HF_HUB_OFFLINE is set, and " in words
    assert str(tmp_path / "home/hub/models--org--policy") in words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "it is gated: accept its terms at https://huggingface.co/org/policy, and set HF_TOKEN"),
        (RepositoryNotFoundError, "it has no such model, or a private one (set HF_TOKEN"),
        (RevisionNotFoundError, "it has no such revision of org/policy"),
        (ConnectionError, "ConnectionError: no route; "),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(
    cache: HubCache, monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: str
) -> None:
    def refuse(self: object, *arguments: object, timeout: float, **options: object) -> None:
        assert 0 < timeout <= 10
        raise error.__new__(error, "no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    name = policy_name("org/policy")
    assert name
    with pytest.raises(ValueError) as caught:
        pin(name, "policy.path")
    assert f"and the Hub: {words}" in str(caught.value)


def test_a_cached_revision_is_used_if_the_hub_does_not_answer_but_not_if_it_denies_the_revision(
    cache: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = cache.add("model", "org/policy", {"config.json": "{}"})
    raised: list[type[Exception]] = [ConnectionError]

    def refuse(self: object, *arguments: object, **options: object) -> None:
        raise raised[0].__new__(raised[0], "no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    name = policy_name("org/policy")
    assert name and pin(name, "policy.path").revision == commit
    assert (fetch(name, "policy.path", ["*.json"]) / "config.json").is_file()
    raised[0] = RevisionNotFoundError
    with pytest.raises(ValueError, match="it has no such revision"):
        pin(name, "policy.path")
