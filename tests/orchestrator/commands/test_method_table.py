from pathlib import Path

from configs.load import presets
from orchestrator.commands.method_table import table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods" / "table.md"


def test_the_table_of_presets_in_the_docs_is_what_the_configs_say() -> None:
    page = table()
    assert PAGE.read_text() == page, "run: python -m orchestrator.commands.method_table"
    assert all(f"| [`{name}`]({name}.md) |" in page for name in presets("method"))
