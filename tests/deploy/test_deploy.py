"""Check the files of deploy/ and the commands of two docs pages against the CLI, the scales and the pinned versions."""

import os
import re
import shlex
import subprocess
import tomllib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from configs.config import Config
from configs.load import load, presets
from orchestrator.commands.parser import parse, parser
from orchestrator.evaluation.record import split_run
from orchestrator.placement import Reservation, needed_roles, require_capacity, reservations

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"registry.example.com/breadth:{PROJECT['version']}"
COMMAND = re.compile(r"^[#\s]*(breadth (?:submit|train|evaluate|report|presample|show-config)\b.*)$")
SCALES = {
    "1gpu": [(8, 1)],
    "8gpu": [(64, 8)],
    "8gpu_colocated": [(64, 8)],
    "16gpu": [(64, 8)] * 2,
    "64gpu": [(64, 8)] * 8,
}
"""Scale -> CPUs and GPUs of each node that it is made for."""
RAYJOB_KEYS = {
    "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "runtimeEnvYAML",
    "rayClusterSpec",
}  # fmt: skip
"""The fields of `RayJobSpec` (KubeRay, ray.io/v1) that the file may use."""


def pinned(name: str) -> str:
    """Return the version of a requirement that pyproject.toml pins."""
    [specifier] = [s for r in map(Requirement, PROJECT["dependencies"]) if r.name == name for s in r.specifier]
    assert specifier.operator == "=="
    return specifier.version


def command_lines(text: str) -> list[list[str]]:
    """Return the arguments of every `breadth ...` line, also after a comment sign; of `breadth submit`, those of the
    command that it submits, if it does."""
    text = re.sub(r"\\\n *#? *", " ", text)
    found = [shlex.split(match[1])[1:] for line in text.splitlines() if (match := COMMAND.match(line))]
    lines = [parse(words).words if words[0] == "submit" else words for words in found]
    return [words for words in lines if words]


def fenced(path: Path) -> str:
    """Return the code blocks of a Markdown file."""
    return "\n".join(re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL))


def checked(arguments: list[str], trained: Sequence[str] = ()) -> tuple[Namespace, Config | None]:
    """Parse a command line and load its settings; raise ValueError for a wrong setting.

    Args:
        trained: the train command of the run that `evaluate` reads.
    """
    options = parser().parse_args(arguments)
    if not hasattr(options, "overrides"):
        return options, None
    run, words = split_run(options.overrides)
    if run:
        record = load([*parser().parse_args(list(trained)).overrides, *words])
        assert run == f"{record.runs}/{record.name}"
        return options, record
    return options, load(words, options.config)


def train_of(lines: Sequence[list[str]], evaluate: Sequence[str] = ()) -> list[str]:
    """Return the train command of a file, which is not a resume; of several, that of the run which `evaluate` reads."""
    found = [line for line in lines if line[0] == "train" and "--resume" not in line]
    runs, _, name = (evaluate[1] if evaluate else "").rpartition("/")
    return next((line for line in found if {f"runs={runs}", f"name={name}"} <= set(line)), found[0])


def kuberay() -> dict[str, Any]:
    [document] = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    return document


def sources() -> dict[str, list[list[str]]]:
    """Return the command lines of each file: file name -> arguments."""
    files = [
        *(path for path in DEPLOY.glob("*") if path.is_file()),
        ROOT / "docs" / "deployment.md",
        ROOT / "docs" / "faults.md",
    ]
    found = {p.name: command_lines(fenced(p) if p.suffix == ".md" else p.read_text()) for p in files}
    found["kuberay.yaml"].append(shlex.split(kuberay()["spec"]["entrypoint"])[1:])
    return {name: lines for name, lines in found.items() if name != "slurm.sh"}  # which is run below


def phases(options: Namespace, cfg: Config) -> list[list[Reservation]]:
    """Return the reservations of a command, one list per phase."""
    alone = reservations(cfg, ["generator", "grader"])
    if options.command == "evaluate":
        return [alone]
    presampling = [alone] if cfg.objective.rehearses and cfg.reference_path else []
    return [*presampling, reservations(cfg, needed_roles(cfg))]


