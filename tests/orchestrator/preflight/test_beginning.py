"""What a machine lacks, and a name that is taken, is said first; a refused run leaves no directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.config import Config
from configs.load import load, presets, to_yaml
from orchestrator.commands.cli import main
from orchestrator.preflight import machine
from orchestrator.preflight.beginning import PRESAMPLED, check_beginning, new_folder
from orchestrator.preflight.machine import check_devices, check_writable
from tests.orchestrator.in_process import SMALL
from tests.orchestrator.test_checkpoint import save

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "has_gpu", lambda: False)


def settings(tmp_path: Path, *overrides: str) -> Config:
    return load([*SMALL, f"runs={tmp_path}", "name=run", *overrides])


@pytest.mark.parametrize("scale", [name for name in presets("scale") if name != "cpu"])
def test_a_gpu_scale_without_a_gpu_is_refused_unless_a_cluster_is_named(
    scale: str, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load([f"scale={scale}"])
    with pytest.raises(ValueError, match=rf"^placement\.device: must be 'cpu' on a machine .*scale={scale}.*got 'gpu'"):
        check_devices(cfg)
    check_devices(load(["scale=cpu", "generator.engine=transformers"]))
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    own = ("generator.engine=transformers", "generator.transfer=host", "placement.tensor_parallel=1")
    check_devices(load([f"scale={scale}", *own]))
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_devices(cfg)


def test_a_missing_gpu_is_reported_before_torch_or_ray_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.preflight import machine; machine.has_gpu = lambda: False;"
        "from orchestrator.commands.cli import main; status = main(sys.argv[1:]);"
        "print(status, [m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, "train", "scale=8gpu", f"runs={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "2 []\n", done.stderr
    assert done.stderr.startswith("breadth: placement.device: must be 'cpu' on a machine without a GPU")
    assert not list(tmp_path.iterdir())


def test_vllm_that_is_not_installed_is_reported(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^generator\.engine: must be 'transformers' where vLLM is not installed"):
        check_devices(load(["scale=cpu", "generator.engine=vllm"]))


def test_runs_that_cannot_be_written_are_one_line_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for runs, reason in ((tmp_path / "file", "Not a directory"), (Path("/proc/none"), "")):
        assert main(["train", *SMALL, f"runs={runs}", "policy.path=gone"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"breadth: runs: must be a place that this user can write to ({runs.parent}")
        assert reason in line
    check_writable(tmp_path / "new" / "run", "runs", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left by the check"


@pytest.mark.parametrize(
    "change",
    [
        ["sampling.max_prompt_tokens=4"],
        ["task.heldout_prompts=100000"],
        ["policy.path=gone"],
        ["method=dph_f", "rehearsal.path=gone.parquet"],
    ],
)
def test_a_refused_run_leaves_no_directory_and_prints_no_end(
    change: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "logbook.console=true", f"runs={tmp_path / 'runs'}", "name=run", *change]
    assert main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert not (tmp_path / "runs" / "run").exists()
    assert "ended at step" not in out + err


def test_a_run_that_is_refused_late_leaves_no_directory_and_another_failure_leaves_it(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    with pytest.raises(ValueError, match="late"), new_folder(cfg):
        (tmp_path / "run" / "metrics.jsonl").touch()
        raise ValueError("late")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RuntimeError), new_folder(cfg):
        raise RuntimeError
    assert (tmp_path / "run").is_dir()
    assert check_beginning(cfg, resume=False, report=print), "a directory without records blocks no run"
    with pytest.raises(ValueError, match="recorded"), new_folder(cfg):
        (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
        raise ValueError("recorded")
    with pytest.raises(ValueError, match=r"^name: must be new"):
        check_beginning(cfg, resume=False, report=print)


@pytest.mark.parametrize(("change", "kept"), [("placement.graders=2", True), ("sampling.temperature=0.5", False)])
def test_answers_presampled_by_a_run_that_never_began_are_used_under_the_same_settings_only(
    change: str, kept: bool, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(settings(tmp_path)))
    (tmp_path / "run" / PRESAMPLED).touch()
    with new_folder(settings(tmp_path, change)):
        assert (tmp_path / "run" / PRESAMPLED).exists() == kept


def test_a_finished_run_is_reported_without_torch(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    save(run_dir / "checkpoints", 3)
    cfg = settings(tmp_path, "steps=3")
    (run_dir / "config.yaml").write_text(to_yaml(cfg))
    code = (
        "import sys; from orchestrator.commands.cli import main; status = main(sys.argv[1:]);"
        "print(status, [m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, "train", "--resume", "name=run", f"runs={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.stderr == ""
    assert done.stdout == (
        "steps: all 3 are done, the last checkpoint is of step 3; nothing to train. "
        f"To go on: breadth train --resume name=run runs={tmp_path} steps=6\n0 []\n"
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "must be a cluster's own address, head-node:6379 or auto (`breadth submit` takes a "),
        ("127.0.0.1:9", "must be the address of a running Ray cluster, such as head-node:6379, got '127.0.0.1:9': "),
    ],
)
def test_an_address_that_no_cluster_can_have_is_refused_before_anything_heavy_is_loaded(
    address: str, said: str, tmp_path: Path
) -> None:
    code = (
        "import sys; from orchestrator.commands.cli import main\n"
        "for words in sys.argv[1:]:\n    print(main(words.split()))\n"
        "print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    )
    commands = ["train", "evaluate", "presample rehearsal.path=answers.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *(f"{command} runs={tmp_path}" for command in commands)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
    )
    assert done.stdout == "2\n2\n2\n[]\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"breadth: RAY_ADDRESS: {said}") for line in lines)
