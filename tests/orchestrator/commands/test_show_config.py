"""`breadth show-config --explain`: the meaning of settings, with the values they have now."""

import pytest

from orchestrator.commands.cli import main


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show-config", *arguments]) == 0
    return capsys.readouterr().out


def test_one_setting_is_explained_with_its_value_in_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "method=dapo", "--explain", "objective.clip.high")
    assert text == (
        "objective.clip.high = 0.28  (float, default 0.2)\n"
        "    Upper clip range; above `low` it is DAPO's clip-higher.\n"
    )


def test_a_setting_of_a_named_section_is_explained_for_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "method=gkd", "--explain", "objective.terms.NAME.route")
    assert "objective.terms.divergence.route = explore" in text
    assert "objective.terms.data.route = rehearse" in text
    one = shown(capsys, "method=gkd", "--explain", "objective.terms.data")
    assert "objective.terms.data.route = rehearse" in one and "objective.terms.divergence" not in one
    alone = shown(capsys, "method=grpo", "--explain", "objective.terms.NAME.route")
    assert alone.startswith("objective.terms.NAME.route  (explore | rehearse, default explore)")


def test_without_a_key_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--explain", "method=dph_f", "steps=7")
    assert "steps = 7  (int, default 100)" in text
    assert "method = dph_f" in text
    assert "policy.chat_template = false  (bool, default false)" in text
    assert text.count("\n    ") > 170


def test_an_unknown_key_ends_with_status_2_and_the_nearest_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "--explain", "learner.learning_rat"]) == 2
    assert "did you mean 'learner.learning_rate'?" in capsys.readouterr().err


def test_an_option_of_the_runs_task_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--explain", "task.options.numbers", "task.options.numbers=5")
    assert text.startswith("task.options.numbers = 5  (int, default ")
    assert "\n    Count of numbers in a problem.\n" in text
    assert shown(capsys, "--explain", "task.options.format", "task.name=dataset").startswith(
        "task.options.format = plain"
    )
    assert main(["show-config", "--explain", "task.options.nubmers"]) == 2
    assert "did you mean 'task.options.numbers'?" in capsys.readouterr().err