def assert_fits(wanted: list[Reservation], nodes: list[tuple[int, int]]) -> None:
    """Assert that all reservations fit the nodes in sum, as the run checks at its start, and each fits on one node."""
    require_capacity(wanted, {"CPU": sum(c for c, _ in nodes), "GPU": sum(g for _, g in nodes)})
    free = [[float(cpus), float(gpus)] for cpus, gpus in nodes]
    for reservation in sorted(wanted, key=lambda r: (r.gpus, r.cpus), reverse=True):
        node = next((n for n in free if n[0] >= reservation.cpus and n[1] >= reservation.gpus), None)
        assert node is not None, f"no node of {nodes} has room for {reservation}; left are {free}"
        node[0] -= reservation.cpus
        node[1] -= reservation.gpus


def assert_command_fits(arguments: list[str], trained: list[str], nodes: list[tuple[int, int]]) -> None:
    options, cfg = checked(arguments, trained)
    if options.command in ("train", "evaluate") and not getattr(options, "resume", False):
        assert cfg is not None
        for wanted in phases(options, cfg):
            assert_fits(wanted, nodes)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", presets("method"))
def test_every_method_loads_on_every_gpu_scale_and_fits_its_nodes(scale: str, method: str) -> None:
    on_policy = method in ("f_dpg", "gdc", "nash_mp")
    cfg = load([f"scale={scale}", f"method={method}", "policy.path=/shared/models/policy"])
    assert (cfg.policy.dtype, cfg.learner.layout, cfg.learner.gradient_checkpointing) == ("bfloat16", "auto", True)
    assert cfg.placement.device == "gpu"
    assert cfg.lag == (0 if on_policy or cfg.placement.mode == "colocated" else 2)
    assert cfg.generator.transfer == ("ipc" if cfg.placement.mode == "colocated" else "nccl")
    wanted = reservations(cfg, needed_roles(cfg))
    assert_fits(wanted, SCALES[scale])


@pytest.mark.parametrize("scale", SCALES)
def test_a_gpu_scale_sets_sizes_and_placement_and_nothing_of_a_method(scale: str) -> None:
    settings = yaml.safe_load((ROOT / "configs" / "scales" / f"{scale}.yaml").read_text())
    sizes = {"policy", "placement", "generator", "grader", "monitor", "learner", "sampling", "groups_per_step", "lag"}
    assert settings.keys() <= sizes
    assert "temperature" not in settings["sampling"]


def test_the_cli_accepts_every_command_line_in_deploy_and_docs() -> None:
    found = sources()
    commands = {
        checked(arguments, train_of(lines, arguments) if arguments[0] == "evaluate" else ())[0].command
        for lines in found.values()
        for arguments in lines
    }
    assert commands >= {"train", "evaluate", "report", "show-config"}
    for name in ("deployment.md", "kuberay.yaml", "ray-cluster.yaml"):
        assert {"train", "evaluate"} <= {arguments[0] for arguments in found[name]}, name


