import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from configs.config import Config
from configs.load import load, presets
from configs.objective import ObjectiveConfig

ROOT = Path(__file__).resolve().parents[2]
METHODS = {
    "grpo": "2402.03300",
    "dr_grpo": "2503.20783",
    "dapo": "2503.14476",
    "rloo": "2402.14740",
    "grpo_adaptive_kl": "1909.08593",
    "dph_f": "2509.07430",
    "dph_js": "2509.07430",
    "dph_alpha": "2509.07430",
    "reinforce_pp": "2501.03262",
    "reinforce_pp_baseline": "2501.03262",
    "gspo": "2507.18071",
    "cispo": "2506.13585",
    "atr_grpo": "2602.05494",
    "rpg": "2505.17508",
    "grpo_d": "2503.16081",
    "gtpo": "2508.03772",
    "apo": "2506.21655",
    "safe": "2602.04651",
    "safe_critic": "2602.04651",
    "wsrl": "2412.07762",
    "chi_squared": "2403.03185",
    "f_dpg": "2302.08215",
    "superhf": "2310.16763",
    "tsallis": "2301.11476",
    "sampo": "2406.10957",
    "sparse_kl": "2410.05102",
    "kdrl": "2506.02208",
    "salsa": "2411.01798",
    "tr_dpo": "2404.09656",
    "nash_mp": "2505.19731",
    "alpha_spin": "2404.04291",
    "gkd": "2306.13649",
    "distillm": "2402.03898",
    "bd_kd": "2212.12965",
    "pld": "2506.12542",
    "tip": "2604.14084",
    "sod": "2605.07725",
    "rapo": "2510.03865",
    "prioritised_kl": "2502.06533",
    "dph_js_definition": "2509.07430",
    "recap": "2510.21978",
    "wpr": "2602.01685",
    "sinkd": "2402.17110",
}


def of(preset: str) -> ObjectiveConfig:
    return load([f"method={preset}"]).objective


def test_every_preset_is_of_a_paper() -> None:
    assert set(METHODS) == set(presets("method"))


@pytest.mark.parametrize("preset", METHODS)
def test_a_preset_opens_with_its_paper_and_equations(preset: str) -> None:
    text = (ROOT / "configs" / "methods" / f"{preset}.yaml").read_text()
    header = text.splitlines()
    comment = "\n".join(header[: next(i for i, line in enumerate(header) if not line.startswith("#"))])
    assert f"arXiv:{METHODS[preset]}" in comment
    assert "=" in comment


@pytest.mark.parametrize("preset", presets("method"))
def test_a_preset_holds_only_what_differs_from_the_defaults(preset: str) -> None:
    def same(node: dict[str, Any], default: Any, prefix: str = "") -> list[str]:
        found = []
        for key, value in node.items():
            there = getattr(default, key)
            if is_dataclass(there):
                found += same(value, there, f"{prefix}{key}.")
            elif value == there:
                found.append(prefix + key)
        return found

    written: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "methods" / f"{preset}.yaml")) or {}
    assert set(written) <= {f.name for f in fields(Config)}
    assert same(written, Config()) == []


@pytest.mark.parametrize("preset", presets("method"))
def test_every_preset_has_a_page_that_opens_with_paper_and_command_and_a_row_in_the_index(preset: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{preset}.md").read_text()
    opening = page[: page.index("\n## ")]
    assert f"https://arxiv.org/abs/{METHODS[preset]}" in opening
    assert f"breadth train method={preset} scale=cpu" in opening
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings[:2] == ["Equation", "Settings"] and headings[-1] == "Metrics"
    assert f"[`{preset}`]({preset}.md)" in (ROOT / "docs" / "methods" / "index.md").read_text()


def test_grpo_is_zscore_and_mean_of_sequence_means_without_a_divergence() -> None:
    cfg = of("grpo")
    assert (cfg.advantage, cfg.ratio, cfg.reduction) == ("group_zscore", "token", "sequence_mean_token_mean")
    assert (cfg.clip.low, cfg.clip.high, cfg.clip.dual, cfg.terms) == (0.2, 0.2, None, {})


def test_grpo_takes_deepseeks_k3_by_overrides() -> None:
    kl = "objective.terms.divergence"
    cfg = load(["method=grpo", f"{kl}.name=reverse_kl", f"{kl}.coefficient.value=0.04"]).objective.terms["divergence"]
    assert (cfg.route, cfg.wiring, cfg.estimator) == ("explore", "loss", "k3")


@pytest.mark.parametrize("length", [16, 3000])
def test_dr_grpo_divides_by_the_longest_answer_allowed(length: int) -> None:
    cfg = load(["method=dr_grpo", f"sampling.max_new_tokens={length}"])
    assert (cfg.objective.advantage, cfg.objective.reduction) == ("mean_only", "constant")
    assert cfg.objective.constant_length == length


def test_dapo_clips_higher_over_tokens_without_a_divergence() -> None:
    cfg = of("dapo")
    assert (cfg.advantage, cfg.reduction, cfg.terms) == ("group_zscore", "token_mean", {})
    assert (cfg.clip.low, cfg.clip.high) == (0.2, 0.28)


def test_rloo_is_plain_reinforce_over_sequences_with_k1_in_the_reward() -> None:
    cfg = of("rloo")
    assert (cfg.advantage, cfg.ratio, cfg.reduction) == ("leave_one_out", "none", "sequence_mean_token_sum")
    kl = cfg.terms["divergence"]
    assert (kl.name, kl.wiring, kl.estimator, kl.coefficient.value) == ("reverse_kl", "reward", "k1", 0.03)


def test_grpo_adaptive_kl_has_zieglers_numbers() -> None:
    kl = of("grpo_adaptive_kl").terms["divergence"]
    assert (kl.name, kl.wiring, kl.estimator) == ("reverse_kl", "reward", "k1")
    assert (kl.coefficient.kind, kl.coefficient.value) == ("adaptive", 0.15)
    assert (kl.coefficient.target, kl.coefficient.horizon) == (6.0, 10_000)


@pytest.mark.parametrize(
    ("preset", "name", "coefficient"),
    [("dph_f", "forward_kl", 1.0), ("dph_js", "jensen_shannon", 2.0), ("dph_alpha", "alpha", 1.0)],
)
def test_dph_is_dapo_with_dual_clip_and_a_divergence_on_rehearsed_answers(
    preset: str, name: str, coefficient: float
) -> None:
    cfg = of(preset)
    assert (cfg.advantage, cfg.reduction) == ("group_zscore", "token_mean")
    assert (cfg.clip.low, cfg.clip.high, cfg.clip.dual) == (0.2, 0.28, 3.0)
    kl = cfg.terms["divergence"]
    assert (kl.name, kl.route, kl.wiring, kl.estimator) == (name, "rehearse", "loss", "k3")
    assert kl.coefficient.value == coefficient
    assert kl.alpha == 0.2
