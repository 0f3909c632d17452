"""The table of an evaluation in a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from orchestrator.report.evaluation import Evaluation
from orchestrator.report.terminal import print_evaluation
from orchestrator.report.verdicts import beyond_sharpening, survival
from tests.orchestrator.report.test_report import evaluation, measured

NAMES = ("step-000002", "step-000004", "a_policy_with_a_name_of_more_than_twenty_characters")


def printed(shown: Evaluation, width: int = 80) -> list[str]:
    out = io.StringIO()
    print_evaluation(shown, Console(file=out, width=width))
    table, _, _ = out.getvalue().partition("Did Pass@k survive?")
    assert max(map(len, table.splitlines())) <= width
    return [line.rstrip() for line in table.splitlines()]


@pytest.mark.parametrize("ks", [[1, 4], [1, 2, 4, 8], [*range(1, 9)]])
def test_no_name_interval_or_value_is_cut(ks: list[int]) -> None:
    policies = [measured("base", [4, 2, 1, 0])] + [measured(name, [8, 2, 0, i]) for i, name in enumerate(NAMES)]
    lines = printed(evaluation(ks, *policies))
    text = "\n".join(lines)
    assert "…" not in text
    for name in NAMES[:2]:
        assert sum(name in line for line in lines) == 2, "in the results, and in the table of reward against KL"
    assert NAMES[2][:20] in text and NAMES[2][20:40] in text
    header = next(line for line in lines if "policy" in line)
    assert "Pass@1 " in header and f"Pass@{ks[-1]}" in header
    assert ("The report has every k" in " ".join(text.split())) == (len(ks) > 3)


def test_a_change_that_is_rounding_has_no_sign_of_a_loss() -> None:
    base = measured("base", [1, 2, 3])
    same = measured("same", [3, 2, 1])
    assert "-0.000" not in "\n".join(printed(evaluation([1, 3], base, same)))


def test_losses_at_many_k_are_counted_and_the_largest_is_told() -> None:
    lost = evaluation([*range(1, 9)], measured("base", [4, 2, 1, 2] * 8), measured("p", [2, 0, 0, 0] * 8))
    assert survival(lost).startswith("No in p (7 of 7 k above 1, most of all Pass@8 -0.75, ")
    assert beyond_sharpening(lost).startswith("No in p (below at every k).")
