from pathlib import Path

from configs.load import load, presets
from orchestrator.documentation.method_table import page

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods" / "table.md"


def test_the_page_of_presets_in_the_docs_agrees_with_the_presets() -> None:
    expected = page()
    assert PAGE.read_text() == expected, "run: python -m orchestrator.documentation.method_table"
    assert all(f"| [`{name}`]({name}.md) |" in expected for name in presets("method"))


def test_the_page_has_a_row_for_every_term_and_every_reference_of_a_preset() -> None:
    rows = PAGE.read_text().splitlines()
    for name in presets("method"):
        cfg = load([f"method={name}"])
        for key, term in cfg.objective.terms.items():
            cells = [key, term.name, term.anchor, term.route, term.wiring, term.estimator]
            row = f"| [`{name}`]({name}.md) | " + " | ".join(f"`{cell}`" for cell in cells) + " |"
            assert any(line.startswith(row) for line in rows), row
            kind = f"| [`{name}`]({name}.md) | `{key}` | `{term.coefficient.kind}` |"
            assert any(line.startswith(kind) for line in rows), kind
        for key, reference in cfg.references.items():
            row = f"| [`{name}`]({name}.md) | `{key}` | `{reference.update}` |"
            assert any(line.startswith(row) for line in rows), row


def test_the_page_has_every_advantage_and_reduction_that_differs_from_the_default() -> None:
    text = PAGE.read_text()
    for name in presets("method"):
        objective = load([f"method={name}"]).objective
        assert objective.reduction == "token_mean" or f"[`{name}`]({name}.md) | `{objective.reduction}` |" in text
        assert objective.advantage == "group_zscore" or f"[`{name}`]({name}.md) | `{objective.advantage}` |" in text
