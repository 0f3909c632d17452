"""The whole loop in one process: it learns, equals a hand-written loop, stops, and resumes bit for bit."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.generation.transformers_engine import TransformersGenerator
from actors.local import LocalLearner
from actors.weights.host import pack as pack_weights
from actors.weights.host import weights_info
from configs.config import Config
from configs.load import load
from objectives.diagnostics import Stats
from orchestrator.commands.paths import absolute
from orchestrator.rollout.jobs import jobs_for
from orchestrator.start import run_training
from orchestrator.train import Run
from orchestrator.watch.logbook import read_records
from rewards.arithmetic.countdown import verify
from tasks.registry import build
from tests.actors.generation.collected import answers
from trajectories.batch import Batch
from trajectories.trajectory import Trajectory

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "placement.kind=in_process",
    "generator.engine=transformers",
    "generator.max_sequences=512",
    "task.heldout_prompts=4",
    "monitor.every=0",
    "monitor.answers=4",
    "monitor.ks=[1,4]",
    "logbook.console=false",
    "groups_per_step=4",
    "sampling.group_size=4",
)
WALL = ("time", "tokens_per_second")


def config(runs: Path, *overrides: str) -> Config:
    return absolute(load([*SMALL, f"runs={runs}", *overrides]))


def train(cfg: Config, resume: bool = False) -> list[dict[str, Any]]:
    run_dir = asyncio.run(run_training(cfg, resume=resume, log=lambda text: None))
    return read_records(run_dir / "metrics.jsonl")


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the run stop after this step, with a checkpoint."""
    advance = Run.advance

    async def stopping(run: Run, batch: Batch, stats: Stats) -> None:
        await advance(run, batch, stats)
        if run.step == step:
            run.stop(f"after step {step}")

    monkeypatch.setattr(Run, "advance", stopping)


def numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without metrics of time and of the graders, whose counts start anew on resume."""
    ours = ("seconds/", "grader/", "system/")
    return [{k: v for k, v in r.items() if k not in WALL and not k.startswith(ours)} for r in records]


def one_product(answer: str, problem: dict[str, Any]) -> float:
    """A user's reward function: 1 if the answer has exactly one multiplication."""
    return float(answer.count("*") == 1)


@pytest.mark.slow
def test_reward_rises_for_a_users_reward_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    size = ("steps=10", "groups_per_step=12", "sampling.group_size=8", "learner.learning_rate=1e-3")
    records = train(config(tmp_path, *size, "name=rise", "task.verifier=test_train:one_product"))
    rewards = [record["reward"] for record in records]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2
    assert [record["step"] for record in records] == list(range(1, 11))
    assert {record["staleness_max"] for record in records} == {0.0}


def answers_by_hand(generator: TransformersGenerator, cfg: Config, step: int) -> list[list[Trajectory]]:
    """The answers of one step directly from the engine, by group."""
    source, tokenizer = build(cfg.task, cfg.seed), AutoTokenizer.from_pretrained(cfg.policy.path)
    places = range(step * cfg.groups_per_step, (step + 1) * cfg.groups_per_step)
    prompts = [source.prompt(place) for place in places]
    jobs = jobs_for(
        prompts,
        [tokenizer(prompt.text)["input_ids"] for prompt in prompts],
        purpose="train",
        run_seed=cfg.seed,
        answers=cfg.sampling.group_size,
        temperature=cfg.sampling.temperature,
        max_new_tokens=cfg.sampling.max_new_tokens,
    )

    found = {(key, t.sample_index): t for key, t in answers(generator, jobs)}
    return [[found[job.key, i] for i in range(cfg.sampling.group_size)] for job in jobs]


