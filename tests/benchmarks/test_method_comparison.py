"""The comparison of methods: the page agrees with its data, seeds are pooled, and every plan can be loaded."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "study"))

from method_comparison import METHODS, SEEDS, TASKS, settings_of
from method_comparison_page import (
    DATA,
    PAGE,
    base_table,
    families,
    figure,
    figure_path,
    findings,
    page,
    results,
    table,
)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DATA.read_text())
    return found


def made_up() -> dict[str, Any]:
    """Eight prompts of eight answers; the base loses both Pass@1 and Pass@4 when it is sampled colder."""

    def run(method: str, seed: int, correct: list[int]) -> dict[str, Any]:
        return {
            "method": method,
            "seed": seed,
            "correct": correct,
            "distinct": 2.0,
            "entropy": 0.5,
        }

    return {
        "settings": ["steps=4"],
        "answers": 8,
        "ks": [1, 4],
        "steps": 4,
        "prompts_per_step": 2,
        "answers_per_prompt": 3,
        "base": {"1.3": [2, 1, 1, 2, 1, 1, 2, 1], "1.0": [2, 2, 1, 2, 2, 1, 2, 2], "0.0": [0] * 8},
        "base_distinct": 1.5,
        "runs": [
            run("pkpo", 0, [6, 7, 5, 6, 6, 5, 6, 6]),
            run("pkpo", 1, [4, 5, 5, 6, 4, 5, 6, 4]),
            run("grpo", 0, [1, 0, 0, 1, 0, 0, 0, 1]),
            run("dpo", 0, [2, 2, 1, 2, 2, 1, 2, 2]),
        ],
    }


def test_pooled_pass_at_k_is_the_mean_over_seeds_and_its_change_is_paired_over_prompts() -> None:
    found = results(made_up())
    assert list(found) == ["pkpo", "grpo", "dpo"]
    assert found["pkpo"].seeds == pytest.approx([47 / 64, 39 / 64])
    assert found["pkpo"].passes[1].mean() == pytest.approx(43 / 64)
    assert found["pkpo"].changes[1].value == pytest.approx((43 - 14) / 64)
    assert {k: p.word for k, p in found["pkpo"].places.items()} == {1: "beyond", 4: "beyond"}
    same = found["dpo"].changes[4]
    assert (same.value, same.low, same.high) == (0, 0, 0), "the change is since the base at temperature 1"
    assert {k: p.word for k, p in found["grpo"].places.items()} == {1: "below", 4: "below"}


def test_the_findings_follow_from_the_intervals(tmp_path: Path) -> None:
    task = made_up()
    found = results(task)
    assert findings(found, task["ks"]).splitlines() == [
        "- Beyond the base at other temperatures at every k: `pkpo`.",
        "- At no k: `grpo`, `dpo`.",
        "- Pass@4 rose in `pkpo`; it fell in `grpo`.",
    ]
    base = base_table(task).splitlines()
    assert base[3].startswith("| base, T = 1.0 | 0.219 |") and base[4].startswith("| base, T = 0.0 | 0.000 |")
    row = table(found, task["ks"]).splitlines()[2]
    assert row.startswith("| `pkpo` | 0.672 (+0.") and row.endswith("| 2.00 | 0.73, 0.61 |")
    figure(task, found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "8 held-out prompts, 8 answers each; 4 steps of 2 prompts with 3 answers; seeds 0, 1. Settings" in page(
        {"toy": made_up()}
    )


def test_every_family_has_the_control_beside_its_own_methods() -> None:
    found = families(made_up())
    assert {family: list(of) for family, of in found.items()} == {
        "stored answers and Pass@k": ["grpo", "pkpo"],
        "preferences between answers": ["grpo", "dpo"],
    }
    assert figure_path("toy", "stored answers and Pass@k").name == "method-comparison-toy-stored-answers-and-pass-k.png"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_plan_is_a_legal_run(task: str, method: str, tmp_path: Path) -> None:
    cfg = settings_of(task, method, 1, tmp_path)
    assert (cfg.seed, cfg.evaluate.answers) == (1, 128)


def test_the_page_and_its_figures_are_made_from_the_data(data: dict[str, Any]) -> None:
    assert PAGE.read_text() == page(data)
    for name, task in data.items():
        for family in families(task):
            assert figure_path(name, family).is_file()


def test_the_data_hold_every_method_with_every_seed_on_the_readmes_task(data: dict[str, Any]) -> None:
    found = {(record["method"], record["seed"]) for record in data["countdown"]["runs"]}
    assert found == {(method, seed) for method in METHODS for seed in SEEDS}
    for task in data.values():
        prompts = len(task["base"]["1.0"])
        for correct in [*task["base"].values(), *(record["correct"] for record in task["runs"])]:
            assert len(correct) == prompts and all(0 <= c <= task["answers"] for c in correct)
