"""The same held-out answers scored by every policy of an evaluation: KL to the base, the map, and what is left out."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from configs.config import Config
from orchestrator import cluster
from orchestrator.evaluation import scoring
from orchestrator.evaluation.job import evaluate
from orchestrator.evaluation.likelihoods import FILE
from orchestrator.report.evaluation import Evaluation, read_evaluation
from orchestrator.report.terminal import print_evaluation
from orchestrator.report.write import write_report
from tests.conftest import make_policy
from tests.orchestrator.in_process import config

VERIFIER = f"task.verifier={Path(__file__).parents[1] / 'toy_verifiers.py'}:even"
TEMPERATURE = 0.8
COLD = (f"sampling.temperature={TEMPERATURE}", "evaluate.frontier=[]", VERIFIER)


def run(cfg: Config, folder: Path, **policies: Path) -> tuple[Evaluation, list[str]]:
    lines: list[str] = []
    found, *_ = asyncio.run(evaluate(cfg, {name: str(path) for name, path in policies.items()}, lines.append, folder))
    return found, [line for line in lines if line.startswith(("score", "no KL"))]


@pytest.fixture(scope="module")
def policies(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base, the base with a little noise, one of another width, and the base again."""
    folder = tmp_path_factory.mktemp("policies")
    near = make_policy(folder / "near")
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(near)
    return {"base": tiny_policy, "near": near, "wide": make_policy(folder / "wide", hidden=128), "same": tiny_policy}


