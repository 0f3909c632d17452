"""Explanations of settings: every field has one, and the nearest key is offered for a mistyped one."""

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from configs.config import Config
from configs.divergences import DIVERGENCES
from configs.explain import explain, field_meanings, sections, settings
from configs.load import section_of
from tasks.registry import TASKS


def schemas(schema: type) -> list[type]:
    """Return a section and all sections below it."""
    inner = [section_of(hint) for hint in get_type_hints(schema).values()]
    return [schema, *(found for section in inner if section for found in schemas(section))]


@pytest.mark.parametrize("schema", [*dict.fromkeys(schemas(Config)), *(options for options, _ in TASKS.values())])
def test_every_field_of_the_settings_has_a_docstring(schema: Any) -> None:
    assert is_dataclass(schema)
    assert [field.name for field in fields(schema) if not field_meanings(schema).get(field.name)] == []
    assert schema.__doc__ and not schema.__doc__.startswith(schema.__name__)


def test_a_setting_is_explained_with_type_default_and_meaning() -> None:
    [low] = explain("objective.clip.low")
    assert (low.key, low.type, low.default) == ("objective.clip.low", "float", "0.2")
    assert (
        low.meaning
        == "The ratio is clipped to [1 - low, 1 + high]; 1: no lower bound. gmpo: the log-ratio to [-low, high]."
    )
    [dtype] = explain("policy.dtype")
    assert dtype.type == "float32 | bfloat16"
    assert explain("objective.clip.dual")[0].default == "null"
    assert explain("objective.terms.NAME.name")[0].type == " | ".join(DIVERGENCES)


def test_a_name_of_the_users_own_stands_for_every_name() -> None:
    [alpha] = explain("objective.terms.teacher.alpha")
    assert alpha.key == "objective.terms.NAME.alpha"
    assert explain("references.slow.every")[0].key == "references.NAME.every"


def test_a_section_is_explained_setting_by_setting() -> None:
    keys = [setting.key for setting in explain("objective.terms.divergence.coefficient")]
    assert keys[0] == "objective.terms.NAME.coefficient.kind" and len(keys) == 8
    assert len(explain("objective")) > 60


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("objective.clip.hihg", r"did you mean 'objective\.clip\.high'"),
        ("objectives", "did you mean 'objective'"),
        ("sampling.top_p", "truncated sampling biases every importance ratio"),
        ("", "must be a setting or a section"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        explain(key)


def test_every_section_of_a_setting_is_listed() -> None:
    known = {key for key, _ in sections()}
    assert {setting.section for setting in settings()} <= known
    assert all(meaning for _, meaning in sections())
