"""The table of legal divergence terms: it decides every combination, and every legal one has a wiring."""

import itertools
from typing import get_args

import pytest

from configs.divergences import DIVERGENCES
from configs.forms import FORMS, OPTIONS, Estimator, Key, Level, Route, Wiring, form_of
from configs.terms import TermConfig
from objectives.divergence.wirings import WIRINGS

KEYS: list[Key] = list(itertools.product(get_args(Route), get_args(Level), get_args(Wiring), get_args(Estimator)))


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_every_combination_is_legal_or_refused_with_a_setting_and_a_rule(key: Key) -> None:
    form = form_of(key)
    route, level, wiring, estimator = key
    choices = {"route": route, "level": level, "wiring": wiring, "estimator": estimator}
    name = "reverse_kl" if estimator != "supervised" else "forward_kl"
    if form.refused[1]:
        assert form.refused[0] in choices
        with pytest.raises(ValueError, match=rf"^{form.refused[0]}: .*got "):
            TermConfig(name=name, **choices)  # type: ignore[arg-type]
    else:
        assert TermConfig(name=name, **choices)  # type: ignore[arg-type]


def test_every_row_of_the_table_is_reached() -> None:
    assert {id(form) for form in FORMS} == {id(form_of(key)) for key in KEYS}


def test_the_legal_forms_are_exactly_those_that_have_a_wiring() -> None:
    legal = {key[:3] for key in KEYS if not form_of(key).refused[1]}
    assert legal == set(WIRINGS)


def test_options_name_fields_of_a_term_with_their_defaults_and_rows_refuse_only_these() -> None:
    default = TermConfig(name="reverse_kl")
    assert {name: getattr(default, name) for name in OPTIONS} == OPTIONS
    extra = {"anchor=old", "anchor=other", "weights", "weights.entropy_power"}
    assert {name for form in FORMS for name in form.options} <= {*OPTIONS, *extra}
    assert {name for form in FORMS for name in form.divergences} <= set(DIVERGENCES)
