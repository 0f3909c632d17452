"""Every name that a setting refers to is resolved before the start."""

import asyncio
from pathlib import Path

import pytest

from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.placement import needed_roles
from orchestrator.preflight.check import check_run
from orchestrator.watch.monitor import measured_names
from tasks.registry import build
from tests.orchestrator.test_train import config, train

SMALL = ("task.heldout_prompts=4", "monitor.answers=4", "monitor.ks=[4]")
MIXED = (
    "task.name=mixture",
    "task.options={domains: [{name: countdown}, {name: few_shot_sums}, {name: countdown, domain: other}]}",
    "sampling.max_prompt_tokens=512",
)


def check(*overrides: str) -> list[str]:
    lines: list[str] = []
    asyncio.run(check_run(absolute(load([*SMALL, *overrides])), lines.append))
    return lines


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["checkpoint.best_metric=heldout/pass@32"],
            r"^checkpoint\.best_metric: must name a measured value, one of pass@1, change/pass@1, pass@4, .*"
            r"\(did you mean '[a-z_/]*pass@4'\?\), got 'heldout/pass@32'",
        ),
        (
            ["checkpoint.best_metric=pass@32"],
            r"^checkpoint\.best_metric: must name .* mean 'pass@4'\?\), got 'pass@32'",
        ),
        (
            ["monitor.stop_if=['retenton < 0.8']"],
            r"^monitor\.stop_if: .*\(did you mean 'retention'\?\), got 'retenton'",
        ),
        (
            ["monitor.stop_if=['entropy < 0.1', 'pass@2 < 0.5']"],
            r"^monitor\.stop_if: .*\(did you mean 'pass@4'\?\), got 'pass@2'",
        ),
        (
            ["monitor.stop_if=['kl_to_base > 10']", "monitor.kl_to_base=false"],
            r"^monitor\.stop_if: must name a measured value, .*, got 'kl_to_base'",
        ),
        (
            ["monitor.stop_if=['beyond_sharpening/pass@4 < 0']", "monitor.frontier=[]"],
            r"^monitor\.stop_if: must name a measured value, .*, got 'beyond_sharpening/pass@4'",
        ),
        ([*MIXED, "monitor.stop_if=['pass@4/othr < 0']"], r"^monitor\.stop_if: .*\(did you mean 'pass@4/other'\?\)"),
        (
            ["monitor.every=0", "checkpoint.best_metric=pass@4"],
            r"^checkpoint\.best_metric: must be left out with monitor",
        ),
        (["monitor.every=0", "monitor.stop_if=['retention < 1']"], r"^monitor\.stop_if: must be left out with monitor"),
        (
            ["references.slow.update=periodic"],
            r"^references\.slow: must be the anchor of a term, .*; the anchors are none, got 'slow'",
        ),
        (["replay.task=countdown"], r"^replay\.task: must be left out while objective\.replay_weight is 0"),
        (["task.verifier=cuontdown"], r"^task\.verifier: must be one of .*, got 'cuontdown'"),
        (
            [
                "task.name=mixture",
                "task.options={domains: [{name: countdown}, {name: countdown, domain: b, verifier: cuontdown}]}",
            ],
            r"^task\.options\.domains\[1\]\.verifier: must be one of ",
        ),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(*overrides)


def test_names_that_exist_are_accepted() -> None:
    rules = "monitor.stop_if=['pass@4/other < 0', 'change/pass@1 < -0.5', 'retention < 0.5', 'kl_to_base > 99']"
    check(*MIXED, rules, "checkpoint.best_metric=beyond_sharpening/pass@4")
    check("monitor.every=0")
    check("method=moving_kl", "checkpoint.best_metric=''")
    check("method=tr_dpo", "checkpoint.best_metric=''")


@pytest.mark.parametrize("limit", ["nan", "inf", "-inf", "half"])
def test_a_stop_rule_that_can_never_fire_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=r"^monitor\.stop_if: must read"):
        load([f"monitor.stop_if=['pass@1 < {limit}']"])


@pytest.mark.parametrize("overrides", [(), ("monitor.frontier=[]", "monitor.kl_to_base=false"), MIXED])
def test_the_names_of_measured_values_are_those_that_a_run_records(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    cfg = config(tmp_path, "name=names", "steps=1", "monitor.every=5", "monitor.ks=[4]", *overrides)
    ids = [prompt.id for prompt in build(cfg.task, cfg.seed).heldout(cfg.task.heldout_prompts)]
    known = measured_names(cfg, ids, scored="reference" in needed_roles(cfg))
    recorded = {name.removeprefix("heldout/") for name in train(cfg)[0] if name.startswith("heldout/")}
    assert set(known) == {name for name in recorded if not name.endswith(("/low", "/high"))} - {"ungraded"}
    assert "pass@1" in known, "Pass@1 is measured without being listed in monitor.ks"
