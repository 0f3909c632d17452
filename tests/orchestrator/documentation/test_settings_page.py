"""The page of all settings in the docs."""

from pathlib import Path

from configs.explain import settings
from orchestrator.documentation.settings_page import page

PAGE = Path(__file__).resolve().parents[3] / "docs" / "settings.md"


def test_the_page_of_settings_in_the_docs_is_generated_from_the_code() -> None:
    assert PAGE.read_text() == page(), "run: python -m orchestrator.documentation.settings_page"


def test_the_page_lists_every_setting_once() -> None:
    names = [setting.key.rpartition(".")[2] for setting in settings()]
    text = page().partition("## `task.options`")[0]
    assert sorted(line.split("`")[1] for line in text.splitlines() if line.startswith("| `")) == sorted(names)
