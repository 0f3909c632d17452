"""`breadth evaluate`: several policies, the same seeds, and results that other programs can read."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from configs.config import Config
from orchestrator.evaluation.folders import latest
from orchestrator.evaluation.job import evaluate
from orchestrator.evaluation.policies import named_policies
from orchestrator.report.compared import read_compared
from orchestrator.report.evaluation import Evaluation, read_evaluation
from orchestrator.report.terminal import print_evaluation
from orchestrator.report.write import write_report
from tests.conftest import make_policy
from tests.orchestrator.in_process import config

PROMPTS = ANSWERS = 4
NAMES = ["base", "other", "wide", "same"]
KEYS = {"pass@1", "pass@4", "maj@n", "retention", "expansion", "distinct_correct", "entropy"}
KEYS |= {"change/pass@1", "change/pass@4"}
TEMPERATURES, FRONTIER = ("1.0", "0.5"), ("1.0", "0.5", "0.0")


def measured(cfg: Config) -> list[str]:
    """Evaluate, and return the lines about measurements."""
    lines: list[str] = []
    [evaluation] = asyncio.run(evaluate(cfg, named_checkpoints(cfg), lines.append))
    assert evaluation.names == list(named_checkpoints(cfg))
    return [line for line in lines if line.startswith("evaluate ")]


def named_checkpoints(cfg: Config) -> dict[str, str]:
    return named_policies(cfg, None, lambda text: None)


def folder_of(cfg: Config) -> Path:
    folder = latest([Path(cfg.runs) / cfg.name])
    assert folder is not None
    return folder


def evaluation_of(cfg: Config) -> Evaluation:
    return read_evaluation(folder_of(cfg))


@pytest.fixture(scope="module", autouse=True)
def toy_verifiers_on_path() -> Iterator[None]:
    """Put toy_verifiers on the import path of the grader's workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield


