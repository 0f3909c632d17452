"""A setting that was given and has no effect is reported, with the setting that leaves it out."""

import pytest

from configs.load import load, presets
from orchestrator.preflight.ineffective import report_ineffective

KL = ("objective.terms.kl={name: reverse_kl, estimator: k2, coefficient: {value: 0.1}}",)


def reported(*overrides: str) -> list[str]:
    lines: list[str] = []
    report_ineffective(load(overrides), lines.append)
    return lines


@pytest.mark.parametrize("method", presets("method"))
@pytest.mark.parametrize("scale", presets("scale"))
def test_nothing_is_reported_of_the_presets_alone(method: str, scale: str) -> None:
    assert reported(f"method={method}", f"scale={scale}") == []


@pytest.mark.parametrize(
    ("setting", "used", "why"),
    [
        ("objective.pass_k.k=8", ["objective.advantage=pass_k_gain"], "objective.advantage is group_zscore"),
        ("objective.pass_k.right_weight=0.3", ["objective.advantage=weighted_sign"], "objective.advantage is group_z"),
        (
            "objective.pass_k.rank_penalty=0.3",
            ["objective.advantage=unlikely_zscore"],
            "objective.advantage is group_z",
        ),
        ("objective.critic.heads=4", ["objective.advantage=critic"], "objective.advantage is group_zscore"),
        ("objective.flow.beta=2.0", ["method=flow_rl"], "objective.advantage is group_zscore"),
        ("objective.critic.max_grad_norm=2.0", ["method=flow_rl"], "objective.advantage is group_zscore"),
        ("objective.pairs.beta=0.2", ["method=dpo"], "objective.advantage is group_zscore"),
        ("objective.target.beta=2.0", ["objective.advantage=target"], "objective.advantage is group_zscore"),
        ("objective.overlong.fraction=0.5", ["objective.overlong.limit=9"], "objective.overlong.limit is 0"),
        ("objective.clip.delta=0.1", ["objective.clip.kind=kl3"], "objective.clip.kind is ratio"),
        ("objective.clip.delta=0.2", ["method=dppo"], "objective.clip.kind is ratio"),
        ("objective.clip.temperature_positive=2.0", ["method=sapo"], "objective.clip.kind is ratio"),
        ("objective.covariance.fraction=0.1", ["method=kl_cov"], "objective.covariance.kind is none"),
        ("objective.covariance.high=9.0", ["method=clip_cov"], "objective.covariance.kind is none"),
        ("objective.covariance.penalty=0.1", ["method=kl_cov"], "objective.covariance.kind is none"),
        (
            "objective.mismatch.high=3.0",
            ["objective.mismatch.kind=k3", "objective.old_policy=learner"],
            "objective.mismatch.kind is none",
        ),
        ("objective.constant_length=9", ["objective.reduction=constant"], "objective.reduction is sequence_mean_token"),
        (
            "sampling.mixture=0.5",
            ["sampling.mixed_with=reference"],
            "sampling.mixed_with is empty",
        ),
        ("rehearsal.prompts=9", ["method=dph_f"], "no term has route=rehearse"),
        ("replay.batch=9", ["objective.replay_weight=0.1"], "objective.replay_weight is 0"),
        ("logbook.wandb_project=mine", ["logbook.wandb=offline"], "logbook.wandb is disabled"),
        ("generator.memory_fraction=0.5", ["placement.device=gpu"], "it is for generator.engine=vllm on a GPU"),
        ("placement.mode=colocated", ["placement.device=gpu"], "placement.device is cpu"),
    ],
)
def test_a_setting_of_what_is_left_out_is_reported(setting: str, used: list[str], why: str) -> None:
    [line] = reported("method=grpo", setting)
    assert line.startswith(f"{setting} has no effect: {why}")
    assert reported(*used, setting) == []


@pytest.mark.parametrize(
    ("setting", "used", "why"),
    [
        (".coefficient.final=0.5", ".coefficient.kind=linear", ".coefficient.kind is constant"),
        (".coefficient.over=9", ".coefficient.kind=step", ".coefficient.kind is constant"),
        (".coefficient.target=3.0", ".coefficient.kind=adaptive", ".coefficient.kind is constant"),
        (".weights.keep=0.25", ".weights.importance=entropy", ".weights.importance is none"),
        (".weights.certainty=max_prob", ".weights.certainty_power=1", ".weights.certainty_power is 0"),
        (".reweight_floor=0.1", None, ".reweight is none"),
    ],
)
def test_a_setting_of_a_term_of_ones_own_is_reported(setting: str, used: str | None, why: str) -> None:
    path = "objective.terms.kl"
    [line] = reported("method=grpo", *KL, path + setting)
    assert line == f"{path}{setting} has no effect: {path}{why}"
    if used is not None:
        assert reported("method=grpo", *KL, path + setting, path + used) == []


