"""An online W&B run against a server: it gets all values, a resume adds to its history, and the user is told where."""

from pathlib import Path

import pytest
from logbook_runs import events

from orchestrator.watch.logbook import read_records
from tests.orchestrator.sinks.interpreter import run_in_new_interpreter
from tests.orchestrator.sinks.wandb_server import WandbServer, wandb_server

RUN = """
import sys
from pathlib import Path
from configs.logbook import LogbookConfig
from orchestrator.console.choice import open_screen
from orchestrator.watch.logbook import Logbook

screen = open_screen()
screen("a line before W&B")
screen.keep(Path(sys.argv[1]))
settings = {"method": "grpo", "scale": "cpu", "task": {"name": "countdown"}}
logbook = Logbook(
    Path(sys.argv[1]),
    LogbookConfig(console=True, wandb="online"),
    run_name="first",
    settings=settings,
    total_steps=9,
    wandb_id="abcd1234",
    render=str,
    resume_step=RESUME,
    screen=screen,
)
for step in STEPS:
    logbook.write(step, {"reward": step + SHIFT, "tokens": 10.0})
logbook.close(failed=FAILED)
assert logbook.copies.failed == 0
"""


def run(
    server: WandbServer, run_dir: Path, resume: int | None, steps: list[int], shift: float, failed: bool = False
) -> None:
    run_dir.mkdir(exist_ok=True)
    values = {"RESUME": resume, "STEPS": steps, "SHIFT": shift, "FAILED": failed}
    script = RUN
    for name, value in values.items():
        script = script.replace(name, repr(value))
    home = {"HOME": str(run_dir.parent), "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
    assert run_in_new_interpreter(script, run_dir, **home) == ""


@pytest.mark.slow
def test_a_run_resumed_from_an_earlier_checkpoint_adds_all_its_records_under_the_same_id(tmp_path: Path) -> None:
    run_dir = tmp_path / "first"
    with wandb_server() as server:
        run(server, run_dir, None, [1, 2, 3, 4], 0.0)
        first = [(record["step"], record["rollout/reward"]) for record in server.history.values()]
        run(server, run_dir, 2, [3, 4, 5], 0.5)
    records = [(record["step"], record["rollout/reward"]) for record in server.history.values()]
    assert first == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert records == [*first, (3, 3.5), (4, 4.5), (5, 5.5)], "repeated steps are there again, none is refused"
    own = [record["_step"] for record in server.history.values()]
    assert own == sorted(set(own)), "W&B takes each of its own steps once"
    totals = [record["tokens_total"] for record in server.history.values()]
    assert totals == [10.0, 20.0, 30.0, 40.0, 30.0, 40.0, 50.0]
    assert {upsert["name"] for upsert in server.upserts} == {"abcd1234"}
    assert [record["reward"] for record in read_records(run_dir / "metrics.jsonl")] == [1.0, 2.0, 3.5, 4.5, 5.5]


@pytest.mark.slow
def test_an_online_run_has_labels_and_its_address_is_told_at_start_and_end(tmp_path: Path) -> None:
    with wandb_server() as server:
        run(server, tmp_path / "first", None, [1, 2], 0.0)
    told = [event["text"] for event in events(tmp_path / "first") if event["title"] == "wandb"]
    assert told == [f"online at {server.url}/me/breadth/runs/abcd1234"] * 2
    created = server.upserts[0]
    labels = (created["groupName"], created["jobType"], created["displayName"])
    assert labels == ("countdown grpo cpu", "train", "first")
    assert created["tags"] == ["method:grpo", "scale:cpu", "task:countdown"]


@pytest.mark.slow
def test_the_log_of_a_run_has_all_lines_of_the_console_once_and_a_failed_run_is_shown_as_failed(tmp_path: Path) -> None:
    with wandb_server() as server:
        run(server, tmp_path / "first", None, [1, 2], 0.0, failed=True)
        failed = list(server.console)
        run(server, tmp_path / "first", 2, [3], 0.0)
    console = "\n".join(failed)
    assert all(text in console for text in ("a line before W&B", " 2/9 ", "first ended at step 2/9 after"))
    assert sum("a line before W&B" in line for line in server.console) == 2, "once from each process"
    assert sum(" 2/9   2.000 " in line for line in server.console) == 1
    assert server.exit_codes == [1, 0]


@pytest.mark.slow
def test_a_measurement_that_is_made_up_for_after_a_resume_is_in_the_history(tmp_path: Path) -> None:
    with wandb_server() as server:
        run(server, tmp_path / "first", None, [1, 2], 0.0)
        run(server, tmp_path / "first", 2, [2, 3], 0.5)  # what is added to step 2, the last one of the checkpoint
    records = [(record["step"], record["rollout/reward"]) for record in server.history.values()]
    assert records == [(1, 1.0), (2, 2.0), (2, 2.5), (3, 3.5)]
