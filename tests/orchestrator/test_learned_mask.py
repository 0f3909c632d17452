"""The learned token mask of pairs in a run: it is trained, measured, and part of a checkpoint."""

import shutil
from pathlib import Path

from orchestrator.state import RunState
from tests.orchestrator.test_train import config, numbers, train


def test_a_run_trains_its_mask_and_resumes_with_it_exactly(tmp_path: Path) -> None:
    settings = ("steps=6", "checkpoint.every=4", "checkpoint.keep_last=2", "objective.pairs.mask_learning_rate=0.01")
    cfg = config(tmp_path, "method=sparse_po", "name=run", *settings)
    whole = train(cfg)
    # In the first step the policy is the reference: log u and K are 0, and the mask has no gradient.
    assert [record["mask/mean"] == 1 for record in whole] == 2 * [True] + 4 * [False]
    last = tmp_path / "run" / "checkpoints" / "step-000006"
    mask = RunState.from_json((last / "state.json").read_text()).objective.mask
    assert 1 < mask.updates < 6 and len(set(mask.parameters)) > 2
    shutil.rmtree(last)
    assert numbers(train(cfg, resume=True))[-2:] == numbers(whole)[-2:]
