"""Policies fetched from a Hub on this machine: which files, once for all processes, and with a token only."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer, hub_server

ROOT = Path(__file__).resolve().parents[3]
POLICY = ROOT / "tasks" / "base_policies" / "countdown"
COPIES = ("pytorch_model.bin", "model.gguf", "consolidated.safetensors", "onnx/model.json", "README.md")
FETCH = "import sys; from actors.policy_files.folder import policy_folder; print(policy_folder(sys.argv[1]))"


@pytest.fixture
def server() -> Iterator[HubServer]:
    files = {path.name: path.read_bytes() for path in POLICY.iterdir() if path.is_file()}
    with hub_server(files | dict.fromkeys(COPIES, b"a copy of the weights")) as served:
        yield served


def start(server: HubServer, home: Path, name: str, **variables: str) -> subprocess.Popen[str]:
    environment = {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", FETCH, name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output.strip(), errors


def test_processes_that_ask_at_once_fetch_each_needed_file_once(server: HubServer, tmp_path: Path) -> None:
    outcomes = [ended(process) for process in [start(server, tmp_path, "org/tiny") for _ in range(4)]]
    assert [status for status, _, _ in outcomes] == [0] * 4, outcomes
    [folder] = {output for _, output, _ in outcomes}
    assert folder.endswith(f"models--org--tiny/snapshots/{server.commit}")
    needed = {path.name for path in POLICY.iterdir() if path.suffix in (".json", ".jinja", ".safetensors", ".txt")}
    assert sorted(server.sent) == sorted(needed)
    assert {path.name for path in Path(folder).iterdir()} == needed


def test_a_pinned_policy_in_the_cache_needs_no_hub(server: HubServer, tmp_path: Path) -> None:
    name = f"org/tiny@{server.commit}"
    assert ended(start(server, tmp_path, name))[0] == 0
    sent, server.files = list(server.sent), {}
    server.shutdown()
    status, folder, _ = ended(start(server, tmp_path, name))
    assert status == 0 and (Path(folder) / "model.safetensors").is_file() and server.sent == sent


def test_a_gated_policy_needs_the_token_of_the_environment(server: HubServer, tmp_path: Path) -> None:
    status, _, errors = ended(start(server, tmp_path, "org/gated"))
    assert status == 1 and "it is gated: accept its terms at https://huggingface.co/org/gated" in errors
    assert "set HF_TOKEN to a token of an account that may read it" in errors
    assert ended(start(server, tmp_path, "org/gated", HF_TOKEN=TOKEN))[0] == 0


def test_a_policy_that_the_hub_does_not_have_is_refused(server: HubServer, tmp_path: Path) -> None:
    status, _, errors = ended(start(server, tmp_path, "org/unknown"))
    assert status == 1 and "and the Hub: it has no such model, or a private one (set HF_TOKEN" in errors
