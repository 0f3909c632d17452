"""As a script: load and save a policy on several ranks, each in a process of its own, and measure the memory.

Rank 0 writes the gathered weights, and each rank its bytes and its part of the policy, to FOLDER:
python reading_ranks.py ADDRESS POLICIES FOLDER RANKS

Several POLICIES, with colons between them, are averaged.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from actors.learning.sharding import full_parameters, join_process_group, mesh_of, shard
from actors.policy_files.reading import empty_model, fill_average
from actors.policy_files.writing import policy_part
from actors.scoring.policy import Policy
from configs.learner import LearnerConfig
from tests.actors.learning.learner_ranks import fork

RANKS_S = 120.0


def memory(field: str) -> int:
    """Bytes of this process: VmRSS, resident; VmHWM, the most that were resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(kilobytes) * 1024


def taken(work: Callable[[], object]) -> int:
    """The bytes by which this process grew at most during `work`."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    work()
    return memory("VmHWM") - before


def run_rank(rank: int, ranks: int, address: str, policy_paths: str, folder: Path) -> None:
    join_process_group(address, RANKS_S, device="cpu", rank=rank, ranks=ranks)
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # the libraries' own memory is there before
    paths = policy_paths.split(os.pathsep)
    model = empty_model(paths[0])
    policy = Policy(model, layout="pad", logits_megabytes=1, temperature=1.0)
    mesh = mesh_of(1, RANKS_S, device="cpu", ranks=ranks)
    shard(policy, mesh, LearnerConfig(), dtype="float32")
    parts_of = dict.fromkeys(paths, 1 / len(paths))
    loading = taken(lambda: fill_average(model, parts_of, "cpu"))
    parts = []
    copying = taken(lambda: parts.append(policy_part(model, full_parameters(model), "float32", rank=rank, ranks=ranks)))
    (folder / f"bytes-{rank}").write_text(f"{loading} {copying}")
    parts[0].write(folder / "saved")
    if rank == 0:
        model.config.save_pretrained(folder / "saved")
    weights = {name: p.clone() for name, p in full_parameters(model)}
    buffers = dict(model.named_buffers())
    if rank == 0:
        torch.save(weights | buffers, folder / "weights.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    address, policy_paths, folder, count = sys.argv[1:]
    sys.exit(not fork(run_rank, int(count), address, policy_paths, Path(folder), ranks=int(count), timeout_s=RANKS_S))
