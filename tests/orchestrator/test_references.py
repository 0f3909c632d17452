"""When references are updated, with which mixing weights, and in a resumed run."""

import asyncio
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.references import ReferenceConfig
from orchestrator.references import ReferenceSchedule
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config


def weights_after(reference: ReferenceConfig, *steps: int) -> dict[int, float]:
    """Return the mixing weight after each of these steps that updates the reference."""
    schedule = ReferenceSchedule({"slow": reference}, {})
    updates = {step: schedule.after(step, {}) for step in steps}
    return {step: update["slow"] for step, update in updates.items() if update}


def test_a_periodic_reference_has_its_mixing_weight_at_every_interval() -> None:
    periodic = ReferenceConfig(update="periodic", every=3, mixing_weight=0.4)
    assert weights_after(periodic, *range(1, 10)) == {3: 0.4, 6: 0.4, 9: 0.4}


def test_the_weight_of_an_average_falls_as_1_over_n_plus_1_until_the_number_of_iterates() -> None:
    average = ReferenceConfig(update="average", every=2, iterates=4)
    assert weights_after(average, *range(1, 13)) == {2: 1 / 2, 4: 1 / 3, 6: 1 / 4, 8: 1 / 4, 10: 1 / 4, 12: 1 / 4}


def test_an_average_of_one_iterate_copies_the_policy() -> None:
    assert weights_after(ReferenceConfig(update="average", iterates=1), 1, 2, 3) == {1: 1.0, 2: 1.0, 3: 1.0}


def test_iterates_enter_with_equal_weights_and_later_ones_exponentially() -> None:
    average = ReferenceConfig(update="average", iterates=4)
    shares = [Fraction(1)]  # Weight of each iterate in the reference, the start first.
    after = {}
    for step, weight in weights_after(average, *range(1, 6)).items():
        new = Fraction(weight).limit_denominator(100)
        shares = [share * (1 - new) for share in shares] + [new]
        after[step] = shares
    assert after[3] == [Fraction(1, 4)] * 4
    # 3/4 of the weights before, and 1/4 for the newest: 3/16 (4 times), 1/4; then 9/64 (4 times), 3/16, 1/4.
    assert after[4] == [Fraction(3, 16)] * 4 + [Fraction(1, 4)]
    assert after[5] == [Fraction(9, 64)] * 4 + [Fraction(3, 16), Fraction(1, 4)]


@pytest.mark.parametrize("resumed_at", [1, 2, 5, 8])
def test_a_resumed_schedule_goes_on_with_the_weights_of_one_that_was_not_ended(resumed_at: int) -> None:
    average = ReferenceConfig(update="average", every=2, iterates=4)
    first = ReferenceSchedule({"slow": average}, {})
    updates = [first.after(step, {"kl_slow": 0.1}) for step in range(1, resumed_at + 1)]
    second = ReferenceSchedule({"slow": average}, dict(first.drift))
    updates += [second.after(step, {"kl_slow": 0.1}) for step in range(resumed_at + 1, 13)]
    whole = ReferenceSchedule({"slow": average}, {})
    assert updates == [whole.after(step, {"kl_slow": 0.1}) for step in range(1, 13)]
    assert second.drift == whole.drift


def test_a_run_whose_learner_holds_the_reference_has_the_numbers_of_one_with_an_actor(
    tiny_policy: Path, tmp_path: Path
) -> None:
    small = ("method=grpo_adaptive_kl", "groups_per_step=3", "sampling.group_size=3", "steps=2", "monitor.every=2")

    def records(where: str) -> list[dict[str, Any]]:
        cfg = config(tiny_policy, tmp_path, *small, f"name={where}", f"placement.references_on={where}")
        run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
        return read_records(run_dir / "metrics.jsonl")

    own, learners = records("own"), records("learners")
    assert own[-1]["heldout/kl_to_base"] != 0 and own[-1]["kl_reference"] != 0
    for mine, theirs in zip(own, learners, strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("loss", "kl_reference", "heldout/kl_to_base", "terms/divergence/value"):
            if name in mine:  # the record of the start has measurements alone
                assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_a_resumed_run_averages_the_iterates_of_one_that_was_not_stopped(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    average = ("method=average_kl", "references.average.every=1", "references.average.iterates=4")
    small = ("groups_per_step=3", "sampling.group_size=3", "monitor.every=0", "task.verifier=toy_verifiers:even")

    def train(runs: Path, steps: int, resume: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
        """Return the KL to the average at each step, and the weights of the average after the last step."""
        cfg = config(tiny_policy, runs, *small, *average, "name=r", f"steps={steps}", "checkpoint.every=2")
        run_dir = asyncio.run(run_training(cfg, resume=resume, log=lambda text: None))
        saved = torch.load(run_dir / "checkpoints" / f"step-{steps:06d}" / "references" / "moved.pt")
        records = read_records(run_dir / "metrics.jsonl")
        return [record["kl_average"] for record in records if "kl_average" in record], saved["average"]

    kls, whole = train(tmp_path / "whole", 4)
    _, halfway = train(tmp_path / "parts", 2)
    resumed_kls, resumed = train(tmp_path / "parts", 4, resume=True)
    assert resumed_kls == kls and len(kls) == 4
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert any(not torch.equal(halfway[name], whole[name]) for name in whole), "the average moved after step 2"
