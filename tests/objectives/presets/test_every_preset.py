"""Properties of every preset: its file and page, invariance to order and split, routes, missing rewards, state."""

import json
import re
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from configs.config import Config
from configs.load import presets
from objectives.coefficient.controllers import ObjectiveState, advance, initial_state
from objectives.diagnostics import means
from objectives.objective import loss
from objectives.wording import describe, describe_policy_gradient
from tests.objectives.ragged_batch import weighted
from tests.objectives.random_answers import batch_for, credited, of, run, scores_of, weights
from trajectories.batch import Batch
from trajectories.split import partition

ROOT = Path(__file__).resolve().parents[3]
PRESETS = presets("method")
FAMILIES = {
    path.stem: import_module(f"tests.objectives.presets.{path.stem}").PAPERS
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if path != Path(__file__)
}
"""The presets of each file of this folder, with the arXiv id of their paper."""
PAPERS = {preset: paper for papers in FAMILIES.values() for preset, paper in papers.items()}


def test_every_preset_is_named_in_exactly_one_family_with_its_paper() -> None:
    assert sorted(preset for papers in FAMILIES.values() for preset in papers) == PRESETS


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_tests_each_of_its_presets(family: str) -> None:
    text = (Path(__file__).parent / f"{family}.py").read_text()
    times = {preset: len(re.findall(f'["=]{preset}"', text)) for preset in FAMILIES[family]}
    assert [preset for preset, count in times.items() if count < 2] == [], "named in PAPERS only"


