"""Evaluations whose reference is lost while it scores answers: the same KL as without a loss."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.presence import RoleLost
from actors.reference import References
from actors.remote_reference import RemoteReference
from orchestrator import cluster
from orchestrator.constructors import reference_arguments
from orchestrator.evaluation import scoring
from orchestrator.evaluation.job import evaluate
from orchestrator.evaluation.likelihoods import FILE
from tests.actors.test_lost_references import Actor
from tests.orchestrator.evaluation.test_resumed_job import VERIFIER, everything
from tests.orchestrator.in_process import config

WORDS = (f"task.verifier={VERIFIER}", "evaluate.frontier=[]", "placement.restart_delay_s=0")
PROMPTS = 4
"""Calls of `score` for each policy: one for each prompt."""
Losses = dict[str, set[int]]
"""The calls in which the reference is lost: by method, counted over all actors from 1."""


class LostReference(Actor):
    """A reference over Ray as the supervisor sees it, which is lost in some calls."""

    local_pid = None

    def __init__(self, name: str, build: Callable[[], References], losses: Losses, calls: Counter[str]) -> None:
        super().__init__(name, build())
        self.build, self.losses, self.calls = build, losses, calls

    def _count(self, method: str) -> None:
        self.calls[method] += 1
        self.dead = self.dead or self.calls[method] in self.losses.get(method, ())

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        self._count(method)
        return await super().call(method, *arguments)

    async def call_stored(self, method: str, value: Any, *arguments: Any) -> Any:
        self._count(method)
        return await super().call_stored(method, value, *arguments)

    async def computed(self, result: Any, method: str, timeout_s: float | None = None) -> None:
        self._count(method)
        if self.dead:
            raise RoleLost(f"{self.name}: its process died before {method} ended")

    def give_up(self, reason: str) -> None:
        pass

    async def restart(self) -> None:
        self.calls["restart"] += 1

    async def rebuilt(self, timeout_s: float) -> None:
        self.role, self.dead = await asyncio.to_thread(self.build), False

    async def close(self) -> None:
        pass


def measure(policies: dict[str, str], runs: Path, losses: Losses, *words: str) -> tuple[Any, list[str], Counter[str]]:
    """Evaluate the policies. Return all that is written, the lines of the reference and the KL, and counts of calls."""
    lines: list[str] = []
    calls: Counter[str] = Counter()
    cfg = config(Path("nowhere"), runs, *WORDS, *words)
    start = cluster.start

    async def with_lost_references(cfg: Any, names: Any, **options: Any) -> cluster.Roles:
        roles = await start(cfg, names, **options)
        if "reference" in names:
            build = partial(References, **reference_arguments(cfg, roles.references))
            made = range(cfg.placement.references)
            pool = RemoteReference([LostReference(f"reference {i}", build, losses, calls) for i in made], 60.0)
            roles.reference = roles.reference_actors = pool
        return roles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "start", with_lost_references)
        patch.setattr(scoring, "CHUNK_TOKENS", 1)
        asyncio.run(asyncio.wait_for(evaluate(cfg, policies, lines.append, runs / "out"), 100))
    scores = runs / "out" / FILE
    found = everything(runs / "out") | {FILE: pq.read_table(scores).to_pylist() if scores.exists() else None}
    return found, [line for line in lines if line.startswith(("reference", "no KL"))], calls


@pytest.fixture(scope="module")
def policies(tiny_policy: Path, other_policy: Path) -> dict[str, str]:
    return {"base": str(tiny_policy), "other": str(other_policy)}


@pytest.mark.parametrize("actors", [1, 2])
@pytest.mark.parametrize(
    "losses",
    [
        pytest.param({"score": {2}}, id="while the base scores"),
        pytest.param({"score": {PROMPTS + 2}}, id="while the second policy scores"),
        pytest.param({"move": {1}}, id="while it gets the second policy"),
        pytest.param({"moved": {1}}, id="when it has got the second policy"),
        pytest.param({"score": {1}, "restore": {1}, "move": {1}}, id="again and again"),
    ],
)
def test_an_evaluation_whose_reference_is_lost_writes_what_it_would_have(
    policies: dict[str, str], tmp_path: Path, losses: Losses, actors: int
) -> None:
    word = f"placement.references={actors}"
    whole, lines, _ = measure(policies, tmp_path / "whole", {}, word)
    assert lines == [] and whole[FILE]
    found, lines, calls = measure(policies, tmp_path / "healed", losses, word)
    assert calls["restart"] >= 1
    assert any(line.startswith("reference") and " was lost: " in line for line in lines), lines
    assert not any(line.startswith("no KL") for line in lines), lines
    if actors == 1:  # with two the evaluation may end before the lost one is back
        assert lines[-1].startswith("reference 0 is back: after "), lines
    assert found == whole


@pytest.mark.parametrize("restarts", [0, 2])
def test_an_evaluation_is_written_without_kl_when_the_restarts_of_its_reference_are_used_up(
    policies: dict[str, str], tmp_path: Path, restarts: int
) -> None:
    always = {"score": set(range(100))}
    found, lines, calls = measure(policies, tmp_path, always, f"placement.restarts={restarts}")
    assert calls["restart"] == restarts and calls["score"] == restarts + 1
    assert lines[-1].startswith(
        "no KL to base, as the answers could not be scored (evaluate.kl_to_base=false omits it)"
    )
    reason = "reference 0 was lost and cannot be started again" if restarts else "its process died before score ended"
    assert reason in lines[-1]
    assert found[FILE] is None and found["results.json"]["policies"]["other"]["1.0"]["pass@1"] is not None
