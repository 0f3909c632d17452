"""A resumed run continues under the settings of its steps so far; a label never differs from its objective."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from configs.config import Config
from configs.explain import settings
from configs.load import load, to_yaml
from configs.resume import MAY_CHANGE, may_change
from orchestrator.commands.paths import absolute, existing
from orchestrator.preflight.resume import check_resumed_settings, differences, resume_command

FAULTS = Path(__file__).resolve().parents[3] / "docs" / "faults.md"


def recorded(tmp_path: Path, *overrides: str) -> tuple[Config, Path]:
    cfg = load([*overrides, "method=dapo"])
    record = tmp_path / "config.yaml"
    record.write_text(to_yaml(cfg))
    return cfg, record


def check(record: Path, *overrides: str) -> list[str]:
    """Check the settings of the record with changes, and return what was reported."""
    lines: list[str] = []
    check_resumed_settings(load(overrides, str(record)), record, lines.append)
    return lines


@pytest.mark.parametrize(
    "change",
    [
        "steps=7",
        "name=moved",
        "runs=elsewhere",
        "learner.token_budget=64",
        "learner.gradient_checkpointing=true",
        "placement.cpus_per_learner=2",
        "generator.max_sequences=3",
        "grader.workers=4",
        "sandbox.require=1",
        "monitor.every=3",
        "checkpoint.keep_last=5",
        "logbook.wandb=offline",
        "evaluate.answers=256",
    ],
)
def test_a_resumed_run_may_change_what_the_list_names(change: str, tmp_path: Path) -> None:
    _, record = recorded(tmp_path)
    assert check(record, change) == []


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        ("objective.clip.high=0.3", "0.28", "0.3"),
        ("objective.entropy_bonus=0.1", "0.0", "0.1"),
        ("monitor.sampling.max_new_tokens=99", "0", "99"),
        ("learner.learning_rate=1e-5", "0.0003", "1e-05"),
        ("learner.updates_per_batch=2", "1", "2"),
        ("lag=1", "0", "1"),
        ("monitor.answers=64", "32", "64"),
        ("seed=3", "0", "3"),
        ("groups_per_step=4", "32", "4"),
        ("sampling.temperature=0.7", "1.0", "0.7"),
        ("task.verifier=math", "''", "math"),
        ("task.options.numbers=5", "unset", "5"),
        ("policy.chat_template=true", "false", "true"),
        ("reference_path=other", "''", "other"),
    ],
)
def test_every_other_change_is_refused_with_key_old_and_new_value(
    change: str, old: str, new: str, tmp_path: Path
) -> None:
    _, record = recorded(tmp_path)
    key = change.partition("=")[0]
    with pytest.raises(ValueError) as caught:
        check(record, change)
    assert str(caught.value).startswith(f"{key}: must stay {old} in a resumed run, got {new}. A resumed run may change")


def test_a_term_that_is_added_or_removed_is_refused(tmp_path: Path) -> None:
    _, record = recorded(tmp_path, "objective.terms.kl={name: reverse_kl, estimator: k2}")
    with pytest.raises(ValueError, match=r"^objective\.terms\.kl: must stay {name: reverse_kl, \.\.\.} .*, got unset"):
        check(record, "objective.terms.kl=null")
    with pytest.raises(
        ValueError, match=r"^objective\.terms\.more: must stay unset .*, got {name: reverse_kl, \.\.\.}"
    ):
        check(record, "objective.terms.more={name: reverse_kl, estimator: k2}")


def test_several_changes_are_listed_together(tmp_path: Path) -> None:
    _, record = recorded(tmp_path)
    changes = ("lag=1", "seed=1", "groups_per_step=1", "sampling.temperature=0.5", "policy.dtype=bfloat16", "steps=9")
    with pytest.raises(ValueError, match=r"^seed: .*; lag: .*; groups_per_step: .*; policy.dtype: .*; and 1 more\."):
        check(record, *changes)


@pytest.mark.parametrize("given", ["override", "edited file", "other file"])
def test_a_method_that_is_not_the_runs_is_refused_however_it_is_given(given: str, tmp_path: Path) -> None:
    cfg, record = recorded(tmp_path)
    file = tmp_path / "other.yaml"
    with pytest.raises(ValueError, match=r"^method: must (be|stay) '?dapo'? .*, got '?dph_f'?"):
        if given == "override":
            check(record, "method=dph_f")
        elif given == "edited file":
            file.write_text(to_yaml(cfg).replace("method: dapo", "method: dph_f"))
            check_resumed_settings(load([], str(file)), record, print)
        else:
            file.write_text("method: dph_f\n")
            check_resumed_settings(load([], str(file)), record, print)


def test_a_path_may_change_if_the_old_place_is_gone_or_holds_the_same(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(text)
        (tmp_path / f"{name}.jsonl").write_text(text)
    dataset = ("task.name=dataset", f"task.options.path={tmp_path / 'a.jsonl'}", f"policy.path={tmp_path / 'a'}")
    _, record = recorded(tmp_path, *dataset)
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "moved" / "a.jsonl")
    moved = f"task.options.path={tmp_path / 'moved' / 'a.jsonl'}"
    assert check(record, moved, f"policy.path={tmp_path / 'b'}") == [
        f"task.options.path: {tmp_path / 'a.jsonl'} is gone; {tmp_path / 'moved' / 'a.jsonl'} is read in its place"
    ]
    with pytest.raises(ValueError, match=r"^policy\.path: must stay .*/a in a resumed run, got .*/c\."):
        check(record, f"policy.path={tmp_path / 'c'}")


def test_the_list_names_settings_that_exist_and_the_page_of_faults_has_all_of_it() -> None:
    keys = [setting.key for setting in settings()]
    assert [one for one in MAY_CHANGE if not any(key == one or key.startswith(f"{one}.") for key in keys)] == []
    [row] = [line for line in FAULTS.read_text().splitlines() if line.startswith("| `--resume` with other settings")]
    assert set(re.findall(r"`([a-z_.]+)`", row)) >= set(MAY_CHANGE)
    assert not may_change("stepsize") and may_change("generator.engine") and not may_change("learner.beta1")


def test_settings_that_are_equal_differ_nowhere() -> None:
    assert list(differences(asdict(load()), asdict(load()))) == []


def test_the_file_of_a_verifier_may_lie_elsewhere_with_the_same_content(tmp_path: Path) -> None:
    for name, text in (("old", "def exact(): ..."), ("same", "def exact(): ..."), ("other", "def exact(): pass")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rewards.py").write_text(text)
    _, record = recorded(tmp_path, f"task.verifier={tmp_path}/old/rewards.py:exact")
    assert check(record, f"task.verifier={tmp_path}/same/rewards.py:exact") == []
    for changed in ("other/rewards.py:exact", "same/rewards.py:inexact"):
        with pytest.raises(ValueError, match=r"^task.verifier: must stay"):
            check(record, f"task.verifier={tmp_path}/{changed}")
    (tmp_path / "old" / "rewards.py").unlink()
    [line] = check(record, f"task.verifier={tmp_path}/other/rewards.py:exact")
    assert "is gone" in line


def test_a_file_that_an_earlier_job_of_the_run_was_sent_is_found_in_the_present_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text("def exact(): ...")
    sent = f"/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_{'0a' * 20}"
    assert existing(f"{sent}/rewards.py") == str(tmp_path / "rewards.py")
    assert existing(f"{sent}/gone.py") == f"{sent}/gone.py"


def test_the_command_that_resumes_a_remote_run_has_its_url() -> None:
    remote = absolute(load(["runs=s3://bucket/runs", "name=first"]))
    assert remote.mirror == "s3://bucket/runs" and resume_command(remote).endswith("runs=s3://bucket/runs")
    both = absolute(load(["runs=/shared/runs", "mirror=s3://bucket/runs/"]))
    assert (both.runs, both.mirror) == ("/shared/runs", "s3://bucket/runs")
    assert resume_command(both).endswith("runs=/shared/runs")
