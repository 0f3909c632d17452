"""Guards the rules of the house: layers, sizes, names, and where libraries may be used."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("configs", "trajectories", "objectives", "rewards", "tasks", "actors", "orchestrator")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAY_USE = {
    "ray": {"actors/batch_shells.py", "actors/remote.py", "orchestrator/cluster.py", "orchestrator/connection.py"},
    "vllm": {
        "actors/generation/vllm_engine.py",
        "actors/generation/vllm_settings.py",
        "actors/weights/publication.py",
    },
    "wandb": {"orchestrator/sinks/wandb_run.py"},
    "mlflow": {"orchestrator/sinks/mlflow_run.py"},
    "trackio": {"orchestrator/sinks/trackio_run.py"},
    "matplotlib": {"orchestrator/report/plots.py"},
    "math_verify": {"rewards/mathematics/by_math_verify.py"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("library", MAY_USE)
def test_a_library_is_used_only_in_the_files_that_may_use_it(library: str) -> None:
    assert {name_of(path) for path in FILES if library in imports(path)} == MAY_USE[library]


@pytest.mark.parametrize("room", ["configs", "rewards", "tasks", "trajectories.trajectory"])
def test_importing_a_light_room_loads_nothing_heavy(room: str) -> None:
    folder = ROOT / room.split(".")[0]
    files = [path for path in folder.rglob("*.py") if path.stem != "__init__"]
    modules = [room] if "." in room else [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_importing_the_grader_and_its_ray_actor_loads_no_torch() -> None:
    code = "import sys, actors.ray_shells, actors.grader; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_objectives_import_torch_and_nothing_else_from_outside() -> None:
    outside = set.union(*(imports(path) for path in (ROOT / "objectives").rglob("*.py")))
    assert outside - set(sys.stdlib_module_names) <= {"torch", "configs", "trajectories", "objectives"}


def test_nobody_below_the_orchestrator_logs() -> None:
    below = [path for path in FILES if path.relative_to(ROOT).parts[0] != "orchestrator"]
    assert [name_of(path) for path in below if "logging" in imports(path)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_small_enough_to_hold_one_thing(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 310, f"{name_of(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{name_of(path)}: {node.name} is too long"


def test_a_folder_holds_at_most_fifteen_modules() -> None:
    """`configs/` is the exception: one file per section of the settings, flat."""
    modules = Counter(name_of(path.parent) for path in FILES if path.name != "__init__.py")
    assert [folder for folder, count in modules.items() if count > 15 and folder != "configs"] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_modules_are_imported_at_the_top_of_a_file(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                module = inner.module if isinstance(inner, ast.ImportFrom) else None
                assert (module or "").split(".")[0] not in ROOMS, f"{name_of(path)}: {node.name} imports {module}"


def test_no_module_bears_a_name_of_the_standard_library_and_init_files_are_empty() -> None:
    assert [name_of(path) for path in FILES if path.stem in sys.stdlib_module_names] == []
    assert [name_of(path) for path in FILES if path.name == "__init__.py" and path.read_text()] == []
    assert {part for path in FILES for part in path.relative_to(ROOT).parts} & {
        "utils",
        "core",
        "common",
        "helpers",
    } == set()


def test_every_room_resolves_inside_this_repository() -> None:
    for room in ROOMS:
        module = __import__(room)
        assert Path(module.__file__ or "").resolve().is_relative_to(ROOT), f"{room} comes from {module.__file__}"


def test_the_main_loop_reads_at_a_glance() -> None:
    tree = ast.parse((ROOT / "orchestrator" / "train.py").read_text())
    [loop] = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "train"]
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno + 1 <= 25


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    needs: dict[str, set[str]] = {}
    for name, path in names.items():
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        modules = {f"{node.module}.{alias.name}" for node in found for alias in node.names}
        needs[name] = ({node.module or "" for node in found} | modules) & names.keys()
    assert needs["orchestrator.train"] >= {"orchestrator.checkpoint", "objectives.credit"}
    while needs:
        free = [name for name, wanted in needs.items() if not wanted & needs.keys()]
        assert free, f"these import each other: {sorted(needs)}"
        for name in free:
            del needs[name]


def test_import_linter_finds_no_broken_layer() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