@pytest.fixture(scope="module")
def output(tiny_policy: Path, other_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One evaluation of four policies of two architectures; `policy.path` is not used."""
    folder = tmp_path_factory.mktemp("evaluated")
    wide = make_policy(folder / "wide", hidden=128)
    paths = (tiny_policy, other_policy, wide, tiny_policy)
    checkpoints = ",".join(f"{name}={path}" for name, path in zip(NAMES, paths, strict=True))
    settings = ("task.verifier=toy_verifiers:even", f"evaluate.checkpoints=[{checkpoints}]")
    heat = ("evaluate.temperatures=[1.0,0.5]", "evaluate.frontier=[0.5,0]")
    lines = measured(config(Path("nowhere"), folder, *settings, *heat))
    counts = {"1.0": PROMPTS * ANSWERS, "0.5": PROMPTS * ANSWERS, "0.0": PROMPTS}
    expected = [(name, t) for name in NAMES[:3] for t in (FRONTIER if name == "base" else TEMPERATURES)]
    assert sorted(line for line in lines if "read from" not in line) == sorted(
        f"evaluate {name} at temperature {float(t):g}, at most 6 tokens: {counts[t]} answers" for name, t in expected
    )
    read = [line for line in lines if "read from" in line]
    assert len(read) == 2 and all(line.startswith("evaluate same at") for line in read), "its files are the base's"
    [output] = (folder / "run" / "evaluations").iterdir()
    return output


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


def of(rows: list[dict[str, Any]], policy: str, *columns: str, temperature: float = 1.0) -> list[tuple[Any, ...]]:
    chosen = (row for row in rows if (row["policy"], row["temperature"]) == (policy, temperature))
    return sorted(tuple(row[column] for column in columns) for row in chosen)


def test_results_hold_every_policy_in_order_with_values_and_intervals(results: dict[str, Any]) -> None:
    assert list(results["policies"]) == NAMES, "the base is first"
    for name, by_temperature in results["policies"].items():
        assert tuple(by_temperature) == (FRONTIER if name == "base" else TEMPERATURES)
        for t, values in by_temperature.items():
            keys = KEYS | ({"kl_to_base"} if t == "1.0" else set())
            keys |= {"kl_efficiency", "optimal_gain"} if t == "1.0" and name != "base" else set()
            assert set(values) == keys | {"intervals"} | (set() if name == "base" else {"sharpening"})
            assert set(values["intervals"]) == keys
            for key in ("pass@1", "pass@4"):
                low, high = values["intervals"][key]
                assert 0 <= low <= values[key] <= high <= 1
            assert values["pass@1"] <= values["pass@4"]
    assert results["policies"]["base"]["1.0"]["retention"] == 1.0
    assert (results["prompts"], results["about"]["answers"], results["base"]) == (PROMPTS, ANSWERS, "base")


def test_a_policy_equal_to_the_base_changes_nothing_and_is_on_its_frontier_at_every_temperature(
    results: dict[str, Any],
) -> None:
    for t in TEMPERATURES:
        same, base = (results["policies"][name][t] for name in ("same", "base"))
        assert same["pass@4"] == base["pass@4"]
        assert same["change/pass@4"] == base["change/pass@4"]
        assert same["sharpening"]["pass@4"]["word"] != "beyond", "the base is never beyond its own frontier"
    assert results["policies"]["same"]["1.0"]["intervals"]["change/pass@4"] == [0.0, 0.0]
    placed = results["policies"]["same"]["1.0"]["sharpening"]["pass@4"]
    assert placed["margin"][0] <= 0 and placed["unreached"] is False
    assert results["power"] == {}, "4 answers are too few for the power distribution"


def test_greedy_decoding_is_one_answer_that_counts_for_all(rows: list[dict[str, Any]], results: dict[str, Any]) -> None:
    greedy = results["policies"]["base"]["0.0"]
    assert greedy["pass@1"] == greedy["pass@4"] == greedy["distinct_correct"]
    assert greedy["maj@n"] is None, "the verifier notes no final answers"
    assert greedy["entropy"] == 0.0
    answers = of(rows, "base", "prompt_id", "sample_index", "log_prob", temperature=0.0)
    assert len(answers) == PROMPTS and all(answer[1:] == (0, 0.0) for answer in answers)


def test_answers_hold_every_answer_of_every_policy_with_its_verdict(
    rows: list[dict[str, Any]], results: dict[str, Any]
) -> None:
    assert len(rows) == len(NAMES) * len(TEMPERATURES) * PROMPTS * ANSWERS + PROMPTS
    for name in NAMES:
        assert len(set(of(rows, name, "prompt_id", "sample_index"))) == PROMPTS * ANSWERS
        rewards = [reward for (reward,) in of(rows, name, "reward")]
        assert sum(rewards) / len(rewards) == pytest.approx(results["policies"][name]["1.0"]["pass@1"])
    for row in rows:
        assert row["status"] == ("correct" if sum(map(ord, row["answer"])) % 2 == 0 else "wrong")
        assert row["finish_reason"] in ("stop", "length") and 1 <= row["tokens"] <= 6
        assert row["prompt"].endswith(":")
        assert row["prompt_id"].startswith("countdown/heldout/")
        assert row["log_prob"] <= 0


def test_all_policies_get_the_same_seeds_and_the_same_policy_gives_the_same_answers(rows: list[dict[str, Any]]) -> None:
    seeds = of(rows, "base", "prompt_id", "sample_index", "seed")
    assert len({seed for _, _, seed in seeds}) == PROMPTS * ANSWERS
    assert all(of(rows, name, "prompt_id", "sample_index", "seed") == seeds for name in NAMES)
    answers = {name: of(rows, name, "prompt_id", "sample_index", "answer") for name in NAMES}
    assert answers["same"] == answers["base"]
    assert answers["other"] != answers["base"]
    assert answers["wide"] != answers["base"]


def test_the_report_reads_the_evaluation_and_its_base(output: Path, results: dict[str, Any]) -> None:
    read = read_evaluation(output)
    assert (read.names, read.base, read.ks, read.figure_k) == (NAMES, "base", [1, 4], 4)
    assert read.results() == results
    for name, by_temperature in read.measurements.items():
        measurement = by_temperature[1.0]
        solved = [p.correct / p.total for p in measurement.prompts]
        assert sum(solved) / PROMPTS == pytest.approx(results["policies"][name]["1.0"]["pass@1"])
        assert (measurement.name, measurement.answers) == (name, ANSWERS)


def test_a_second_evaluation_of_the_same_base_is_read_from_the_cache_without_starting_a_role(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("task.verifier=toy_verifiers:even", "name=first", "task.heldout_prompts=2")
    cfg = config(tiny_policy, tmp_path, *settings)
    assert len(measured(cfg)) == 7
    assert [path.suffix for path in (tmp_path / "measurements").iterdir()] == [".parquet"] * 7

    async def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a role was started")

    monkeypatch.setattr("orchestrator.cluster.start", refuse)
    again = config(tiny_policy, tmp_path, *settings[:1], "name=again", *settings[2:])
    lines = measured(again)
    assert len(lines) == 7 and all("read from" in line for line in lines)
    first_results, again_results = (evaluation_of(each).results() for each in (cfg, again))
    assert first_results["about"].pop("date") <= again_results["about"].pop("date")
    assert first_results == again_results
    first, second = (pq.read_table(folder_of(each) / "answers.parquet") for each in (cfg, again))
    assert first.to_pylist() == second.to_pylist()


@pytest.mark.parametrize(
    "changed",
    [
        "seed=1",
        "evaluate.answers=8",
        "task.verifier=toy_verifiers:never",
        "sampling.max_new_tokens=5",
        "sampling.temperature=0.9",
        "grader.timeout_s=7",
        "cut",
    ],
)
def test_a_base_is_measured_anew_if_anything_that_decides_its_answers_or_grades_differs(
    tiny_policy: Path, tmp_path: Path, changed: str
) -> None:
    settings = ["task.verifier=toy_verifiers:even", "task.heldout_prompts=2", "evaluate.frontier=[]"]
    measured(config(tiny_policy, tmp_path, *settings))
    if changed == "cut":  # a cache file that was cut short is replaced
        [path] = (tmp_path / "measurements").iterdir()
        path.write_bytes(path.read_bytes()[:100])
    else:
        settings.append(changed)
    [line] = measured(config(tiny_policy, tmp_path, *settings, "name=again"))
    assert "read from" not in line
    [line] = measured(config(tiny_policy, tmp_path, *settings, "name=third"))
    assert "read from" in line


def test_one_job_measures_several_samplings_each_as_an_evaluation_with_the_base_under_it(
    tiny_policy: Path, other_policy: Path, tmp_path: Path
) -> None:
    settings = (
        "task.verifier=toy_verifiers:even",
        "evaluate.temperatures=[1.0,0]",
        "evaluate.frontier=[0.5]",
        "evaluate.samplings.nucleus={top_p: 0.8, temperature: 0.7}",
        "evaluate.samplings.one={top_k: 1, max_new_tokens: 9}",
        f"evaluate.checkpoints=[base={tiny_policy},other={other_policy}]",
    )
    cfg = config(tiny_policy, tmp_path, *settings)
    plain, nucleus, one = asyncio.run(evaluate(cfg, named_checkpoints(cfg), lambda text: None))
    assert [evaluation.results() for evaluation in read_compared([folder_of(cfg)])[0]] == [
        evaluation.results() for evaluation in (plain, nucleus, one)
    ]
    for found, temperatures in ((plain, [1.0, 0.0]), (nucleus, [0.7]), (one, [1.0])):
        assert found.temperatures == list(found.measurements["other"]) == temperatures
        assert list(found.measurements["base"]) == sorted({*temperatures, 0.5}, reverse=True)
        assert found.placements["other"][temperatures[0]][1].word in ("beyond", "on", "below")
    rows = {
        name: pq.read_table(folder / "answers.parquet").to_pylist()
        for name, folder in {"greedy": folder_of(cfg), "one": folder_of(cfg) / "samplings" / "one"}.items()
    }
    greedy = of(rows["greedy"], "other", "prompt_id", "answer", temperature=0.0)
    longer = sorted({row["prompt_id"]: row["answer"] for row in rows["one"] if row["policy"] == "other"}.items())
    assert len(greedy) == len(longer) == PROMPTS
    assert all(text.startswith(start) for (_, start), (_, text) in zip(greedy, longer, strict=True))
    assert greedy != longer, "answers of `one` may have 9 tokens"
    assert (nucleus.sampling.top_p, one.sampling.top_k, one.sampling.max_new_tokens) == (0.8, 1, 9)


def test_votes_and_a_report_on_the_task_are_in_the_results(tiny_policy: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "task.html").write_text("")
    cfg = config(tiny_policy, tmp_path, "task.verifier=toy_verifiers:even_letter", "evaluate.frontier=[]")
    measured(cfg)
    results = evaluation_of(cfg).results()
    assert results["about"]["task_report"] == str(tmp_path / "run" / "task.html")
    values = results["policies"]["policy"]["1.0"]
    assert 0 <= values["maj@4"] == values["maj@n"] <= 1 and "maj@1" not in values, "of 4 answers all 4 vote"
    console = Console(width=160, record=True, file=io.StringIO())
    print_evaluation(evaluation_of(cfg), console)
    assert "maj@4" in console.export_text()
    rows = pq.read_table(folder_of(cfg) / "answers.parquet").to_pylist()
    assert all(row["vote"] == row["answer"][:1].encode("utf-8", "replace").decode() for row in rows)


def test_one_greedy_answer_per_prompt_needs_no_other_setting(tiny_policy: Path, tmp_path: Path) -> None:
    settings = ("task.verifier=toy_verifiers:even", "evaluate.ks=[1,4,16]")
    cfg = config(tiny_policy, tmp_path, *settings, "evaluate.answers=1", "evaluate.temperatures=[0]")
    measured(cfg)
    found = evaluation_of(cfg)
    assert (found.ks, found.figure_k, found.at_base.answers) == ([1], 1, 1)
    page = write_report(tmp_path / "report.html", runs={}, evaluation=found, title="One answer")
    assert "Pass@1" in page.read_text()


def test_a_folder_whose_results_are_not_of_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--evaluation: must be an output directory"):
        read_evaluation(tmp_path)
    for text in ("", "[]", '{"policies": {"base": {"1.0": {}}}}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"^--evaluation: must hold the results\.json and measurements"):
            read_evaluation(tmp_path)


def test_without_checkpoints_policy_path_is_measured_and_an_undefined_value_is_null(
    tiny_policy: Path, tmp_path: Path
) -> None:
    settings = ("task.verifier=toy_verifiers:never", "name=own", "task.heldout_prompts=2")
    cfg = config(tiny_policy, tmp_path, *settings)
    measured(cfg)
    text = (folder_of(cfg) / "results.json").read_text()
    assert "NaN" not in text
    [(name, by_temperature)] = json.loads(text)["policies"].items()
    values = by_temperature["1.0"]
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
