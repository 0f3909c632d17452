"""Check that every command, setting and link of the docs, and every setting in a comment of a preset, exists."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from configs.config import Config
from configs.explain import NAME, explain, sections
from configs.explain import settings as all_settings
from configs.load import load, section_of
from orchestrator.commands.parser import parser
from orchestrator.evaluation.record import split_run
from orchestrator.planning.request import split_words

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PRESETS = sorted((ROOT / "configs").glob("*s/*.yaml"))
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```|^((?: {4}.*\n)+)", re.MULTILINE | re.DOTALL)
"""Shell blocks, fenced or indented."""
COMMAND = re.compile(r"^ *(breadth (?:[^\n']|'[^']*')*)$", re.MULTILINE)
"""A command; a quoted argument may contain line breaks."""
LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)")
SPAN = re.compile(r"`([^`]+)`")
DOTTED = re.compile(r"(?<![\w./$-])([a-z_]+(?:\.(?:[a-z_][a-z_0-9]*|[A-Z]+)(?:\[\d+\])?)+)(?![\w/(])")
ASSIGNED = re.compile(r"(?<![\w./-])([a-z_]+)=")
SECTIONS = {f.name for f in fields(Config) if section_of(get_type_hints(Config)[f.name])}
PLACEHOLDERS = {"key"}
"""`key=value` stands for any setting."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands() -> Iterator[Any]:
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text()):
            text = (block[1] or block[2]).replace("\\\n", " ")
            for command in COMMAND.finditer(text):
                words = shlex.split(command[1], comments=True)[1:]
                yield pytest.param(words, id=f"{name(page)}: {' '.join(words)[:80]}")


def exists(key: str) -> bool:
    """Whether a dotted key is a setting or a section; any key below a task's options or a role's environment is one."""
    if re.match(r"((task|replay|inspect_task\.others\.\w+)\.options|placement\.environment)\.", key):
        return True
    try:
        return bool(explain(key))
    except ValueError:
        return False


def field_names() -> set[str]:
    """The names of all settings and sections, without the sections around them."""
    keys = [*(setting.key for setting in all_settings()), *(section for section, _ in sections())]
    return {part for key in keys for part in key.split(".")} - {"", NAME}


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def settings(text: str) -> list[str]:
    """Dotted keys of `text` that start with a section."""
    found = [match[1] for match in DOTTED.finditer(text)]
    return [key for key in found if key.partition(".")[0] in SECTIONS and not key.endswith((".py", ".md", ".html"))]


@pytest.mark.parametrize("words", commands())
def test_every_command_of_the_docs_is_accepted(words: list[str]) -> None:
    options = parser().parse_args(words)
    if hasattr(options, "overrides"):
        run, overrides = split_run(options.overrides)
        assert not run or options.command == "evaluate"
        _, overrides = split_words(overrides) if options.command == "plan" else (None, overrides)
        load(overrides)  # without the file of `--config`, which is on the reader's machine


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_named_in_the_docs_exists(page: Path) -> None:
    spans = [" ".join(span.split()) for span in SPAN.findall(prose(page))]
    spans = [span for span in spans if "unknown key" not in span]  # an error message about a key that does not exist
    unknown = [key for span in spans for key in settings(span) if not exists(key)]
    known = field_names() | PLACEHOLDERS
    words = [word for span in spans if "(" not in span for word in ASSIGNED.findall(span)]
    assert unknown + [word for word in words if word not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_to_another_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        file, _, anchor = link.partition("#")
        if link.startswith("http"):
            continue
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("preset", PRESETS, ids=name)
def test_every_setting_named_in_a_comment_of_a_preset_exists(preset: Path) -> None:
    comments = "\n".join(line for line in preset.read_text().splitlines() if line.lstrip().startswith("#"))
    assert [key for key in settings(comments) if not exists(key)] == []


def test_the_check_finds_settings_that_do_not_exist() -> None:
    found = settings("`references.slow.share=1` and `objective.terms.NAME.anchor`, `task.options.domains[1].name`")
    assert [exists(key) for key in found] == [False, True, True]
    assert not exists("objective.divergence.name") and not exists("objective.overlong.share")
    assert not exists("objective.reduction.kind") and exists("references.teacher.path")
