"""`breadth show-config`: checks of data and policy, and with `--explain` the meaning of settings with their values."""

from pathlib import Path

import pytest

from configs.load import load, to_yaml
from orchestrator.commands.cli import main
from orchestrator.commands.pages.show_config import plan
from tests.orchestrator.planning.known_models import write_config


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show-config", *arguments]) == 0
    return capsys.readouterr().out


def test_one_setting_is_explained_with_its_value_in_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "method=dapo", "--explain", "objective.clip.high")
    assert text == (
        "objective.clip.high = 0.28  (float, default 0.2)\n"
        "    Upper clip range; above `low` it is DAPO's clip-higher. dppo: the ratio is at most 1 + high.\n"
    )


def test_a_setting_of_a_named_section_is_explained_for_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "method=gkd", "--explain", "objective.terms.NAME.route")
    assert "objective.terms.divergence.route = explore" in text
    assert "objective.terms.data.route = rehearse" in text
    one = shown(capsys, "method=gkd", "--explain", "objective.terms.data")
    assert "objective.terms.data.route = rehearse" in one and "objective.terms.divergence" not in one
    alone = shown(capsys, "method=grpo", "--explain", "objective.terms.NAME.route")
    assert alone.startswith("objective.terms.NAME.route  (explore | rehearse, default explore)")


def test_without_a_key_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--explain", "method=dph_f", "steps=7")
    assert "steps = 7  (int, default 100)" in text
    assert "method = dph_f" in text
    assert "policy.chat_template = false  (bool, default false)" in text
    assert text.count("\n    ") > 170


def test_an_unknown_key_ends_with_status_2_and_the_nearest_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "--explain", "learner.learning_rat"]) == 2
    assert "did you mean 'learner.learning_rate'?" in capsys.readouterr().err


def test_an_option_of_the_runs_task_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--explain", "task.options.numbers", "task.options.numbers=5")
    assert text.startswith("task.options.numbers = 5  (int, default ")
    assert "\n    Count of numbers in a problem.\n" in text
    assert shown(capsys, "--explain", "task.options.format", "task.name=dataset").startswith(
        "task.options.format = plain"
    )
    assert main(["show-config", "--explain", "task.options.nubmers"]) == 2
    assert "did you mean 'task.options.numbers'?" in capsys.readouterr().err


def test_the_settings_are_checked_against_data_and_policy_after_they_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1?"}\n')
    rows = ["task.name=dataset", f"task.options.path={tmp_path / 'rows.jsonl'}"]
    for words, reason in (
        (rows, "rows.jsonl, line 1: has no field 'answer'"),
        (["method=dph_f", "rehearsal.path=gone"], "rehearsal.path: must be a parquet file made by `breadth presample`"),
        (["policy.path=gone"], "policy.path: must be a directory of a Hugging Face policy"),
        (
            ["sampling.max_prompt_tokens=4"],
            "sampling.max_prompt_tokens: the first 64 prompts must not all be longer, got 4",
        ),
        (["task.heldout_prompts=100000"], "task.heldout_prompts: must be at most the "),
        (
            ["sampling.max_new_tokens=1024"],
            "policy.path: its model must hold max_prompt_tokens + max_new_tokens = 1056",
        ),
    ):
        assert main(["show-config", *words]) == 2
        out, err = capsys.readouterr()
        assert "\n# scales: " in out and reason in err
        assert main(["show-config", "--offline", *words]) == 0
        assert "# checked" not in capsys.readouterr().out


def test_a_run_for_a_cluster_can_be_planned_on_a_machine_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.preflight.machine.has_gpu", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    text = shown(capsys, "scale=8gpu", "sampling.max_new_tokens=16", "sampling.max_prompt_tokens=32")
    assert "# checked: this machine: placement.device: must be 'cpu' on a machine without a GPU" in text
    assert "# checked: task countdown and policy " in text


