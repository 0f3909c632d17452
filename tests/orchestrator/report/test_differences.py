"""Settings of runs in a report: what differs between them, and what is not from their presets."""

from pathlib import Path

from configs.load import load, to_yaml
from orchestrator.report.differences import differences
from orchestrator.report.style import table


def run(folder: Path, name: str, *settings: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "config.yaml").write_text(to_yaml(load([f"name={name}", *settings])))
    return folder / name


def test_two_runs_show_the_settings_that_differ_and_those_that_both_changed(tmp_path: Path) -> None:
    runs = {
        "low": run(tmp_path, "low", "learner.learning_rate=1e-6", "steps=33"),
        "high": run(tmp_path, "high", "learner.learning_rate=1e-5", "steps=33"),
    }
    between, _, shared = differences(runs).partition("Settings of all runs that differ from the presets")
    assert "<th>setting</th><th>low</th><th>high</th>" in between
    assert "<td><b>learner.<wbr>learning_<wbr>rate</b></td><td>1e-06</td><td>1e-05</td>" in between
    assert between.count("<tr>") == 2, "the header and one setting: names and paths of runs are left out"
    assert f"<td><b>steps</b></td><td>33</td><td>{load([]).steps}</td>" in shared and shared.count("<tr>") == 2


def test_one_run_shows_what_differs_from_its_method_and_scale(tmp_path: Path) -> None:
    html = differences({"one": run(tmp_path, "one", "method=dph_f", "scale=cpu", "lag=2")})
    assert "between the runs" not in html and "Presets: method=dph_f scale=cpu." in html
    assert "<td><b>lag</b></td><td>2</td>" in html and html.count("<tr>") == 2
    same = differences({"same": run(tmp_path, "same", "method=dph_f", "scale=cpu")})
    assert "None. Presets: method=dph_f scale=cpu." in same and "<table" not in same


def test_sections_of_two_methods_differ_as_a_whole_where_one_lacks_them(tmp_path: Path) -> None:
    html = differences({name: run(tmp_path, name, f"method={name}") for name in ("grpo", "dph_f")})
    assert "<td><b>method</b></td><td>grpo</td><td>dph_<wbr>f</td>" in html
    assert "<td><b>objective.<wbr>terms</b></td><td>{}</td><td>(none)</td>" in html


def test_settings_that_cannot_be_read_or_name_no_preset_are_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path, "one")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("method: grpo", "method: of_another_version"))
    assert differences({"one": folder, "absent": tmp_path / "absent"}) == ""
    (folder / "config.yaml").write_text("method: [")
    assert differences({"one": folder}) == ""


def test_long_names_break_between_their_words() -> None:
    shown = table("", ["setting", "value"], [["sampling.max_new_tokens", "sequence_mean<b>"]], words=True)
    assert "<b>sampling.<wbr>max_<wbr>new_<wbr>tokens</b>" in shown
    assert "<td>sequence_<wbr>mean&lt;b&gt;</td>" in shown
