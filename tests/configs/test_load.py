"""Load settings from layers: precedence, presets, errors, and the YAML of a run loaded again."""

import re
from pathlib import Path

import pytest

from configs.config import Config
from configs.load import load, presets, to_yaml


def test_without_any_layer_the_settings_are_the_defaults_with_the_two_default_presets() -> None:
    cfg = load()
    assert (cfg.method, cfg.scale, cfg.steps) == ("grpo", "cpu", Config().steps)
    assert cfg == load(["method=grpo", "scale=cpu"])


def test_a_later_layer_overrides_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field is set by one layer fewer than the field before it."""
    for folder in ("methods", "scales"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("configs.load.HERE", tmp_path)
    method, scale, file = (tmp_path / n for n in ("methods/grpo.yaml", "scales/cpu.yaml", "user.yaml"))
    method.write_text("{steps: 1, lag: 1, seed: 1, groups_per_step: 1}")
    scale.write_text("{steps: 2, lag: 2, seed: 2}")
    file.write_text("{steps: 3, lag: 3}")
    cfg = load(["steps=4"], str(file))
    assert (cfg.steps, cfg.lag, cfg.seed, cfg.groups_per_step, cfg.name) == (4, 3, 2, 1, Config().name)


def test_layers_merge_inside_a_section(tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text("objective: {clip: {low: 0.1}}\n")
    clip = load(["method=dapo", "objective.clip.dual=4"], str(file)).objective.clip
    assert (clip.low, clip.high, clip.dual) == (0.1, 0.28, 4.0)


def test_the_last_of_two_overrides_of_a_key_is_used() -> None:
    assert load(["steps=3", "steps=4"]).steps == 4


def test_the_file_chooses_the_presets_and_overrides_replace_its_choice(tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text("method: dapo\n")
    assert load([], str(file)).objective.clip.high == 0.28
    cfg = load(["method=grpo"], str(file))
    assert (cfg.method, cfg.objective.clip.high) == ("grpo", 0.2)


@pytest.mark.parametrize(
    ("method", "scale"),
    [*((method, "cpu") for method in presets("method")), *(("dph_f", scale) for scale in presets("scale"))],
)
def test_every_preset_equals_the_config_loaded_from_its_yaml(method: str, scale: str, tmp_path: Path) -> None:
    cfg = load([f"method={method}", f"scale={scale}", "runs='a: #b'", "monitor.stop_if=['retention < 0.5']"])
    assert (cfg.method, cfg.scale, cfg.runs) == (method, scale, "a: #b")
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(cfg))
    assert load([], str(file)) == cfg


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "stepz: unknown key (did you mean 'steps'?), got 3"),
        ("polcy.path=x", "polcy.path: unknown key (did you mean 'policy.path'?), got 'x'"),
        ("sampling.group_sise=3", "sampling.group_sise: unknown key (did you mean 'sampling.group_size'?), got 3"),
        (
            "objective.terms.divergence.coeficient.value=1",
            "objective.terms.divergence.coeficient.value: unknown key (did you mean "
            "'objective.terms.divergence.coefficient.value'?), got 1",
        ),
        (
            "objective.terms.mine.nam=reverse_kl",
            "objective.terms.mine.nam: unknown key (did you mean 'objective.terms.mine.name'?), got 'reverse_kl'",
        ),
        ("references.mine.pth=x", "references.mine.pth: unknown key (did you mean 'references.mine.path'?), got 'x'"),
        (
            "references.mine=3",
            "references.mine: must be a section of the settings path, soup, reads, update, every, mixing_weight, "
            "iterates, threshold, got 3",
        ),
        ("references=[1]", "references: must be a mapping, got [1]"),
        ("objective.terms=[1]", "objective.terms: must be a mapping, got [1]"),
        ("objective.terms=null", "objective.terms: must be a mapping, got None"),
        ("task.options=[1]", "task.options: must be a mapping, got [1]"),
        ("references.mine.soup=[1]", "references.mine.soup: must be a mapping, got [1]"),
        ("evaluate.checkpoints={a: b}", "evaluate.checkpoints: must be a list, got {a: 'b'}"),
        (
            "objective.terms..name=reverse_kl",
            "objective.terms: must have names of letters, digits, '_' and '-', got ''",
        ),
        ("references.a/b.every=1", "references: must have names of letters, digits, '_' and '-', got 'a/b'"),
        ("qqqqqq=1", "qqqqqq: unknown key, got 1"),
    ],
)
def test_the_error_of_a_wrong_key_names_its_path_and_the_nearest_key(override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load([override])
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["method", "scale"])
def test_the_error_of_an_unknown_preset_lists_the_known_ones_and_the_nearest(kind: str) -> None:
    unknown = presets(kind)[0] + "x"
    with pytest.raises(ValueError) as caught:
        load([f"{kind}={unknown}"])
    known = ", ".join(presets(kind))
    assert str(caught.value).startswith(f"{kind}: must be one of {known} (did you mean ")
    assert str(caught.value).endswith(f"got {unknown!r}")


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("steps=abc", "steps"),
        ("steps=1.5", "steps"),
        ("steps=null", "steps"),
        ("steps=", "steps"),
        ("steps.low=3", "steps"),
        ("objective.terms.mine.coefficient.value=.inf", "objective.terms.mine.coefficient.value"),
        ("steps=${nope}", "steps"),
        ("policy=foo", "policy"),
        ("policy.dtype=float16", "policy.dtype"),
        ("policy.chat_template=perhaps", "policy.chat_template"),
        ("task.options=3", "task.options"),
        ("monitor.ks=3", "monitor.ks"),
        ("monitor.ks=[a]", "monitor.ks[0]"),
        ("objective.terms.divergence.name=renyi", "objective.terms.divergence.name"),
        ("method=", "method"),
    ],
)
def test_the_error_of_a_value_of_the_wrong_type_is_one_line_that_names_the_field(override: str, field: str) -> None:
    with pytest.raises(ValueError) as caught:
        load([override])
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["steps", "steps=[1", "steps={", "steps=@", "=3"])
def test_the_error_of_an_invalid_override_quotes_it(override: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(["seed=1", override])
    assert str(caught.value).startswith("override: must read key=value")
    assert repr(override) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_task_options_accept_any_key_because_the_task_checks_them() -> None:
    cfg = load(["task.options.numbers=4", "task.options.anything.deeper=[1,2]"])
    assert cfg.task.options == {"numbers": 4, "anything": {"deeper": [1, 2]}}


@pytest.mark.parametrize("text", ["- a\n- b\n", "5\n", "steps: [\n", "steps: 1\nsteps: 2\n", "\x00"])
def test_the_error_of_a_file_without_a_mapping_names_the_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        load([], str(file))
    assert str(caught.value).startswith(f"config file {file}: must be ")


def test_a_typo_in_a_file_has_the_same_error_as_one_in_an_override(tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text("learner: {learning_rat: 1}\n")
    with pytest.raises(
        ValueError, match=r"^learner\.learning_rat: unknown key \(did you mean 'learner.learning_rate'\?\)"
    ):
        load([], str(file))
    file.write_text("learner:\n")
    with pytest.raises(ValueError, match=r"^learner: must be a section of the settings learning_rate, .*, got None"):
        load([], str(file))


def test_an_empty_file_changes_nothing_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text("")
    assert load([], str(file)) == load()
    with pytest.raises(ValueError, match=r"^config file: must exist, got '.*gone\.yaml'"):
        load([], str(tmp_path / "gone.yaml"))


def test_null_removes_a_term_of_the_preset_and_the_saved_settings_stay_without_it(tmp_path: Path) -> None:
    cfg = load(["method=gkd", "objective.terms.data=null"])
    assert list(cfg.objective.terms) == ["divergence"]
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(cfg))
    assert load(file=str(saved)) == cfg
    assert (
        load(
            ["method=distillm", "objective.terms={divergence: null, data: null}", "objective.entropy_bonus=1"]
        ).objective.terms
        == {}
    )


def test_a_file_with_every_section_is_used_without_presets(tmp_path: Path) -> None:
    cfg = load(["method=dph_f"])
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(cfg).replace("method: dph_f", "method: a_preset_that_was_renamed"))
    assert load(file=str(saved)).objective == cfg.objective
    saved.write_text("method: a_preset_that_was_renamed")
    with pytest.raises(ValueError, match=r"^method: must be one of"):
        load(file=str(saved))


def test_a_preset_that_a_file_with_every_section_would_hide_is_refused(tmp_path: Path) -> None:
    cfg = load(["method=dph_f"])
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(cfg))
    assert load(["method=dph_f", "scale=cpu"], str(saved)) == cfg
    for override in ("method=grpo", "scale=1gpu"):
        with pytest.raises(ValueError, match=r"^(method|scale): must be '(dph_f|cpu)' or left out, because .* got '"):
            load([override], str(saved))


def test_a_method_is_refused_beside_a_file_that_sets_the_objective_of_another(tmp_path: Path) -> None:
    """As a run's config.yaml from which one section was removed, so that it does not set every section."""
    file = tmp_path / "user.yaml"
    file.write_text(to_yaml(load(["method=grpo"])).replace("warm_start:", "evaluate_:").partition("evaluate_:")[0])
    assert load(["method=grpo", "scale=cpu"], str(file)).method == "grpo"
    with pytest.raises(ValueError, match=r"^method: must be 'grpo' or left out, because .* sets an objective for that"):
        load(["method=dph_f"], str(file))
    file.write_text("objective: {entropy_bonus: 0.01}\n")
    assert load(["method=dph_f"], str(file)).objective.entropy_bonus == 0.01


def test_errors_name_the_full_key_as_the_user_types_it() -> None:
    for overrides, key in (
        (["method=distillm", "objective.terms.data.coefficient.value=-1"], "objective.terms.data.coefficient.value"),
        (["method=tip", "objective.terms.divergence.weights.keep=2"], "objective.terms.divergence.weights.keep"),
        (["references.slow.mixing_weight=0"], "references.slow.mixing_weight"),
        (["references.slow.iterates=0"], "references.slow.iterates"),
        (["objective.terms.x.coefficient.value=1"], "objective.terms.x.name"),
        (["warm_start.layers=0"], "warm_start.layers"),
    ):
        with pytest.raises(ValueError, match=rf"^{re.escape(key)}: "):
            load(overrides)
