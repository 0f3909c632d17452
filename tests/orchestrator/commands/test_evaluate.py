"""`breadth evaluate`: several policies, the same seeds, and results that other programs can read."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.config import Config
from orchestrator.commands.evaluate import evaluate, named_checkpoints
from orchestrator.report.inputs import read_evaluation
from tests.conftest import make_policy
from tests.orchestrator.in_process import config

PROMPTS = ANSWERS = 4
NAMES = ["base", "other", "wide", "same"]
KEYS = {"pass@1", "pass@4", "maj@n", "retention", "expansion", "distinct_correct", "entropy"}


def measured(cfg: Config) -> list[str]:
    """Evaluate, and return the lines that were logged."""
    lines: list[str] = []
    measurements = asyncio.run(evaluate(cfg, named_checkpoints(cfg), lines.append))
    assert list(measurements) == list(named_checkpoints(cfg))
    return lines


@pytest.fixture(scope="module", autouse=True)
def toy_verifiers_on_path() -> Iterator[None]:
    """Put toy_verifiers on the import path of the grader's workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield


@pytest.fixture(scope="module")
def output(tiny_policy: Path, other_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One evaluation of four policies of two architectures; `policy.path` is not used."""
    folder = tmp_path_factory.mktemp("evaluated")
    wide = make_policy(folder / "wide", hidden=128)
    paths = (tiny_policy, other_policy, wide, tiny_policy)
    checkpoints = ",".join(f"{name}={path}" for name, path in zip(NAMES, paths, strict=True))
    settings = ("task.verifier=toy_verifiers:even", f"evaluate.checkpoints=[{checkpoints}]", "evaluate.output=out")
    lines = measured(config(Path("nowhere"), folder, *settings))
    assert sorted(lines) == sorted(f"evaluate {name}: {PROMPTS * ANSWERS} answers" for name in NAMES)
    return folder / "out"


@pytest.fixture(scope="module")
def results(output: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    found: dict[str, Any] = json.loads((output / "results.json").read_text(), parse_constant=refuse)
    return found


@pytest.fixture(scope="module")
def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "answers.parquet").to_pylist()
    return found


def of(rows: list[dict[str, Any]], policy: str, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[column] for column in columns) for row in rows if row["policy"] == policy)


def test_results_hold_every_policy_in_order_with_values_and_intervals(results: dict[str, Any]) -> None:
    assert list(results) == NAMES, "the base is first"
    for values in results.values():
        assert set(values) == KEYS | {"intervals"}
        assert set(values["intervals"]) == KEYS
        for key in ("pass@1", "pass@4"):
            low, high = values["intervals"][key]
            assert 0 <= low <= values[key] <= high <= 1
        assert values["pass@1"] <= values["pass@4"]
    assert results["base"]["retention"] == 1.0


def test_answers_hold_every_answer_of_every_policy_with_its_verdict(
    rows: list[dict[str, Any]], results: dict[str, Any]
) -> None:
    assert len(rows) == len(NAMES) * PROMPTS * ANSWERS
    for name in NAMES:
        assert len(set(of(rows, name, "prompt_id", "sample_index"))) == PROMPTS * ANSWERS
        rewards = [reward for (reward,) in of(rows, name, "reward")]
        assert sum(rewards) / len(rewards) == pytest.approx(results[name]["pass@1"])
    for row in rows:
        assert row["status"] == ("correct" if sum(map(ord, row["answer"])) % 2 == 0 else "wrong")
        assert row["finish_reason"] in ("stop", "length") and 1 <= row["tokens"] <= 6
        assert row["prompt"].endswith(":")
        assert row["prompt_id"].startswith("countdown/heldout/")


def test_all_policies_get_the_same_seeds_and_the_same_policy_gives_the_same_answers(rows: list[dict[str, Any]]) -> None:
    seeds = of(rows, "base", "prompt_id", "sample_index", "seed")
    assert len({seed for _, _, seed in seeds}) == PROMPTS * ANSWERS
    assert all(of(rows, name, "prompt_id", "sample_index", "seed") == seeds for name in NAMES)
    answers = {name: of(rows, name, "prompt_id", "sample_index", "answer") for name in NAMES}
    assert answers["same"] == answers["base"]
    assert answers["other"] != answers["base"]
    assert answers["wide"] != answers["base"]


def test_the_report_reads_the_evaluation_and_its_base(output: Path, results: dict[str, Any]) -> None:
    measurements, base, ks = read_evaluation(output)
    assert (list(measurements), base, ks) == (NAMES, "base", [1, 4])
    for name, measurement in measurements.items():
        solved = [p.correct / p.total for p in measurement.prompts]
        assert sum(solved) / PROMPTS == pytest.approx(results[name]["pass@1"])
        assert (measurement.name, measurement.answers) == (name, ANSWERS)


def test_without_checkpoints_policy_path_is_measured_and_an_undefined_value_is_null(
    tiny_policy: Path, tmp_path: Path
) -> None:
    settings = ("task.verifier=toy_verifiers:never", "name=own", "task.heldout_prompts=2")
    measured(config(tiny_policy, tmp_path, *settings))
    text = (tmp_path / "own" / "evaluation" / "results.json").read_text()
    assert "NaN" not in text
    [(name, values)] = json.loads(text).items()
    assert (name, values["pass@4"], values["expansion"]) == ("policy", 0.0, 0.0)
    assert values["retention"] is None and values["intervals"]["retention"] == [None, None]


def test_a_heldout_prompt_that_is_too_long_is_refused_before_generation(tiny_policy: Path, tmp_path: Path) -> None:
    cfg = config(tiny_policy, tmp_path, "sampling.max_prompt_tokens=5")
    with pytest.raises(
        ValueError,
        match=r"^sampling\.max_prompt_tokens: must be at least the longest held-out prompt \(1\d tokens\)",
    ):
        asyncio.run(evaluate(cfg, named_checkpoints(cfg), lambda text: None))


def names(tmp_path: Path, policy: Path, *checkpoints: str) -> dict[str, str]:
    return named_checkpoints(config(policy, tmp_path, f"evaluate.checkpoints=[{','.join(checkpoints)}]"))


def test_a_policy_has_the_given_name_or_that_of_its_folder_or_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "step-000010"
    policy = make_policy(run / "policy", hidden=32)
    alone = make_policy(tmp_path / "mine", hidden=32)
    assert names(tmp_path, policy, str(run)) == {"step-000010": str(policy)}
    assert names(tmp_path, policy, str(policy)) == {"step-000010": str(policy)}
    assert names(tmp_path, policy, f"base={alone}", str(alone), f"last={run}") == {
        "base": str(alone),
        "mine": str(alone),
        "last": str(policy),
    }
    assert names(tmp_path, alone) == {"policy": str(alone)}


def test_equal_names_names_with_a_slash_and_folders_without_a_policy_are_refused(
    tiny_policy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: names must differ, got 'a' twice"):
        names(tmp_path, tiny_policy, f"a={tiny_policy}", f"a={tiny_policy}")
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: must be a directory .*a/b="):
        names(tmp_path, tiny_policy, f"a/b={tiny_policy}")
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: must be a directory .*nowhere"):
        names(tmp_path, tiny_policy, "a=nowhere")
    with pytest.raises(ValueError, match=r"^evaluate\.checkpoints: must hold config\.json"):
        names(tmp_path, tiny_policy, f"a={tmp_path}")