@pytest.fixture(scope="module")
def output(policies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    _, lines = run(config(Path("nowhere"), folder, *COLD), folder / "out", **policies)
    # 4 policies, 4 prompts, 4 answers each.
    assert sorted(lines) == [f"score {name}: 64 answers of 4 policies" for name in sorted(policies)]
    return folder / "out"


def log_likelihood(model: Any, tokens: list[int], generated: list[bool]) -> float:
    """The sum of the log-probs of the generated tokens at TEMPERATURE, by one forward pass over this answer alone."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1] / TEMPERATURE
    logps = logits.log_softmax(-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    return float(logps[torch.tensor(generated[1:])].sum())


def test_the_kl_to_the_base_is_the_mean_log_ratio_of_the_policys_own_answers(
    output: Path, policies: dict[str, Path]
) -> None:
    results = json.loads((output / "results.json").read_text())
    rows = pq.read_table(output / "answers.parquet").to_pylist()
    models = {name: AutoModelForCausalLM.from_pretrained(path) for name, path in policies.items()}
    scores = pq.read_table(output / FILE).to_pylist()
    for name in policies:
        ratios = []
        for row, scored in zip(
            [row for row in rows if row["policy"] == name],
            [row for row in scores if row["policy"] == name],
            strict=True,
        ):
            assert (row["prompt_id"], row["sample_index"]) == (scored["prompt_id"], scored["sample_index"])
            exact = {each: log_likelihood(models[each], row["token_ids"], row["generated"]) for each in policies}
            assert [scored[f"log_likelihood/{each}"] for each in policies] == pytest.approx(
                list(exact.values()), abs=1e-3
            )
            assert row["log_prob"] == pytest.approx(exact[name], abs=1e-3), "the engine samples at this temperature"
            ratios.append(exact[name] - exact["base"])
        values = results["policies"][name][str(TEMPERATURE)]
        assert values["kl_to_base"] == pytest.approx(np.mean(ratios), abs=1e-3)
        low, high = values["intervals"]["kl_to_base"]
        assert low <= values["kl_to_base"] <= high


def test_a_policy_equal_to_the_base_has_kl_0_and_its_place_on_the_map(output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    same = results["policies"]["same"][str(TEMPERATURE)]
    assert same["kl_to_base"] == 0 and same["kl_efficiency"] is None
    assert results["map"]["names"] == ["base", "near", "wide", "same"]
    squares = np.array(results["map"]["squared_distances"])
    assert squares[0, 3] == pytest.approx(0, abs=1e-9)
    assert 0 < squares[0, 1] < squares[0, 2]
    kl = np.array(results["map"]["kl"])
    assert kl[:, 0] == pytest.approx(
        [results["policies"][n][str(TEMPERATURE)]["kl_to_base"] for n in results["policies"]]
    )
    far = results["policies"]["wide"][str(TEMPERATURE)]
    assert far["kl_to_base"] > 1 and 0 <= far["kl_efficiency"] < 0.5


def test_the_evaluation_its_table_and_the_report_show_reward_against_kl(output: Path, tmp_path: Path) -> None:
    read = read_evaluation(output)
    assert read.results() == json.loads((output / "results.json").read_text())
    console = Console(width=160, record=True, file=io.StringIO())
    print_evaluation(read, console)
    shown = console.export_text()
    values = read.summaries["wide"][TEMPERATURE]
    assert "Reward against KL" in shown and f"{values['kl_to_base'].value:.3f}" in shown
    assert f"{read.results()['reward_kl']['best_of'][2]['kl']:.3f}" in shown, "best of 4"
    page = write_report(tmp_path / "report.html", runs={}, evaluation=read, title="Scored").read_text()
    assert "Map of the policies" in page and f"<td>{values['kl_efficiency'].value:.3f}<small>" in page
    assert "Reward against KL" in page


def test_a_base_from_the_cache_and_any_number_of_tokens_at_a_time_give_the_same_scores(
    policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(Path("nowhere"), tmp_path, *COLD)
    pair = {name: policies[name] for name in ("base", "near")}
    first, _ = run(cfg, tmp_path / "first", **pair)
    monkeypatch.setattr(scoring, "CHUNK_TOKENS", 1)
    second, _ = run(cfg, tmp_path / "second", **pair)
    assert first.likelihoods is not None and second.likelihoods is not None
    assert second.likelihoods.values == pytest.approx(first.likelihoods.values, abs=1e-4)


def test_a_policy_that_reads_other_tokens_has_no_kl(policies: dict[str, Path], tmp_path: Path) -> None:
    other = make_policy(tmp_path / "stops", hidden=64, seed=3)
    path = other / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [1, 50]}))
    cfg = config(Path("nowhere"), tmp_path, *COLD)
    found, lines = run(cfg, tmp_path / "out", base=policies["base"], near=policies["near"], stops=other)
    assert lines[0] == "no KL between base and stops, which reads prompts or answers as other tokens"
    assert found.map is not None and found.map.names == ("base", "near")
    assert "kl_to_base" in found.summaries["near"][TEMPERATURE]
    assert "kl_to_base" not in found.summaries["stops"][TEMPERATURE]


def test_an_evaluation_is_written_although_its_answers_cannot_be_scored(
    policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = cluster.start

    async def without_reference(cfg: Config, names: list[str], **arguments: Any) -> cluster.Roles:
        if "reference" in names:
            raise RuntimeError("reference 0: out of memory")
        return await start(cfg, names, **arguments)

    monkeypatch.setattr(cluster, "start", without_reference)
    cfg = config(Path("nowhere"), tmp_path, *COLD)
    found, [line] = run(cfg, tmp_path / "out", base=policies["base"], near=policies["near"])
    assert line.startswith("no KL to base, as the answers could not be scored") and line.endswith("out of memory")
    assert found.likelihoods is None and "pass@1" in found.summaries["near"][TEMPERATURE]
    assert read_evaluation(tmp_path / "out").names == ["base", "near"]


@pytest.mark.parametrize(
    "settings",
    [
        ("evaluate.kl_to_base=false",),
        ("evaluate.temperatures=[0,1]",),
        ("evaluate.samplings.nucleus.top_p=0.9",),
    ],
)
def test_nothing_is_scored_where_it_is_switched_off_or_the_first_sampling_is_greedy_or_truncated(
    policies: dict[str, Path], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    cfg = config(Path("nowhere"), tmp_path, VERIFIER, "evaluate.frontier=[]", "task.heldout_prompts=2", *settings)
    found, lines = run(cfg, tmp_path / "out", base=policies["base"], near=policies["near"])
    assert (found.likelihoods, lines) == (None, [])
    assert found.results()["map"] is None and len(found.results()["reward_kl"]["best_of"]) == 3
    assert not (tmp_path / "out" / FILE).exists()
