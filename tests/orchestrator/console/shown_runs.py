"""A run of seven steps, shown on a screen: two measurements, and an alert."""

from orchestrator.console.run_console import RunConsole
from orchestrator.console.screen import Screen

STEP = {
    "reward": 0.4,
    "reward_std": 0.3,
    "solved_groups": 0.75,
    "truncated": 0.02,
    "answer_length": 812.4,
    "entropy": 1.234,
    "kl_reference_per_trajectory": 0.0123,
    "kl_update_per_trajectory": 0.5,
    "grad_norm": 2.5,
    "staleness": 0.0,
    "tokens_per_second": 5120.0,
    "seconds/wait_generation": 1.0,
    "seconds/step": 4.0,
}
NAMES = ("pass@1", "pass@64", "retention", "expansion", "kl_to_base", "beyond_sharpening/pass@64")


def held_out(*values: float, change: tuple[float, float] = (0.0, 0.0)) -> dict[str, float]:
    """Held-out values by NAMES, and the changes of Pass@1 and Pass@64."""
    found = {f"heldout/{name}": value for name, value in zip(NAMES, values, strict=False)}
    if len(values) == len(NAMES):
        found |= {"heldout/beyond_sharpening/pass@64/low": -0.11, "heldout/beyond_sharpening/pass@64/high": -0.02}
    return {
        **found,
        "heldout/pass@1/low": 0.2,
        "heldout/pass@1/sql2": 0.1,
        "heldout/change/pass@1": change[0],
        "heldout/change/pass@64": change[1],
    }


def show_run(screen: Screen, *, lag: int = 0) -> None:
    """Show the run as the logbook does: the measurement of a step comes before the next step, also with a lag."""
    console = RunConsole(screen, run_name="demo", total_steps=1000, first_step=0)
    console.write(0, held_out(0.3, 0.98, 1.0, 0.0, 0.0))
    for step in range(1, 8):
        for name in ("wait_generation", "update"):
            console.doing(name, lambda: "3 of 8 groups are complete")
            screen.show(lambda display: display.tick())
        console.write(step, STEP | {"reward": step / 10})
        if step == 4:
            if lag:
                console.doing("wait_generation", lambda: "")
            console.write(step, held_out(0.4, 0.9, 0.91, 0.3, 0.25, -0.06, change=(0.1, -0.08)))
            console.alert("retention fell", "retention is [red]0.91[/red], see docs/metrics.md")
    console.close()
