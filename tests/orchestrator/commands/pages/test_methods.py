"""`breadth methods`: every preset with its paper and its settings, and one with its equations."""

import re
from dataclasses import replace

import pytest

from configs.load import load, presets
from orchestrator.commands.cli import main
from orchestrator.documentation.method_table import changed


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["methods", *arguments]) == 0
    return capsys.readouterr().out


def test_every_preset_has_a_line_with_its_paper_and_a_line_with_its_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys).splitlines()
    for name in presets("method"):
        [place] = [number for number, line in enumerate(lines) if line.startswith(f"{name}  ")]
        assert re.search(r"arXiv:\d{4}\.\d{5}", lines[place])
        assert lines[place].endswith(".") and lines[place + 1].startswith("    ") and "=" in lines[place + 1]
    [grpo] = [line for line in lines if line.startswith("grpo  ")]
    assert grpo == "grpo  GRPO, arXiv:2402.03300 (DeepSeekMath), without the divergence."


@pytest.mark.parametrize("name", presets("method"))
def test_the_settings_of_a_preset_given_one_by_one_make_the_same_run(name: str) -> None:
    """From the defaults, which differ from the preset grpo in the reduction alone."""
    built = load(["policy.path=/mine", "objective.reduction=token_mean", *changed(name)])
    assert replace(built, method=name) == load(["policy.path=/mine", f"method={name}"])


def test_one_method_is_shown_with_its_use_its_equation_and_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "dph_f")
    assert "Use it to raise Pass@1 while Pass@k" in text
    assert "L = L_DAPO(explored) + eta mean_{rehearsed tokens} f(u)" in text
    assert "\n  objective.clip.high=0.28\n" in text and "\n  objective.terms.divergence.name=forward_kl\n" in text
    assert "](" not in text, "links are for pages"


def test_an_unknown_method_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "dhp_f"]) == 2
    assert "did you mean 'dph_f'?" in capsys.readouterr().err