def test_lag_zero_equals_a_hand_written_loop_number_for_number(tmp_path: Path) -> None:
    cfg = config(tmp_path, "steps=3", "name=hand", "learner.learning_rate=1e-3")
    records = train(cfg)
    model = AutoModelForCausalLM.from_pretrained(cfg.policy.path, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    generator = TransformersGenerator(cfg.policy.path, config=cfg.generator, dtype="float32", max_length=48)
    named = [(name, p.detach()) for name, p in model.named_parameters()]
    asyncio.run(generator.init_weights(weights_info(named)))
    source = build(cfg.task, cfg.seed)
    for step, record in enumerate(records):
        asyncio.run(generator.update_weights(pack_weights(named, step)))
        losses, rewards = [], []
        for place, group in enumerate(answers_by_hand(generator, cfg, step)):
            problem = source.prompt(step * cfg.groups_per_step + place).problem
            reward = torch.tensor([verify(t.text, problem).reward or 0.0 for t in group])
            rewards += reward.tolist()
            for t, advantage in zip(group, (reward - reward.mean()) / (reward.std() + 1e-6), strict=True):
                tokens = torch.from_numpy(t.tokens.astype(np.int64))
                logps = torch.log_softmax(model(tokens[None]).logits[0, :-1], -1).gather(-1, tokens[1:, None])[:, 0]
                trained = torch.from_numpy(t.mask[1:])
                ratio = torch.exp(logps[trained] - torch.from_numpy(t.logp_sampler[1:])[trained])
                surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                losses.append(-surrogate.mean())
        optimizer.zero_grad()
        loss = torch.stack(losses).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert record["reward"] == pytest.approx(np.mean(rewards), abs=1e-7)
        assert record["policy_loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
        assert record["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    asyncio.run(generator.close())
    trained_policy = tmp_path / "hand" / "checkpoints" / "step-000003" / "policy"
    theirs = dict(AutoModelForCausalLM.from_pretrained(trained_policy, dtype=torch.float32).named_parameters())
    for name, mine in model.named_parameters():
        torch.testing.assert_close(theirs[name], mine, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("lag", [1, 2])
def test_rollouts_run_ahead_by_the_lag_and_not_more(tmp_path: Path, lag: int) -> None:
    records = train(config(tmp_path, "steps=6", f"lag={lag}", "name=ahead"))
    assert [record["step"] for record in records] == list(range(1, 7))
    assert max(record["staleness_max"] for record in records) == lag


@pytest.mark.parametrize("method", ["grpo_adaptive_kl", "dph_js"])
def test_a_method_with_a_reference_trains_end_to_end(tmp_path: Path, method: str) -> None:
    small = ("rehearsal.prompts=16", "rehearsal.batch=8")
    records = train(config(tmp_path, f"method={method}", "steps=2", "name=m", "monitor.every=2", *small))
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all(np.isfinite(record["grad_norm"]) for record in records[1:])
    assert 0 <= records[2]["heldout/pass@4"] <= 1


def command(runs: Path, name: str, steps: int, *more: str) -> list[str]:
    settings = [*SMALL, f"runs={runs}", f"name={name}", f"steps={steps}", "checkpoint.every=2", *more]
    return [sys.executable, "-m", "orchestrator.commands.cli", "train", *settings]


def start(line: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_step(metrics: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (metrics.exists() and any(record["step"] >= step for record in read_records(metrics))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_and_resumed_has_the_metrics_of_one_that_was_not(tmp_path: Path) -> None:
    method = ("method=dph_js", "rehearsal.prompts=16", "rehearsal.batch=8", "monitor.every=3")
    whole = train(config(tmp_path / "whole", "name=r", "steps=8", "checkpoint.every=2", *method))
    killed_at = int(np.random.default_rng(time.time_ns()).integers(1, 7))
    process = start(command(tmp_path / "killed", "r", 8, *method))
    wait_for_step(tmp_path / "killed" / "r" / "metrics.jsonl", killed_at, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "orchestrator.commands.cli",
            "train",
            "--resume",
            f"runs={tmp_path / 'killed'}",
            "name=r",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = read_records(tmp_path / "killed" / "r" / "metrics.jsonl")
    assert [record["step"] for record in resumed] == list(range(9))
    assert numbers(resumed) == numbers(whole), f"killed at step {killed_at}"


@pytest.mark.slow
def test_an_interrupted_run_stops_between_two_steps_with_a_checkpoint(tmp_path: Path) -> None:
    process = start(command(tmp_path, "i", 500, "checkpoint.every=0"))
    wait_for_step(tmp_path / "i" / "metrics.jsonl", 1, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"To go on: breadth train --resume name=i runs={tmp_path}" in output
    [saved] = (tmp_path / "i" / "checkpoints").glob("step-*")
    last = read_records(tmp_path / "i" / "metrics.jsonl")[-1]["step"]
    assert saved.name == f"step-{last:06d}"
    assert json.loads((saved / "state.json").read_text())["position"] == last * 4


def test_a_stop_rule_ends_the_run_with_a_checkpoint_and_an_alert(tmp_path: Path) -> None:
    records = train(config(tmp_path, "steps=50", "name=s", "monitor.every=2", 'monitor.stop_if=["entropy < 100"]'))
    assert records[-1]["step"] == 0, "the base itself is below the rule"
    assert "entropy < 100" in (tmp_path / "s" / "events.jsonl").read_text()


@pytest.mark.slow
def test_a_run_stopped_between_the_steps_of_a_pair_goes_on_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("method=nash_mp", "name=r", "steps=4")
    whole, stopped = (config(tmp_path / folder, *settings) for folder in ("whole", "stopped"))
    expected = train(whole)
    with monkeypatch.context() as patch:
        stop_after(patch, step=1)
        assert [record["step"] for record in train(stopped)] == [1]
    assert numbers(train(stopped, resume=True)) == numbers(expected)


def test_a_resumed_run_says_where_it_goes_on_and_measures_changes_since_its_base(tmp_path: Path) -> None:
    small = ("name=goes", "monitor.every=1", "monitor.frontier=[]", "monitor.kl_to_base=false")
    [base, *_] = train(config(tmp_path, *small, "steps=1", "learner.learning_rate=1e-3"))
    lines: list[str] = []
    more = config(tmp_path, *small, "steps=2", "learner.learning_rate=1e-3")
    asyncio.run(run_training(more, resume=True, log=lines.append))
    assert f"resume: goes on after step 1 of 2, from {tmp_path / 'goes' / 'checkpoints' / 'step-000001'}" in lines
    last = read_records(tmp_path / "goes" / "metrics.jsonl")[-1]
    for k in (1, 4):
        change = last[f"heldout/pass@{k}"] - base[f"heldout/pass@{k}"]
        assert last[f"heldout/change/pass@{k}"] == pytest.approx(change, abs=1e-9)


def test_a_run_that_ends_early_prints_the_command_that_resumes_it(tmp_path: Path) -> None:
    lines: list[str] = []
    rule = ("monitor.every=2", 'monitor.stop_if=["entropy < 100"]', "monitor.frontier=[]")
    asyncio.run(run_training(config(tmp_path, "steps=50", "name=a b", *rule), resume=False, log=lines.append))
    assert lines[-1] == f"stopped at step 0 of 50. To go on: breadth train --resume 'name=a b' runs={tmp_path}"


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_the_one_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, calls = LocalLearner.saved, []

    async def full(learner: LocalLearner) -> None:
        calls.append(learner)
        if len(calls) == 2:
            raise OSError("no space left on device")
        await saved(learner)

    monkeypatch.setattr(LocalLearner, "saved", full)
    with pytest.raises(RuntimeError, match="step-000004 could not be written: no space left"):
        train(config(tmp_path, "steps=50", "name=full", "checkpoint.every=2"))
    assert len(read_records(tmp_path / "full" / "metrics.jsonl")) <= 6, "the run ended with the step in progress"
    whole = [path.name for path in (tmp_path / "full" / "checkpoints").iterdir() if path.name.startswith("step")]
    assert whole == ["step-000002"]


def test_a_corrupt_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path: Path) -> None:
    cfg = config(tmp_path, "steps=4", "name=c", "checkpoint.every=2")
    whole = train(cfg)
    weights = tmp_path / "c" / "checkpoints" / "step-000004" / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    said: list[str] = []
    asyncio.run(run_training(cfg, resume=True, log=said.append))
    assert any("step-000004" in text and "model.safetensors" in text for text in said)
    assert numbers(read_records(tmp_path / "c" / "metrics.jsonl")) == numbers(whole)


def test_a_resumed_run_keeps_its_objective_and_records_what_it_may_change(tmp_path: Path) -> None:
    train(config(tmp_path, "steps=1", "name=kept"))
    settings = (tmp_path / "kept" / "config.yaml").read_text()
    for change in ("objective.advantage=critic", "method=dph_f"):
        with pytest.raises(ValueError, match=r"^(objective|method).*: must stay (group_zscore|grpo) in a resumed run"):
            train(config(tmp_path, "steps=2", "name=kept", change), resume=True)
    assert (tmp_path / "kept" / "config.yaml").read_text() == settings
    train(config(tmp_path, "steps=2", "name=kept", "learner.token_budget=512"), resume=True)
    saved = (tmp_path / "kept" / "checkpoints" / "step-000002" / "config.yaml").read_text()
    assert "token_budget: 512" in saved and saved == (tmp_path / "kept" / "config.yaml").read_text()


def test_a_config_file_edited_between_two_parts_of_a_run_is_compared_with_the_checkpoint(tmp_path: Path) -> None:
    cfg = config(tmp_path, "steps=1", "name=edited")
    train(cfg)
    record = tmp_path / "edited" / "config.yaml"
    record.write_text(record.read_text().replace("learning_rate: 0.0003", "learning_rate: 1.0e-05"))
    edited = replace(load([], str(record)), steps=2)
    with pytest.raises(ValueError, match=r"^learner\.learning_rate: must stay 0\.0003 in a resumed run, got 1e-05"):
        train(edited, resume=True)


def test_resuming_a_run_whose_steps_are_done_says_so_and_changes_nothing(tmp_path: Path) -> None:
    cfg = config(tmp_path, "name=done", "steps=2")
    records = train(cfg)
    checkpoints = sorted((tmp_path / "done" / "checkpoints").iterdir())
    for steps in (2, 1):
        lines: list[str] = []
        asyncio.run(run_training(replace(cfg, steps=steps), resume=True, log=lines.append))
        assert lines == [
            f"steps: all {steps} are done, the last checkpoint is of step 2; nothing to train. "
            f"To go on: breadth train --resume name=done runs={tmp_path} steps=4"
        ]
    assert read_records(tmp_path / "done" / "metrics.jsonl") == records
    assert sorted((tmp_path / "done" / "checkpoints").iterdir()) == checkpoints


def test_a_run_directory_in_use_is_refused_unless_resumed(tmp_path: Path) -> None:
    cfg = config(tmp_path, "steps=1", "name=twice")
    train(cfg)
    with pytest.raises(ValueError, match="name: must be new"):
        train(cfg)
    with pytest.raises(ValueError, match="existing run to resume"):
        train(config(tmp_path, "steps=1", "name=never"), resume=True)


def test_stop_strings_end_the_answers_of_training_and_of_measurements(tmp_path: Path) -> None:
    settings = ["steps=1", "name=stop", "sampling.stop=['*','/','+','-']", "logbook.trajectories_every=1"]
    measured = ["monitor.every=1", "monitor.frontier=[]", "logbook.trajectories=100"]
    train(config(tmp_path, *settings, *measured))
    answers = [row["answer"] for row in read_records(tmp_path / "stop" / "trajectories.jsonl")]
    assert len(answers) == 16
    assert all(answer[-1:] in "*/+-" and not set("*/+-") & set(answer[:-1]) for answer in answers)
    record = read_records(tmp_path / "stop" / "metrics.jsonl")[-1]
    assert record["heldout/pass@4"] == 0.0, "half an expression is never right"


def test_prompts_above_the_limit_are_skipped_and_counted(tmp_path: Path) -> None:
    records = train(config(tmp_path, "steps=1", "name=long", "sampling.max_prompt_tokens=8"))
    assert records[-1]["skipped_prompts/too_long"] > 0


def test_a_limit_that_no_prompt_fits_is_refused_and_one_that_some_exceed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^sampling\.max_prompt_tokens: the first 64 prompts must not all be longer"):
        train(config(tmp_path, "steps=1", "name=none", "sampling.max_prompt_tokens=3"))
    lines: list[str] = []
    cfg = config(tmp_path, "steps=1", "name=some", "sampling.max_prompt_tokens=8")
    asyncio.run(run_training(cfg, resume=False, log=lines.append))
    assert re.fullmatch(
        r"prompts: \d+ of the first 64 have more than sampling.max_prompt_tokens=8 tokens \(at most 1\d\) .* skipped",
        lines[1],
    )
