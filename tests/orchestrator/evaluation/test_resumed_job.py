"""A job over several tasks that is killed goes on after the prompts that were done, and writes what it would have."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.config import Config
from configs.heldout import Decoding
from orchestrator.evaluation import progress
from orchestrator.evaluation.job import evaluate
from orchestrator.heldout import answering
from orchestrator.heldout.cache import Partial
from orchestrator.report.compared import read_compared
from orchestrator.rollout.rollouts import Rollouts
from tests.orchestrator.heldout.test_votes import result
from tests.orchestrator.in_process import config
from trajectories.trajectory import Group

VERIFIER = f"{Path(__file__).parents[1] / 'toy_verifiers.py'}:even"
SETTINGS = (
    f"task.verifier={VERIFIER}",
    "evaluate.frontier=[0.5]",
    "evaluate.kl_to_base=false",
    f"evaluate.tasks.words={{name: word_problems, verifier: '{VERIFIER}', heldout_prompts: 3, answers: 2}}",
    f"evaluate.tasks.greedy={{name: countdown, verifier: '{VERIFIER}', heldout_prompts: 2}}",
    "evaluate.tasks.greedy.sampling.temperature=0",
    "sampling.max_prompt_tokens=320",
)
PROMPTS = 2 * 4 + 3 + 2 + 4 + 3 + 2
"""Prompts of base (at two temperatures) and other, over the three tasks."""


def run(cfg: Config, folder: Path, policies: dict[str, Path]) -> list[str]:
    lines: list[str] = []
    asyncio.run(evaluate(cfg, {name: str(path) for name, path in policies.items()}, lines.append, folder))
    return lines


def everything(folder: Path) -> dict[str, Any]:
    """All that an evaluation wrote but its date."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        found[str(path.relative_to(folder))] = content = json.loads(path.read_text())
        if path.name == "results.json":
            content["about"].pop("date")
    for path in sorted(folder.rglob("answers.parquet")):
        found[str(path.relative_to(folder))] = pq.read_table(path).to_pylist()
    return found


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two JSON values differ by more than 0.001: in another batch the last bits of a log-prob differ."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return [each for key in expected for each in differences(found[key], expected[key], f"{place}/{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [each for i, one in enumerate(expected) for each in differences(found[i], one, f"{place}/{i}")]
    if isinstance(expected, float) and isinstance(found, float):
        return [] if abs(found - expected) <= 1e-3 else [f"{place}: {found} instead of {expected}"]
    return [] if found == expected else [f"{place}: {found!r:.80} instead of {expected!r:.80}"]


class Killed(BaseException):
    """Ends a job as a signal would."""


def killed_after(patch: pytest.MonkeyPatch, prompts: int) -> None:
    """Let the job be killed when so many prompts are done."""
    add, done = Partial.add, []

    def counted(partial: Partial, group: Group) -> Any:
        if len(done) == prompts:
            raise Killed
        done.append(group.prompt.id)
        return add(partial, group)

    patch.setattr(Partial, "add", counted)


@pytest.fixture(scope="module")
def policies(tiny_policy: Path, other_policy: Path) -> dict[str, Path]:
    return {"base": tiny_policy, "other": other_policy}


@pytest.fixture(scope="module")
def whole(policies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(config(Path("nowhere"), folder, *SETTINGS), folder / "out", policies)
    return folder / "out"


@pytest.mark.parametrize("prompts", [1, 9, 15])
def test_a_killed_evaluation_goes_on_where_it_was_and_writes_the_same(
    policies: dict[str, Path], whole: Path, tmp_path: Path, prompts: int
) -> None:
    cfg = config(Path("nowhere"), tmp_path, *SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "IN_FLIGHT", 8)
        killed_after(patch, prompts)
        with pytest.raises(Killed):
            run(cfg, tmp_path / "out", policies)
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == prompts, "it grew with every prompt"
    with pytest.MonkeyPatch.context() as patch:
        submitted: list[str] = []
        submit = Rollouts.submit

        async def noted(rollouts: Rollouts, prompts: Sequence[Any], jobs: Sequence[Any], **options: Any) -> Any:
            submitted.extend(job.key for job in jobs if "/heldout/" in job.key)
            return await submit(rollouts, prompts, jobs, **options)

        patch.setattr(Rollouts, "submit", noted)
        lines = run(cfg, tmp_path / "out", policies)
    assert len(submitted) == PROMPTS - prompts, "no prompt is answered twice"
    assert "starting generators and graders ..." in lines, "a wait for room in a full cluster is not silent"
    assert any(line.startswith(("resume ", "evaluate base at")) for line in lines)
    assert differences(everything(tmp_path / "out"), everything(whole)) == []
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == PROMPTS
    assert not list((tmp_path / "measurements").glob("*.jsonl")), "partial results are gone when they are whole"


def test_every_task_is_an_evaluation_of_its_own_with_its_answers_sampling_and_k(whole: Path) -> None:
    own, greedy, words = read_compared([whole])[0]
    assert [found.about["name"] for found in (own, greedy, words)] == ["", "greedy", "words"]
    assert (len(words.at_base.prompts), words.at_base.answers, words.ks) == (3, 2, [1])
    assert (words.at_base.temperature, words.names, list(words.measurements["base"])) == (1.0, own.names, [1.0])
    assert (greedy.at_base.temperature, len(greedy.at_base.prompts), greedy.ks) == (0.0, 2, [1, 4])
    assert list(own.measurements["base"]) == [1.0, 0.5]
    assert words.at_base.prompts[0].prompt_id.startswith("word_problems/")
    rows = pq.read_table(whole / "tasks" / "words" / "answers.parquet").to_pylist()
    assert {(row["policy"], row["temperature"]) for row in rows} == {("base", 1.0), ("other", 1.0)}


def test_a_second_job_reads_every_policy_from_the_cache(
    policies: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a role was started")

    monkeypatch.setattr("orchestrator.cluster.start", refuse)
    renamed = {"base": policies["base"], "again": policies["other"]}
    lines = run(config(Path("nowhere"), whole.parent, *SETTINGS), tmp_path / "out", renamed)
    assert sum("read from" in line for line in lines) == 7
    rows = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    assert {row["policy"] for row in rows} == {"base", "again"}, "a measurement has no name of its own"


def test_the_user_reads_partial_values_and_the_seconds_left(tmp_path: Path) -> None:
    now, lines = [0.0], list[str]()
    waited = 1_000.0  # for room in a full cluster
    with progress.Progress(tmp_path / "results.jsonl", lines.append, lambda: now[0]) as shown:
        shown.plan(40)
        results = []
        for number in range(4):
            now[0] += 10.0 if number else waited
            results.append(result(f"p{number}", 10, (5,), (5,)))
            shown.add("step", "words", Decoding(temperature=1.0, max_new_tokens=4), results, 4, 2, 10)
    at = "progress step on words at temperature 1, at most 4 tokens"
    assert lines == [
        f"{at}: 1 of 4 prompts, Pass@1 0.500, Pass@2 0.778",
        f"{at}: 3 of 4 prompts, Pass@1 0.500, Pass@2 0.778, about 10 s left",
    ]
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["done"], row["correct"], row["graded"]) for row in rows] == [(n, 5, 10) for n in (1, 2, 3, 4)]
