"""The table of known sets in docs/datasets.md."""

from pathlib import Path

from orchestrator.documentation.set_table import table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


def test_the_table_of_known_sets_is_that_of_their_files() -> None:
    assert table() in PAGE.read_text(), f"the table of {PAGE.name} must be:\n{table()}"
