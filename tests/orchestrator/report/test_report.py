"""The report: one self-contained HTML file, whatever the policy wrote and whatever is missing."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from orchestrator.report.plots import running_mean
from orchestrator.report.write import write_report
from orchestrator.watch.logbook import encode
from orchestrator.watch.passk import Measurement, PromptResult

HOSTILE = "</code><script>alert('x')</script><img src=http://evil.test/a.png onerror=alert(1)>\u202e\x00\ud800&amp;"


class Page(HTMLParser):
    """Collects what a browser loads, runs or shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def sources(self) -> list[str]:
        return [value for name, value in self.attributes if name in ("src", "href", "srcset", "action", "data")]


def measured(name: str, corrects: list[int], answer: str = "1+2") -> Measurement:
    prompts = tuple(
        PromptResult(
            prompt_id=f"p{i}",
            prompt_text=f"problem {i} {answer}",
            total=8,
            correct=correct,
            ungraded=0,
            distinct_correct=min(correct, 1),
            majority_correct=correct > 4,
            tokens=40,
            negative_logp=20.0,
            kl_to_base=0.5,
            correct_answers=(answer,) if correct else (),
            wrong_answers=(f"wrong {answer}",),
        )
        for i, correct in enumerate(corrects)
    )
    return Measurement(name=name, step=0, answers=8, prompts=prompts)


def run_directory(path: Path, steps: int = 6) -> Path:
    path.mkdir(parents=True)
    lines = []
    for step in range(steps):
        record = {"step": step, "time": 0.0, "reward": 0.3 + 0.01 * step, "entropy": float("nan") if step == 2 else 1.0}
        if step % 2 == 0:
            for k in (1, 8):
                value = {f"heldout/pass@{k}": 0.5, f"heldout/pass@{k}/low": 0.4, f"heldout/pass@{k}/high": 0.6}
                record.update(value)
        lines.append(encode(record))
    (path / "metrics.jsonl").write_bytes(b"".join(lines))
    (path / "config.yaml").write_text(f"name: demo\nnote: {HOSTILE.encode('ascii', 'ignore').decode()}\n")
    return path


def test_the_report_has_its_figures_table_problems_and_settings(tmp_path: Path) -> None:
    output = write_report(
        tmp_path / "out" / "report.html",
        runs={"grpo": run_directory(tmp_path / "grpo"), "dph_f": run_directory(tmp_path / "dph_f")},
        measurements={
            "base": measured("base", [4, 1, 0, 2]),
            "grpo": measured("grpo", [8, 0, 0, 0]),
            "dph_f": measured("dph_f", [6, 1, 1, 2]),
        },
        base="base",
        ks=[1, 4, 8],
        title="Demo",
    )
    page = Page(output)
    pictures = sorted(output.parent.glob("report-*.png"))
    assert [p.name for p in pictures] == ["report-pass-at-k.png", "report-pass-over-steps.png", "report-training.png"]
    inside = {value.partition("base64,")[2] for name, value in page.attributes if name == "src"}
    assert inside == {base64.b64encode(p.read_bytes()).decode() for p in pictures}
    for picture in pictures:
        pixels = matplotlib.image.imread(picture)
        assert pixels.shape[0] > 400 and pixels.shape[1] > 800 and pixels[..., :3].std() > 0.05
    for shown in (
        "Pass@8",
        "Retention",
        "not by grpo (2)",
        "solved by dph_f, not by the base (1)",
        "0.333",
        "name: demo",
        "dph_f: settings",
    ):
        assert shown in page.text, shown
    assert "No data was recorded" not in page.text


def test_hostile_answers_titles_and_settings_are_shown_as_text_and_no_external_resource_is_loaded(
    tmp_path: Path,
) -> None:
    output = write_report(
        tmp_path / "report.html",
        runs={"run<b>": run_directory(tmp_path / "run")},
        measurements={"base": measured("base", [4, 0], HOSTILE), "run<b>": measured("run", [0, 4], HOSTILE * 50)},
        base="base",
        ks=[1, 8],
        title=HOSTILE,
    )
    page = Page(output)
    assert not {"script", "iframe", "link", "object", "embed", "form", "a", "base"} & set(page.tags)
    assert page.tags.count("img") == 3 and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert('x')</script>" in page.text
    assert not {"\u202e", "\x00", "\ud800"} & set(page.text)
    assert any("default-src 'none'" in value for name, value in page.attributes if name == "content")


def test_the_page_has_a_note_for_everything_that_is_missing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    output = write_report(
        tmp_path / "report.html", runs={"empty": empty}, measurements={}, base="base", ks=[1], title="Nothing yet"
    )
    page = Page(output)
    assert "metrics.jsonl is missing or has no records" in page.text
    assert "There is no evaluation" in page.text
    assert page.text.count("No data was recorded for this figure") == 3
    assert "config.yaml is missing" in page.text
    assert not list(tmp_path.glob("*.png"))


def test_a_run_that_recorded_only_a_reward_has_a_reward_curve(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward": 0.5}) + '\n{"step": 2, "rew')
    output = write_report(tmp_path / "report.html", runs={"run": run}, measurements={}, base="base", ks=[1], title="t")
    assert [p.name for p in tmp_path.glob("*.png")] == ["report-training.png"]
    assert Page(output).text.count("No data was recorded for this figure") == 2


def test_an_evaluation_on_other_prompts_is_left_out_and_named(tmp_path: Path) -> None:
    measurements = {"base": measured("base", [4, 0]), "odd": measured("odd", [1, 2, 3])}
    output = write_report(tmp_path / "r.html", runs={}, measurements=measurements, base="base", ks=[1, 8], title="t")
    page = Page(output)
    assert "Evaluation odd is left out" in page.text and "same prompts" in page.text
    assert "odd: problems lost" not in page.text


def test_a_base_that_was_not_evaluated_is_refused(tmp_path: Path) -> None:
    measurements = {"grpo": measured("grpo", [1])}
    with pytest.raises(ValueError, match=r"base: must be one of the measurements \['grpo'\], got 'base'"):
        write_report(tmp_path / "r.html", runs={}, measurements=measurements, base="base", ks=[1], title="t")


def test_a_running_mean_keeps_constants_and_length() -> None:
    assert running_mean([2.0] * 7, 5) == [2.0] * 7
    assert running_mean([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]