@pytest.mark.parametrize(
    ("setting", "used", "why"),
    [
        ("right_weight=0.5", ["method=kto"], "objective.pairs.loss is sigmoid"),
        ("mask_l1=0.5", ["method=sparse_po"], "objective.pairs.mask is none"),
        ("mask_learning_rate=0.5", ["method=sparse_po"], "objective.pairs.mask is none"),
        ("term_on=both", ["method=tdpo"], "objective.pairs.term is empty"),
        (
            "mixture=0.25",
            ["method=tr_dpo", "objective.pairs.mixed_with=reference"],
            "objective.pairs.mixed_with is empty",
        ),
        ("alpha=0.25", ["method=f_dpo", "objective.pairs.divergence=alpha"], "reverse_kl has no parameter"),
    ],
)
def test_a_setting_of_pairs_without_what_it_belongs_to_is_reported(setting: str, used: list[str], why: str) -> None:
    assert reported("method=dpo", f"objective.pairs.{setting}") == [f"objective.pairs.{setting} has no effect: {why}"]
    assert reported(*used, f"objective.pairs.{setting}") == []


def test_a_penalty_on_rewards_that_are_not_trained_on_is_reported() -> None:
    assert reported("method=spin", "objective.overlong.limit=9") == [
        "objective.overlong.limit=9 has no effect: objective.pairs.winners is solution"
    ]
    assert reported("method=dpo", "objective.overlong.limit=9") == []


def test_settings_without_monitor_update_or_clip_are_reported() -> None:
    assert reported("method=grpo", "monitor.every=0", "monitor.answers=64") == [
        "monitor.answers=64 has no effect: monitor.every is 0"
    ]
    assert reported("method=grpo", "references.slow.every=5") == [
        "references.slow.every=5 has no effect: references.slow.update is fixed"
    ]
    assert reported("method=f_dpg", "objective.target.moment=0.7") == [
        "objective.target.moment=0.7 has no effect: objective.target.kind is tilt"
    ]
    assert reported("method=gdc", "objective.target.moment=0.7") == []
    assert reported("method=gdc", "objective.target.beta=2") == [
        "objective.target.beta=2.0 has no effect: objective.target.kind is moment"
    ]
    assert reported("method=moving_kl", "references.moving.iterates=4") == [
        "references.moving.iterates=4 has no effect: references.moving.update is periodic"
    ]
    assert reported("method=average_kl", "references.average.iterates=4", "references.average.every=2") == []
    assert reported("method=average_kl", "references.average.mixing_weight=0.5") == [
        "references.average.mixing_weight=0.5 has no effect: references.average.update is average"
    ]
    assert reported("method=reinforce_pp", "objective.ratio=none", "objective.clip.high=0.4") == [
        "objective.clip.high=0.4 has no effect: objective.ratio is none"
    ]
    kl = ("objective.terms.kl={name: reverse_kl, estimator: k2}", "objective.terms.kl.alpha=0.5")
    assert reported("method=grpo", *kl) == ["objective.terms.kl.alpha=0.5 has no effect: reverse_kl has no parameter"]


def test_switching_off_the_kl_of_an_evaluation_that_has_none_is_reported() -> None:
    setting = "evaluate.kl_to_base=false"
    [line] = reported("method=grpo", setting, "evaluate.temperatures=[0,1]")
    assert line == f"{setting} has no effect: the first sampling of breadth evaluate is greedy or truncated"
    assert reported("method=grpo", setting) == []


@pytest.mark.parametrize(
    "setting",
    [
        "objective.critic.heads=4",
        "objective.critic.coefficient=1.0",
        "objective.gates.conflict_tokens=true",
        "objective.gates.long_failures=2.0",
        "objective.covariance.kind=kl",
    ],
)
def test_what_does_not_reach_the_residual_of_flow_balance_is_reported(setting: str) -> None:
    [line] = reported("method=flow_rl", setting)
    assert line.startswith(f"{setting} has no effect: objective.advantage is flow")
