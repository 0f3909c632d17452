"""`breadth plan`: its output can be pasted, and wrong words are refused."""

import json
from pathlib import Path

import pytest

from configs.load import load, to_yaml
from orchestrator.commands.cli import main
from orchestrator.commands.pages.plan import answer_lengths
from orchestrator.planning.request import Request
from tests.orchestrator.planning.known_models import write_config

SMALL = ("groups_per_step=4", "sampling.group_size=4", "monitor.every=0")


def test_the_settings_that_are_printed_load_and_need_only_the_config_of_the_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config("1.5B", tmp_path)
    words = [f"policy.path={tmp_path}", *SMALL, "method=dph_f"]
    assert main(["plan", "gpus=1", "gpu=h200", "answer_tokens=400", *words]) == 0
    text = capsys.readouterr().out
    assert text.startswith("1.5B parameters on 1 h200; 4 prompts x 4 answers a step; answers of 400 tokens")
    [pasted] = [line for line in text.splitlines() if line.startswith("  scale=")]
    cfg = load(pasted.split())
    assert (cfg.method, cfg.placement.mode, cfg.groups_per_step) == ("dph_f", "colocated", 4)
    assert "bottleneck: " in text and "not measured" in text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gpus=12", "gpus: must be 1, 2, 4, or a multiple of 8"),
        ("answer_tokens=9000", "answer_tokens: must be at least 1 and below sampling.max_new_tokens"),
        ("prompt_tokens=1025", "prompt_tokens: must be at most sampling.max_prompt_tokens (1024), got 1025"),
        ("scale=cpu", "scale: must be a scale for GPUs, got 'cpu'"),
        ("lengths=/nowhere", "lengths: must be a run's directory with trajectories.jsonl"),
        ("policy.pth=/nowhere", "policy.pth: unknown key"),
    ],
)
def test_a_wrong_word_ends_with_status_2_and_the_rule(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config("1.5B", tmp_path)
    assert main(["plan", f"policy.path={tmp_path}", word]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_policy_that_is_too_large_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config("72B", tmp_path)
    assert main(["plan", f"policy.path={tmp_path}", "gpus=1", *SMALL]) == 2
    assert "gpus: must hold the policy, got 1 h100 of 80 GB" in capsys.readouterr().err


def test_lengths_of_a_run_are_those_of_its_answers_in_the_tokens_of_its_policy(tmp_path: Path) -> None:
    recorded = load(["scale=cpu"])  # its policy reads bytes
    (tmp_path / "config.yaml").write_text(to_yaml(recorded))
    rows = [{"route": "explore", "answer": text} for text in ("3+4", "3+4*5", "7")]
    (tmp_path / "trajectories.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lengths = answer_lengths(Request(lengths=str(tmp_path)), recorded)
    assert lengths.values.tolist() == [2, 4, 6]  # with the token that ends an answer