def test_kuberay_requests_the_pods_that_its_entrypoint_and_its_evaluation_need() -> None:
    job = kuberay()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() <= RAYJOB_KEYS
    assert job["spec"]["backoffLimit"] > 0 and "--restarts" in job["spec"]["entrypoint"]
    assert not set("&|;") & set(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    head, [workers] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    [container] = workers["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"]
    nodes = [(int(limits["cpu"]), int(limits["nvidia.com/gpu"]))] * workers["replicas"]
    lines = sources()["kuberay.yaml"]
    for arguments in lines:
        assert_command_fits(arguments, train_of(lines), nodes)


def test_kuberay_runs_one_image_with_the_pinned_ray_and_one_shared_volume_for_runs() -> None:
    cluster = kuberay()["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert container["image"] == IMAGE
        mount, *_ = container["volumeMounts"]
        volume, *_ = pod["volumes"]
        assert mount["name"] == volume["name"] and volume["persistentVolumeClaim"]["claimName"] == "breadth-shared"
        lines = sources()["kuberay.yaml"]
        for arguments in lines:
            _, cfg = checked(arguments, train_of(lines))
            assert cfg is not None and Path(cfg.runs).is_relative_to(mount["mountPath"])
    stop = yaml.safe_load(kuberay()["spec"]["runtimeEnvYAML"])
    assert int(stop["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 60


def test_workers_in_kubernetes_may_lock_memory_and_have_shared_memory_for_the_object_store_and_nccl() -> None:
    [workers] = kuberay()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    [mounted] = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == mounted]
    assert volume["emptyDir"]["medium"] == "Memory"
    gibibytes = [int(size.removesuffix("Gi")) for size in (volume["emptyDir"]["sizeLimit"], memory_of(container))]
    assert 16 <= gibibytes[0] <= gibibytes[1] / 2, "it counts as memory of the pod"


def memory_of(container: dict[str, Any]) -> str:
    return str(container["resources"]["limits"]["memory"])


def test_containers_of_ray_up_see_infiniband_may_lock_memory_and_have_shared_memory() -> None:
    options = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())["docker"]["run_options"]
    assert {"--device=/dev/infiniband", "--cap-add=IPC_LOCK", "--ulimit=memlock=-1"} <= set(options)
    [size] = [option.removeprefix("--shm-size=") for option in options if option.startswith("--shm-size=")]
    assert size.endswith("g") and int(size[:-1]) >= 16


def test_the_image_has_the_libraries_with_which_nccl_uses_infiniband() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert all(f" {name} " in text for name in ("ibverbs-providers", "libibverbs1", "librdmacm1"))


def test_every_variable_that_the_pages_name_may_be_set_for_a_role() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()
    words = re.findall(r"placement\.environment\.[a-z]+\.[A-Z_]+=[\w:,]+", text)
    assert len(words) >= 3
    assert len(load(words).placement.environment) >= 1


def test_a_run_and_an_evaluation_fit_the_head_that_the_page_starts_on_one_machine() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()
    section = text.partition("## Try it on one machine\n")[2].partition("\n## ")[0]
    lines = command_lines(section)
    assert [words[0] for words in lines] == ["train", "train", "evaluate", "report"]
    train, evaluate = (phases(*checked(words, lines[0]))[0] for words in (lines[0], lines[2]))
    assert f"reserves {sum(r.cpus for r in train):g} CPUs" in section
    [cpus] = {int(given) for given in re.findall(r"--num-cpus=(\d+)", section)}
    require_capacity([*train, *evaluate], {"CPU": float(cpus), "GPU": 0.0})


def test_the_ray_cluster_file_is_valid_for_ray_and_has_room_for_its_commands() -> None:
    cluster = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(cluster))
    assert cluster["docker"]["image"] == IMAGE
    assert cluster["min_workers"] == cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    assert "--env=RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"] == {"/root/.ray/auth_token": "~/.ray/auth_token"}
    starts = [cluster["head_start_ray_commands"][-1], *cluster["worker_start_ray_commands"][-1:]]
    given = [tuple(int(n) for n in re.findall(r"--num-(?:cpus|gpus)=(\d+)", start)) for start in starts]
    nodes = [given[0], *given[1:] * cluster["min_workers"]]
    lines = sources()["ray-cluster.yaml"]
    for arguments in lines:
        assert_command_fits(arguments, train_of(lines), nodes)
        _, cfg = checked(arguments, train_of(lines))
        assert cfg is not None and f"--volume=/{Path(cfg.runs).parts[1]}:" in " ".join(cluster["docker"]["run_options"])