def test_an_objective_that_is_not_the_methods_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the name was edited in a file that sets everything, so that presets have no effect."""
    text = shown(capsys, "--offline", "method=dph_f", "objective.clip.high=0.3", "objective.terms.divergence=null")
    assert "# method: dph_f changed by objective.clip.high=0.3, objective.terms.divergence=unset\n" in text
    edited = tmp_path / "edited.yaml"
    edited.write_text(to_yaml(load(["method=grpo"])).replace("method: grpo", "method: dph_f"))
    text = shown(capsys, "--offline", "--config", str(edited))
    assert "# method: dph_f changed by " in text and "objective.terms.divergence=unset" in text
    assert "# method:" not in shown(capsys, "--offline", "method=dph_f")


def test_settings_without_effect_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--offline", "method=grpo", "objective.pass_k.k=8")
    assert "# objective.pass_k.k=8 has no effect: objective.advantage is group_zscore\n" in text
    assert "no effect" not in shown(capsys, "--offline", "method=passk_training", "objective.pass_k.k=8")


def test_the_plan_counts_what_is_presampled(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--offline", "method=dph_f", "rehearsal.prompts=100", "rehearsal.keep=one_fresh")
    line = "presampled before the first step: at most 100 prompts x 8 answers = 800 generated, and one more for each"
    assert f"# stored answers: {line} mastered prompt, which is stored if it is right\n" in text
    assert "exact" not in text.split("# term divergence: ")[1].splitlines()[0]
    text = shown(capsys, "--offline", "method=dph_f", "rehearsal.keep=all", "rehearsal.explore=fresh")
    assert "generated; all are stored\n" in text
    assert "exact gradient of the forward KL" in text.split("# term divergence: ")[1].splitlines()[0]
    assert "# stored answers: read from /a/file.parquet" in shown(
        capsys, "--offline", "method=dph_f", "rehearsal.path=/a/file.parquet"
    )
    assert "# stored answers" not in shown(capsys, "--offline", "method=grpo")


def test_imitated_answers_are_counted_one_a_prompt() -> None:
    lines = plan(load(["method=spin", "groups_per_step=8", "sampling.group_size=4"]))
    assert lines["trajectories per step"] == "8 prompts x 4 answers = 32 explored, and 8 imitated"


def test_the_memory_plan_needs_only_the_config_of_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"policy.path={write_config('7B', tmp_path / 'policy')}"
    text = shown(capsys, "scale=8gpu", "placement.gpu_gigabytes=80", path)
    assert "# checked: memory in GB (10^9 bytes): Qwen2ForCausalLM, 7.62e9 parameters; " in text
    for line in ("4 learner GPUs: ", "3 generator GPUs: ", "1 reference GPU: ", "key-values: 57 KB per token"):
        assert f"\n#   {line}" in text
    assert "must hold tokenizer_config.json, got" in text and "`breadth train` refuses it" in text
    assert "# checked: memory" not in shown(capsys, "--offline", "scale=8gpu", path)


def test_a_policy_that_does_not_fit_is_refused_with_the_arithmetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"policy.path={write_config('72B', tmp_path / 'policy')}"
    assert main(["show-config", "scale=8gpu", "placement.gpu_gigabytes=80", path]) == 2
    out, err = capsys.readouterr()
    assert "\n#   4 learner GPUs: 339.4 of 80.0 in " in out
    assert "placement: a learner GPU (4 of them) must hold " in err and "Adam's moments 145.4 + " in err
    assert "It fits with placement.learners=40" in err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learner.lora.r=513", "learner.lora.r: must be at most 512 unless learner.lora.publish=merged"),
        ("placement.tensor_parallel=3", "placement.tensor_parallel: must divide the attention heads (28)"),
    ],
)
def test_what_the_engine_cannot_do_with_the_policy_is_refused(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config("7B", tmp_path)
    assert main(["show-config", "scale=8gpu", f"policy.path={tmp_path}", word]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
