"""The `breadth` command: its error messages, and the output of the commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.config import Config
from configs.load import load, presets, to_yaml
from orchestrator.commands.cli import main
from orchestrator.commands.jobs.compare import clear
from orchestrator.commands.paths import absolute
from tests.orchestrator.in_process import SMALL

COMMANDS = (
    "train",
    "warm-start",
    "presample",
    "evaluate",
    "inspect-task",
    "show-config",
    "methods",
    "verify",
    "report",
    "compare",
)


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: breadth {command} ")


def test_help_lists_every_command_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    first_words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line}
    assert first_words >= set(COMMANDS)
    with pytest.raises(SystemExit) as left:
        main(["trian"])
    assert left.value.code == 2
    assert "trian" in capsys.readouterr().err


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one error line of a wrong command. What was done and found before it may come first."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    *before, line = err.splitlines()
    assert not any(other.startswith("breadth: ") for other in [*out.splitlines(), *before])
    assert line.startswith("breadth: ")
    return line.removeprefix("breadth: ")


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        ("train stepz=3", "stepz: unknown key (did you mean 'steps'?), got 3"),
        (
            "train learner.learning_rat=1",
            "learner.learning_rat: unknown key (did you mean 'learner.learning_rate'?), got 1",
        ),
        ("train learner.learning_rate=0", "learner.learning_rate: must be positive, got 0.0"),
        ("train steps", "override: must read key=value, got 'steps'"),
        ("train steps=[1", "override: must read key=value with a YAML value, got 'steps=[1'"),
        ("train --config gone.yaml", "config file: must exist, got 'gone.yaml'"),
        ("train method=dhp_f", "method: must be one of "),
        ("train scale=gpu", "scale: must be one of "),
        ("train --resume name=gone", "name: must be an existing run to resume, got '"),
        ("train reference_path=gone", "reference_path: must be a directory of a Hugging Face policy, got '"),
        (
            "train references.slow.path=gone",
            "references.slow.path: must be a directory of a Hugging Face policy, got '",
        ),
        ("train references.s.soup.gone=1", "references.s.soup: must be a directory of a Hugging Face policy, got '"),
        ("presample rehearsal.path=x reference_path=gone", "reference_path: must be a directory of a Hugging"),
        ("train policy.path=gone", "policy.path: must be a directory of a Hugging Face policy, got '"),
        ("train task.name=countdwon", "task.name: must be one of countdown, "),
        ("train task.options.nummbers=3", "task.options.nummbers: unknown option (did you mean 'numbers'?), got 3"),
        ("train task.options.numbers=1", "task.options.numbers: must be between 2 and 8, got 1"),
        ("train task.verifier=cuontdown", "task.verifier: must be one of "),
        ("train task.name=dataset task.options.path=gone.jsonl", "task.options.path: must be an existing file"),
        ("train method=dph_f rehearsal.path=gone.parquet", "rehearsal.path: must be a parquet file made by `breadth "),
        ("train lag=1 objective.old_policy=learner", "objective.old_policy: must be 'sampler' when lag is above"),
        (
            "evaluate evaluate.checkpoints=[a=gone]",
            "evaluate.checkpoints: must be a directory of a Hugging Face policy, got '",
        ),
        ("presample", "rehearsal.path: must be the path of the parquet file to write, got ''"),
        (
            "presample rehearsal.path=/proc/set.parquet",
            "rehearsal.path: must be a place that this user can write to (/proc",
        ),
        (
            "warm-start warm_start.output=/proc/new/policy",
            "warm_start.output: must be a place that this user can write",
        ),
        ("warm-start", "warm_start.output: must be the path of the directory to write, got ''"),
        ("warm-start warm_start.output=.", "warm_start.output: must be new, empty, or a policy to replace, got '"),
        ("compare method=grpo", "method: must be left out: the comparison trains grpo, "),
        ("report empty", "RUN: must be a run directory with a metrics.jsonl, got 'empty'"),
        ("report gone", "RUN: must be a run directory with a metrics.jsonl, got 'gone'"),
        ("report --evaluation empty", "--evaluation: must be an output directory of `breadth evaluate`, got 'empty'"),
    ],
)
def test_a_wrong_setting_gives_one_error_line_that_names_the_field(
    arguments: str, beginning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    command, *words = arguments.split()
    settings = [] if command in ("report", "compare") else [*SMALL, "steps=1", "monitor.every=0"]
    assert error_line(capsys, command, *words, *settings).startswith(beginning)
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize("command", ["train", "presample", "evaluate"])
def test_a_tokenizer_without_an_end_token_is_refused(
    command: str, tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    settings = json.loads((policy / "tokenizer_config.json").read_text())
    (policy / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    words = [f"policy.path={policy}", "rehearsal.path=set.parquet"]
    line = error_line(capsys, command, *SMALL, *words)
    assert line.startswith("policy.path: its tokenizer must have an EOS token, so that answers can end, got ")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "1+1?"}', "has no field 'answer'; its fields are 'prompt'"),
        ('{"prompt": "1+1?", "answer": ', "is not JSON"),
        ('{"prompt": "", "answer": 2}', "field 'prompt' must be a non-empty string"),
    ],
)
def test_the_error_for_a_malformed_dataset_row_has_file_line_and_reason(
    row: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2+2?", "answer": 4}\n' + row + "\n")
    line = error_line(capsys, "train", *SMALL, "task.name=dataset", "task.options.path=rows.jsonl")
    assert f"rows.jsonl, line 2: {reason}" in line


def test_a_run_whose_name_exists_is_neither_changed_nor_continued_without_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "taken"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("{}\n")
    line = error_line(capsys, "train", *SMALL, "name=taken")
    assert line.startswith("name: must be new (or pass --resume to continue), got 'taken'")
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]


def test_show_config_prints_settings_that_load_again_and_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["method=dph_f", "scale=cpu", "groups_per_step=8", "sampling.group_size=4", "lag=1", "steps=7"]
    assert main(["show-config", *settings, "rehearsal.batch=16", "rehearsal.prompts=1024"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (tmp_path / "again.yaml").write_text(out)
    assert load([], "again.yaml") == absolute(load([*settings, "rehearsal.batch=16", "rehearsal.prompts=1024"]))
    plan = dict(line[2:].split(": ", 1) for line in out.splitlines() if line.startswith("# ") and ": " in line)
    assert plan["term divergence"].startswith(
        "on rehearsed answers: mean over right answers of the reference alone, so not the gradient of the forward KL"
    )
    assert plan["coefficient of divergence"] == "1, constant"
    assert plan["defaults of this committed policy"] == (
        "learner.learning_rate=0.0003, objective.terms.divergence.coefficient.value=1.0"
    )
    assert plan["trajectories per step"] == "8 prompts x 4 answers = 32 explored, and 16 rehearsed"
    assert plan["stored answers"] == (
        "presampled before the first step: at most 1,024 prompts x 8 answers = 8,192 generated; the right ones of each "
        "mastered prompt are stored"
    )
    assert plan["checked"].startswith("task countdown and policy ")
    assert plan["staleness"] == "at most 1 steps; window of 2 x 8 = 16 prompts"
    assert plan["policy gradient"] == (
        "advantage group_zscore; policy / sampler, per token, clipped to [0.8, 1.28], dual clip at 3"
    )
    assert plan["optimizer updates"] == "7 steps x 1 = 7"
    assert plan["methods"] == ", ".join(presets("method"))
    assert any(name.startswith("placement") for name in plan)
    assert [path.name for path in tmp_path.iterdir()] == ["again.yaml"], "nothing was started"


@pytest.mark.parametrize("method", presets("method"))
def test_show_config_describes_the_terms_of_every_method(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", f"method={method}", "--offline"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("# "))
    terms = load([f"method={method}"]).objective.terms
    for name in terms:
        assert "gradient" in lines[f"# term {name}"]
        assert lines[f"# coefficient of {name}"]
    if not terms:
        assert lines["# terms"].startswith("no ")
    assert lines["# policy gradient"].startswith("advantage ")


def test_three_commands_train_evaluate_and_report_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["hidden_size=32", "layers=1", "heads=1", "intermediate_size=32", "batch=4", "steps=1", "output=made"]
    assert main(["warm-start", *SMALL, *(f"warm_start.{setting}" for setting in shape)]) == 0
    assert "wrote " in capsys.readouterr().err
    evaluation = ["policy.path=made", "evaluate.checkpoints=[random=made]", "name=out", "runs=."]
    assert main(["evaluate", *SMALL, *evaluation]) == 0
    out, err = capsys.readouterr()
    assert "random" in out and "Pass@1" in out and "Pass@4" in out
    assert "evaluate random at temperature 1, at most 6 tokens: 16 answers" in err
    assert main(["report", "--evaluation", "out", "--output", "page.html"]) == 0
    assert "pass@4" in (tmp_path / "page.html").read_text().lower()


def test_ctrl_c_prints_one_line_and_exits_with_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.commands.jobs.train.run", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "breadth: interrupted\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_was_ended_with_a_checkpoint_prints_the_command_that_resumes_it(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ended(cfg: Config, **options: Any) -> None:
        (Path(cfg.runs) / cfg.name / "checkpoints" / "step-000002").mkdir(parents=True)
        raise error

    monkeypatch.setattr("orchestrator.start.train_run", ended)
    line = f"To go on from the last checkpoint: breadth train --resume name=fails runs={tmp_path / 'runs'}"
    if error is KeyboardInterrupt:
        assert main(["train", *SMALL, "name=fails"]) == 130
        assert capsys.readouterr().err.splitlines()[-2:] == ["breadth: interrupted", line]
    else:
        with pytest.raises(error) as caught:
            main(["train", *SMALL, "name=fails"])
        assert caught.value.__notes__ == [line], "Python prints it below the traceback"


def test_settings_are_accepted_before_and_after_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name: must be an existing run" in error_line(capsys, "train", "steps=1", "--resume", "name=never")
    with pytest.raises(SystemExit):
        main(["train", "steps=1", "--resume", "--nonsense"])


def test_a_resumed_run_accepts_a_setting_that_is_valid_on_top_of_its_own_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    async def started_with(cfg: Config, **options: Any) -> None:
        started.append(cfg)

    monkeypatch.setattr("orchestrator.start.train_run", started_with)
    (tmp_path / "first").mkdir()
    alone = ["placement.kind=in_process", "generator.engine=transformers"]
    settings = ["method=dph_f", "name=first", f"runs={tmp_path}", "monitor.answers=64", *alone]
    (tmp_path / "first" / "config.yaml").write_text(to_yaml(absolute(load(settings))))
    assert main(["train", "--resume", "name=first", f"runs={tmp_path}", "monitor.ks=[1,64]"]) == 0
    [cfg] = started
    assert (cfg.method, cfg.monitor.ks) == ("dph_f", [1, 64])


@pytest.mark.parametrize("setting", ["name=..", "learner.learning_rate=.inf", "steps=???"])
def test_meaningless_values_are_refused(capsys: pytest.CaptureFixture[str], setting: str) -> None:
    assert error_line(capsys, "train", setting).startswith(setting.partition("=")[0] + ": ")


def test_clearing_an_earlier_comparison_removes_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "grpo").mkdir()
    for name in ("results.json", "report-training.png", "mine.txt"):
        (tmp_path / name).write_text("")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_show_config_says_that_the_steps_of_nash_mp_come_in_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "method=nash_mp", "steps=8", "--offline"]) == 0
    assert (
        "# optimizer updates: 8 steps in pairs = 4: one looks ahead; the next, from the weights before it, goes by the "
        "gradient at the look-ahead\n"
    ) in capsys.readouterr().out


def test_show_config_says_what_an_anchor_that_reads_feedback_has_read(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for reads in ("prompt", "feedback"):
        assert main(["show-config", "method=sdpo", f"references.teacher.reads={reads}", "--offline"]) == 0
        shown[reads] = "teacher has read another right answer of the group" in capsys.readouterr().out
    assert shown == {"prompt": False, "feedback": True}
