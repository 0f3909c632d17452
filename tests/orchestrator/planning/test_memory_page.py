"""The tables of memory in docs/deployment.md are those of the arithmetic."""

from pathlib import Path

from configs.load import load
from orchestrator.planning.learner_memory import update_phases
from orchestrator.planning.memory import memory_plan
from tests.orchestrator.planning.known_models import shapes_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "deployment.md"
RANKS = (4, 8, 16, 32)
MODELS = {"7B": "Qwen2.5 7B", "8B": "Qwen3 8B", "14B": "Qwen2.5 14B", "32B": "Qwen2.5 32B", "72B": "Qwen2.5 72B"}
TRACKED = {("1.5B", 1): 29.92, ("1.5B", 4): 11.49, ("7B", 4): 44.36, ("14B", 8): 49.55, ("32B", 16): 60.01}
"""GB that FSDPMemTracker finds, by model and ranks; the slow test of `test_learner_memory.py` finds them again."""


def learner_table() -> str:
    rows = [f"| policy | {' | '.join(f'{ranks} ranks' for ranks in RANKS)} |", f"| --- |{' --- |' * len(RANKS)}"]
    for name, words in MODELS.items():
        peaks = []
        for ranks in RANKS:
            cfg = load(["scale=8gpu", f"placement.learners={ranks}"])
            peaks.append(memory_plan(cfg, shapes_of(name), 80e9).gpus[0].peak.bytes / 1e9)
        rows.append(f"| {words} | {' | '.join(f'{peak:.0f}' for peak in peaks)} |")
    return "\n".join(rows)


def tracked_table() -> str:
    rows = ["| policy | ranks | tracked, GB | computed, GB |", "| --- | --- | --- | --- |"]
    for (name, ranks), tracked in TRACKED.items():
        phases = update_phases(load(["scale=8gpu", f"placement.learners={ranks}"]), shapes_of(name))
        rows.append(f"| Qwen2.5 {name} | {ranks} | {tracked:.1f} | {max(one.bytes for one in phases) / 1e9:.1f} |")
    return "\n".join(rows)


def test_the_page_has_the_learners_memory_by_ranks() -> None:
    assert f"\n\n{learner_table()}\n\n" in PAGE.read_text()


def test_the_page_has_what_torch_tracks_beside_what_is_computed() -> None:
    assert f"\n\n{tracked_table()}\n\n" in PAGE.read_text()