def test_the_dockerfile_installs_the_project_with_its_gpu_extra_on_a_supported_python() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line]
    assert [word[1] for word in words if word[0] == "FROM"] == ["nvidia/cuda:13.0.2-devel-ubuntu24.04"]
    assert {word[0] for word in words} <= {"FROM", "RUN", "ENV", "WORKDIR", "COPY"}
    [python] = set(re.findall(r"python(\d\.\d+)", "\n".join(lines)))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    copied = {name for word in words if word[0] == "COPY" for name in word[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert copied == {
        "pyproject.toml",
        PROJECT["readme"],
        *PROJECT["license-files"],
        *(f"{name}.py" for name in tool["py-modules"]),
        *(name.rstrip("*") for name in tool["packages"]["find"]["include"]),
    }
    assert IMAGE in text
    assert PROJECT["scripts"]["breadth"] == "breadth:main"
    assert ["RUN", "pip", "install", "--no-cache-dir", "'.[gpu]'"] in words
    [smoke] = [word[2:] for word in words if word[:2] == ["RUN", "breadth"]]
    assert checked(smoke)[0].command == "show-config"


def test_every_extra_and_every_file_named_in_the_pages_exists() -> None:
    for page in (ROOT / "docs" / "deployment.md", ROOT / "docs" / "faults.md"):
        text = page.read_text()
        for extras in re.findall(r"'\.\[([\w,]+)\]'", text):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
        for name in re.findall(r"`((?:deploy|configs|docs)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
        for name in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / name).exists(), f"{page.name} links to {name}"
        for version in re.findall(r"ray\[default\]==([\d.]+)", text):
            assert version == pinned("ray")


RECORD = """#!/bin/bash
printf '%s\\n' "$(printf '%q ' "$@")" >> "$LOGS/$(basename "$0")"
"""
STUBS = {
    "srun": RECORD.replace("printf", 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> "$LOGS/auth"\nprintf', 1),
    "ray": "#!/bin/bash\necho secret\n",
    "scontrol": "#!/bin/bash\nprintf 'node-1\\nnode-2\\n'\n",
    # The number of nodes in Ray is the number of srun calls.
    "python": "#!/bin/bash\nwc -l < $LOGS/srun\n",
    "sleep": "#!/bin/bash\nexec /bin/sleep 0.05\n",
}


def slurm(folder: Path, *, breadth: str = RECORD, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the Slurm script with programs that only record their arguments."""
    (folder / "bin").mkdir()
    for name, text in (STUBS | {"breadth": breadth}).items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    allocation = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NNODES": "2", **directives()}
    environment = os.environ | allocation | {"LOGS": str(folder), "VENV": str(folder)} | settings
    return subprocess.run(
        ["bash", DEPLOY / "slurm.sh"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def directives() -> dict[str, str]:
    """Return the environment variables that Slurm sets from the #SBATCH lines."""
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", (DEPLOY / "slurm.sh").read_text(), re.MULTILINE))
    assert asked["nodes"] == "2" and asked["ntasks-per-node"] == "1" and asked["signal"].startswith("B:TERM@")
    return {"SLURM_CPUS_PER_TASK": asked["cpus-per-task"], "SLURM_GPUS_ON_NODE": asked["gpus-per-node"]}


def calls(folder: Path, program: str) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / program).read_text().splitlines()]


def test_the_slurm_script_starts_ray_on_all_nodes_then_trains_evaluates_and_reports(tmp_path: Path) -> None:
    done = slurm(tmp_path, SHARED="/lustre/me")
    assert done.returncode == 0, done.stderr
    head, workers = calls(tmp_path, "srun")
    assert "--nodelist=node-1" in head and {"ray", "start", "--head", "--num-cpus=64", "--num-gpus=8"} <= set(head)
    assert {"--nodes=1", "--exclude=node-1", "--address=node-1:6379", "--num-gpus=8"} <= set(workers)
    assert calls(tmp_path, "auth") == [["token", "secret"]] * 2
    train, evaluate, report = calls(tmp_path, "breadth")
    nodes = [(int(directives()["SLURM_CPUS_PER_TASK"]), int(directives()["SLURM_GPUS_ON_NODE"]))] * 2
    for arguments in (train, evaluate):
        assert_command_fits(arguments, train, nodes)
    _, trained = checked(train)
    assert trained is not None and trained.runs == "/lustre/me/runs"
    assert split_run(evaluate[1:])[0] == f"{trained.runs}/{trained.name}"
    options, _ = checked(report)
    assert options.runs == [f"{trained.runs}/{trained.name}"] and options.evaluation is None


def test_the_slurm_script_has_a_command_that_continues_its_run_when_slurm_starts_it_again(tmp_path: Path) -> None:
    assert re.search(r"^#SBATCH --requeue$", (DEPLOY / "slurm.sh").read_text(), re.MULTILINE)
    assert slurm(tmp_path).returncode == 0
    options, cfg = checked(calls(tmp_path, "breadth")[0])
    assert options.restarts and cfg is not None and (cfg.runs, cfg.name) == ("/shared/runs", "dph-f")


def test_the_slurm_script_passes_slurms_warning_to_the_run_and_starts_nothing_after_it(tmp_path: Path) -> None:
    warned = RECORD + "trap 'touch \"$LOGS/stopped\"; exit 0' TERM\nkill -TERM $PPID\nwhile true; do sleep; done\n"
    done = slurm(tmp_path, breadth=warned)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stopped").exists()
    assert [arguments[0] for arguments in calls(tmp_path, "breadth")] == ["train"]


def test_the_slurm_script_ends_with_the_status_of_a_run_that_failed(tmp_path: Path) -> None:
    assert slurm(tmp_path, breadth=RECORD + "exit 3\n").returncode == 3
    assert [arguments[0] for arguments in calls(tmp_path, "breadth")] == ["train"]
