"""The process group of the learner ranks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.actors.learning.learner_ranks import free_address

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys, time, torch
from actors.learning.sharding import join_process_group
rank = int(sys.argv[2])
join_process_group(sys.argv[1], 3.0, device="cpu", rank=rank, ranks=2)
if rank:
    time.sleep(60)
torch.distributed.all_reduce(torch.ones(1))
"""


@pytest.mark.slow
@pytest.mark.timed
def test_a_rank_that_waits_longer_than_the_timeout_for_another_ends_with_an_error() -> None:
    address = free_address()
    ranks = [
        subprocess.Popen([sys.executable, "-c", CODE, address, str(rank)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        _, errors = ranks[0].communicate(timeout=45)
        assert ranks[0].returncode and "imed out" in errors, errors
        assert ranks[1].poll() is None, "the other rank is still there"
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