@pytest.mark.parametrize("preset", PAPERS)
def test_a_preset_file_opens_with_its_paper_and_equations(preset: str) -> None:
    text = (ROOT / "configs" / "methods" / f"{preset}.yaml").read_text()
    header = text.splitlines()
    comment = "\n".join(header[: next(i for i, line in enumerate(header) if not line.startswith("#"))])
    assert f"arXiv:{PAPERS[preset]}" in comment
    assert "=" in comment


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_file_holds_only_what_differs_from_the_defaults(preset: str) -> None:
    def same(node: dict[str, Any], default: Any, prefix: str = "") -> list[str]:
        """Return the keys whose value equals the default."""
        found = []
        for key, value in node.items():
            known = getattr(default, key)
            if is_dataclass(known):
                found += same(value, known, f"{prefix}{key}.")
            elif value == known:
                found.append(prefix + key)
        return found

    written: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "methods" / f"{preset}.yaml")) or {}
    assert set(written) <= {f.name for f in fields(Config)}
    # Scales of several GPUs have another lag, so a method that needs answers of the policy itself has to name its own.
    assert set(same(written, Config())) <= {"lag"}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_page_that_opens_with_paper_and_command_and_a_row_in_the_index(preset: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{preset}.md").read_text()
    opening = page[: page.index("\n## ")]
    assert f"https://arxiv.org/abs/{PAPERS[preset]}" in opening
    assert f"breadth train method={preset} scale=cpu" in opening
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings[:2] == ["Equation", "Settings"] and headings[-1] == "Metrics"
    assert f"[`{preset}`]({preset}.md)" in (ROOT / "docs" / "methods" / "index.md").read_text()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_split_into_microbatches_and_ranks_changes_loss_gradient_or_metrics(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    whole = run(weights(), [batch], cfg)
    for ranks, budget in ((1, 8), (1, 30), (2, 16), (3, 1000), (5, 25)):
        parts = [part for rank in partition(batch, ranks, budget) for part in rank]
        split = run(weights(), parts, cfg)
        assert len(parts) > 1
        assert split[0] == pytest.approx(whole[0], rel=1e-6, abs=1e-6)
        torch.testing.assert_close(split[1], whole[1], rtol=1e-5, atol=1e-6)
        assert means(split[2]) == pytest.approx(means(whole[2]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_order_of_trajectories_does_not_matter(preset: str) -> None:
    cfg = of(preset)
    batch = batch_for(cfg)
    order = torch.randperm(len(batch.route), generator=torch.Generator().manual_seed(3)).tolist()
    plain = run(weights(), [credited(batch, cfg)], cfg)
    shuffled = run(weights(), [credited(batch.select(order), cfg)], cfg)
    assert shuffled[0] == pytest.approx(plain[0], rel=1e-6, abs=1e-6)
    torch.testing.assert_close(shuffled[1], plain[1], rtol=1e-5, atol=1e-6)
    assert means(shuffled[2]) == pytest.approx(means(plain[2]), rel=1e-4, abs=1e-5)
    assert plain[1].abs().max() > 1e-3, "a gradient of zeros would prove nothing"


@pytest.mark.parametrize("preset", PRESETS)
def test_each_token_gets_the_terms_of_its_route_and_no_other(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    scores = scores_of(weights().detach(), batch, cfg)

    def gradient(changed: Batch, coefficient: float) -> Tensor:
        """Return the gradients by the log-probs and by the exact terms of the tokens, stacked."""
        leaf = scores.logp.clone().requires_grad_()
        exact = {name: values.clone().requires_grad_() for name, values in scores.exact.items()}
        read = replace(scores, logp=leaf, exact=exact)
        value, _ = loss(read, changed, cfg, dict.fromkeys(weighted(cfg), coefficient))
        found = torch.autograd.grad(value, [leaf, *exact.values()], allow_unused=True)
        return torch.stack([torch.zeros_like(leaf) if g is None else g for g in found])

    assert batch.advantage is not None
    rehearsed, explored = batch.on_route("rehearse"), batch.on_route("explore")
    # No policy gradient on rehearsed tokens, whatever their advantage; no rehearse term on explored ones.
    with_advantage = replace(batch, advantage=torch.where(rehearsed, 100.0, batch.advantage))
    assert torch.equal(gradient(with_advantage, 0.7), gradient(batch, 0.7))
    on_explored = [term for term in cfg.terms.values() if not term.rehearses and term.wiring != "reward"]
    same = torch.equal(gradient(batch, 0.7)[:, explored], gradient(batch, 9.0)[:, explored])
    assert same == (not on_explored)
    if cfg.rehearses:
        torch.testing.assert_close(gradient(batch, 9.0)[:, rehearsed], gradient(batch, 1.0)[:, rehearsed] * 9)
        assert gradient(batch, 1.0)[:, rehearsed].abs().sum(0).min() > 0
    else:
        assert gradient(batch, 9.0)[:, rehearsed].abs().max() == 0
    assert gradient(batch, 0.7)[:, ~batch.mask].abs().max() == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_an_answer_without_a_reward_changes_nothing(preset: str) -> None:
    cfg = of(preset)
    batch = batch_for(cfg)
    failed = [i for i in range(16) if batch.reward[i].isnan()]
    assert len(failed) == 1
    kept = [i for i in range(len(batch.route)) if i not in failed]
    whole = credited(batch, cfg)
    assert whole.advantage is not None
    assert whole.advantage[whole.seq == failed[0]].abs().max() == 0
    with_failure = run(weights(), [whole], cfg)
    without = run(weights(), [credited(batch.select(kept), cfg)], cfg)
    assert with_failure[0] == pytest.approx(without[0], abs=1e-6)
    torch.testing.assert_close(with_failure[1], without[1])
    assert means(with_failure[2]) == pytest.approx(means(without[2]))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_microbatch_without_trained_tokens_has_loss_0_and_a_gradient_of_zeros(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    idle = replace(batch, mask=torch.zeros_like(batch.mask))
    value, gradient, stats = run(weights(), [idle], cfg)
    assert value == 0
    assert gradient.abs().max() == 0
    assert stats.keys() == run(weights(), [batch], cfg)[2].keys()
    assert means(stats) == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_reported_policy_loss_is_the_loss_without_divergence_and_entropy_bonus(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    measured = means(run(weights(), [batch], cfg)[2])
    # Terms in these wirings are part of the advantage and stay.
    kept = {name: term for name, term in cfg.terms.items() if term.wiring in ("joint", "reward")}
    if cfg.advantage == "none" and not kept:  # An objective without advantage and terms is refused.
        assert measured["policy_loss"] == 0
        return
    alone = replace(cfg, terms=kept, entropy_bonus=0.0, pairs=replace(cfg.pairs, term=""))
    value, _, _ = run(weights(), [batch], alone)
    value -= cfg.critic.coefficient * measured.get("value_loss", 0.0) + measured.get("flow_loss", 0.0)
    assert measured["policy_loss"] == pytest.approx(value, rel=2e-6, abs=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_state_of_every_preset_survives_json(preset: str) -> None:
    cfg = of(preset)
    stats = {"kl_reference": 1.5, "kl_reference_per_trajectory": 12.0, "reward": 0.4, "entropy": 1.0}
    state = initial_state(cfg, 10)
    for step in range(1, 4):
        state = advance(state, cfg, stats, trajectories=8, step=step, steps=10)
    restored = ObjectiveState.restored(json.loads(json.dumps(asdict(state))))
    assert restored == state
    one_more = [advance(s, cfg, stats, trajectories=8, step=4, steps=10) for s in (state, restored)]
    assert one_more[0] == one_more[1]
    assert set(state.coefficients) == set(weighted(cfg))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_policy_gradient_and_the_terms_of_every_preset_are_described(preset: str) -> None:
    cfg = of(preset)
    assert describe_policy_gradient(cfg).startswith(f"advantage {cfg.advantage}")
    for term in cfg.terms.values():
        assert "gradient" in describe(term)
