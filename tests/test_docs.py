"""README, CONTRIBUTING and the architecture page: the code, timeline, recipes and paths they show are real."""

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import load
from configs.other_trainers import table
from objectives.divergence.f_divergences import AtRatio
from orchestrator.commands.parser import parser
from orchestrator.rollout.window import Window
from trajectories.trajectory import Group, Prompt

ROOT = Path(__file__).resolve().parent.parent
README, CONTRIBUTING, ARCHITECTURE = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md"))
PAGES = [README, CONTRIBUTING, ARCHITECTURE]
ADDED = {"common_divisor", "magistral"}
"""Names of the files that the recipes of CONTRIBUTING add."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page in one language, without the indentation of the list they are in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `breadth` of every command of a page: a line of a code block that starts with it."""
    for line in re.sub(r" *\\\n +", " ", page.read_text()).splitlines():
        if line.startswith("   ") and line.strip().startswith("breadth "):
            yield shlex.split(line, comments=True)[1:]


def test_the_readme_shows_the_loop_as_it_is() -> None:
    source = (ROOT / "orchestrator" / "train.py").read_text()
    [loop] = [node for node in ast.parse(source).body if isinstance(node, ast.AsyncFunctionDef)]
    lines = source.splitlines(keepends=True)[loop.lineno - 1 : loop.end_lineno]  # with the comment of the last line
    assert "".join(lines) in blocks(README, "python")


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_timeline_has_the_weight_versions_with_which_the_window_admits_rollouts(lag: int) -> None:
    window, admitted = Window(lag + 1, position=0), {}
    prompt = Prompt(id="", position=0, text="", verifier="", problem={})
    for version in range(6):
        while window.free:
            admitted[window.position + 1] = version
            window.admit(window.position).group = Group(prompt=prompt)
        window.release(window.take(1))
    rows = re.findall(rf"^ lag {lag} +generators (.*)$", README.read_text(), flags=re.MULTILINE)
    shown = [(int(step), int(version)) for row in rows for step, version in re.findall(r"(\d+):v(\d+)", row)]
    assert len({step for step, _ in shown}) >= 4
    assert all(admitted[step] == version for step, version in shown)


def test_the_links_of_contributing_lead_to_files_and_headings_that_exist() -> None:
    lines = [line for line in CONTRIBUTING.read_text().splitlines() if not line.startswith(" ")]
    headings = [line.lstrip("# ").lower().replace(" ", "-") for line in lines if line.startswith("#")]
    links = re.findall(r"\]\(([^)]+)\)", "\n".join(lines))
    assert len(links) > 5
    for name, _, heading in (link.partition("#") for link in links):
        assert (ROOT / name).exists() and (not heading or heading in headings), f"{name}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_between_backticks_exist(page: Path) -> None:
    paths = re.findall(r"`((?:[a-z_]+/)+(?:[\w*]+\.(?:py|md|yaml))?)`", page.read_text())
    assert len(paths) > 10
    added = [path for path in paths if Path(path).stem.removeprefix("test_") in ADDED]
    assert [path for path in paths if path not in added and not (ROOT / path).exists()] == []


def test_the_commands_of_the_recipes_are_accepted_and_their_settings_exist() -> None:
    found = list(commands(CONTRIBUTING))
    assert len(found) >= 6
    for words in found:
        options, rest = parser().parse_known_args(words)
        overrides = [*getattr(options, "overrides", []), *rest]
        assert all("=" in word for word in overrides), words
        if "le_cam" not in " ".join(words) and "method=magistral" not in words:
            load(overrides)


def test_the_page_for_users_of_other_trainers_has_the_table_of_settings_and_a_run_that_is_accepted() -> None:
    page = ROOT / "docs" / "coming_from.md"
    assert table() in page.read_text(), f"the table of {page.name} must be:\n{table()}"
    [command] = [block for block in blocks(page, "bash") if block.startswith("breadth train")]
    overrides = shlex.split(command.replace("\\\n", " "))[2:]
    cfg = load(overrides)
    assert (cfg.groups_per_step, cfg.sampling.group_size, cfg.learner.learning_rate) == (8, 8, 1e-5)
    paths = [path for path in re.findall(r"\]\(([^)#]+)", page.read_text()) if not path.startswith("http")]
    assert len(paths) > 5 and [path for path in paths if not (page.parent / path).exists()] == []


def test_the_divergence_of_the_recipe_has_the_slope_of_its_f() -> None:
    [source] = [block for block in blocks(CONTRIBUTING, "python") if block.startswith("def le_cam")]
    names: dict[str, Any] = {"Tensor": torch.Tensor, "AtRatio": AtRatio}
    exec(source, names)
    log_u = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    at = names["le_cam"](log_u, 0.2)
    u = log_u.detach().exp()
    torch.testing.assert_close(at.value.detach(), (u - 1) ** 2 / (u + 1))
    torch.testing.assert_close(torch.autograd.grad(at.value.sum(), log_u)[0] / u, at.slope.detach() + at.slope_at_one)


def test_the_verifier_of_the_recipe_accepts_the_right_answers_of_its_task() -> None:
    sources = [
        block for block in blocks(CONTRIBUTING, "python") if block.startswith('"""') and "\nimport math\n" in block
    ]
    verifier, task = ({}, {})  # type: dict[str, Any], dict[str, Any]
    for names, source in zip((verifier, task), sources, strict=True):
        exec(source, names)
    made = task["CommonDivisor"](task["CommonDivisorOptions"](), seed=0)
    for position in range(50):
        prompt, answer = made.demonstration(position)
        assert verifier["verify"](answer, prompt.problem).status == "correct"


def test_the_preset_of_the_recipe_is_a_valid_one(tmp_path: Path) -> None:
    [preset] = blocks(CONTRIBUTING, "yaml")
    file = tmp_path / "preset.yaml"
    file.write_text(preset)
    cfg = load(["method=dr_grpo"], str(file))
    assert (cfg.objective.advantage, cfg.objective.clip.high) == ("group_mean_global_whiten", 0.28)
