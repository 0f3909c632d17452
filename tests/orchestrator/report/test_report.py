"""The report: one self-contained HTML file, whatever the policy wrote and whatever is missing."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from configs.heldout import Decoding
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.report.curves import Sources, frontier_caption
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.inputs import run_facts
from orchestrator.report.plots import Curve, Panel, panel_svg, running_mean
from orchestrator.report.verdicts import beyond_sharpening, survival
from orchestrator.report.write import write_report
from orchestrator.watch.logbook import encode
from orchestrator.watch.measurement import Measurement, PromptResult

HOSTILE = "</code><script>alert('x')</script><img src=http://evil.test/a.png onerror=alert(1)>\u202e\x00\ud800&amp;"


class Page(HTMLParser):
    """Collects what a browser loads, runs or shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.figures: list[str] = []
        """What each figure shows."""
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "svg" and ("role", "img") in attrs:
            self.figures += [value or "" for name, value in attrs if name == "aria-label"]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def sources(self) -> list[str]:
        return [
            value
            for name, value in self.attributes
            if name in ("src", "href", "xlink:href", "srcset", "action", "data")
        ]


def measured(name: str, corrects: list[int], answer: str = "1+2", temperature: float = 1.0) -> Measurement:
    prompts = tuple(
        PromptResult(
            prompt_id=f"p{i}",
            prompt_text=f"problem {i} {answer}",
            total=8,
            correct=correct,
            ungraded=0,
            distinct_correct=min(correct, 1),
            verifier="countdown",
            votes=(correct,) if correct else (),
            right_votes=(correct,) if correct else (),
            tokens=40,
            negative_logp=20.0,
            log_probs=tuple(-1.0 - 0.1 * j for j in range(8)),
            kl_to_base=0.5,
            correct_answers=(answer,) if correct else (),
            wrong_answers=(f"wrong {answer}",),
            wrong_reasons=("wrong: evaluates to 9",),
        )
        for i, correct in enumerate(corrects)
    )
    return Measurement(name=name, step=0, temperature=temperature, answers=8, prompts=prompts)


def evaluation(ks: list[int], *policies: Measurement) -> Evaluation:
    """An evaluation at temperature 1; the first policy is the base, which was also decoded greedily."""
    measurements = {policy.name: {1.0: policy} for policy in policies}
    base = policies[0]
    corrects = [8 * (p.correct > 4) for p in base.prompts]
    measurements[base.name][0.0] = measured(base.name, corrects, temperature=0.0)
    return Evaluation(
        base=base.name,
        ks=ks,
        headline_k=16,
        sampling=Decoding(temperature=1.0, max_new_tokens=32),
        temperatures=[1.0],
        measurements=measurements,
        about={"task": "toy", "answers": 8, "date": "2026-01-31", "paths": {name: f"/{name}" for name in measurements}},
    )


def run_directory(path: Path, steps: int = 6, lag: int = 0) -> Path:
    path.mkdir(parents=True)
    lines = []
    for step in range(steps):
        record = {"step": step, "time": 0.0, "reward": 0.3 + 0.01 * step, "entropy": float("nan") if step == 2 else 1.0}
        record |= {"seconds/step": 2.0, "staleness": 0.0, "answer_length": 9.0 + step}
        if step % 2 == 0:
            for k in (1, 8):
                value = {f"heldout/pass@{k}": 0.5, f"heldout/pass@{k}/low": 0.4, f"heldout/pass@{k}/high": 0.6}
                record.update(value)
        lines.append(encode(record))
    (path / "metrics.jsonl").write_bytes(b"".join(lines))
    hostile = HOSTILE.encode("ascii", "ignore").decode().replace("\x00", "")
    facts = "method: grpo\nsteps: 6\ngroups_per_step: 2\nsampling: {group_size: 8}\n"
    (path / "config.yaml").write_text(f"{facts}name: {path.name}\nlag: {lag}\nnote: {hostile}\n")
    return path


def test_the_report_has_its_figures_table_problems_and_cost(tmp_path: Path) -> None:
    measurements = measured("base", [4, 1, 0, 2]), measured("grpo", [8, 0, 0, 0]), measured("dph_f", [6, 1, 1, 2])
    values = np.random.default_rng(0).normal(size=(3, 4, 3, 2))
    ids = tuple(f"p{i}" for i in range(4))
    scored = Likelihoods(names=("base", "grpo", "dph_f"), prompt_ids=ids, values=values)
    output = write_report(
        tmp_path / "out" / "report.html",
        runs={"grpo": run_directory(tmp_path / "grpo"), "dph_f": run_directory(tmp_path / "dph_f")},
        evaluation=replace(evaluation([1, 4, 8], *measurements), likelihoods=scored),
        title="Demo",
    )
    page = Page(output)
    assert sorted(path.name for path in output.parent.iterdir()) == ["report-frontier.png", "report.html"]
    pixels = matplotlib.image.imread(output.with_name("report-frontier.png"))
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800 and pixels[..., :3].std() > 0.05
    figures = [shown for shown in page.figures if not shown.startswith("Maj@k")]  # where final answers are noted
    assert figures == [
        "Pass@1 against Pass@8 (labels: temperature): Pass@8 against Pass@1",
        "Pass@k: fraction of problems against k (answers per problem)",
        "Pass@1: fraction of problems against step",
        "Pass@8: fraction of problems against step",
        "Reward: mean reward against step",
        "Entropy: nats per token against step",
        "Length of an answer: tokens against step",
        "Reward against KL (grey: answers of base; labels: n): Pass@1 against KL to the base (nats per answer)",
        figures[8],
        "Step: seconds against step",
    ]
    assert figures[8].startswith("Map of the policies (")
    for shown in (
        "Pass@8",
        "Retention",
        "not by grpo: 2",
        "solved by dph_f, not by the base: 1",
        "0.333",
        "Did Pass@k survive?",
        "Was anything learned beyond sharpening?",
        "4 held-out prompts of toy, 8 answers each",
        "grpo: method grpo, 5 of 6 steps of 2 x 8 answers",
        "2026-01-31",
        "wrong: evaluates to 9",
        "Seconds per step",
        "None: only the names differ.",
    ):
        assert shown in page.text, shown


def test_hostile_answers_titles_and_settings_are_shown_as_text_and_no_external_resource_is_loaded(
    tmp_path: Path,
) -> None:
    output = write_report(
        tmp_path / "report.html",
        runs={"run<b>": run_directory(tmp_path / "run"), HOSTILE: run_directory(tmp_path / "other", lag=1)},
        evaluation=evaluation([1, 8], measured("base", [4, 0], HOSTILE), measured("run<b>", [0, 4], HOSTILE * 50)),
        title=HOSTILE,
    )
    page = Page(output)
    assert not {"script", "iframe", "link", "object", "embed", "form", "a", "base", "img"} & set(page.tags)
    assert all(source.startswith("#") for source in page.sources), "only marks within the page"
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "http" not in "".join(value for _, value in page.attributes if HOSTILE[:20] not in value)
    assert "<script>alert('x')</script>" in page.text
    assert not {"\u202e", "\x00", "\ud800"} & set(page.text)
    assert any("default-src 'none'" in value for name, value in page.attributes if name == "content")


def test_a_part_without_data_is_left_out_and_what_is_missing_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    output = write_report(tmp_path / "report.html", runs={"empty": empty}, evaluation=None, title="Nothing yet")
    page = Page(output)
    assert "metrics.jsonl is missing or has no records" in page.text
    assert "There is no evaluation" in page.text
    assert not {"svg", "table", "h2"} & set(page.tags)
    assert not list(tmp_path.glob("*.png"))


def test_a_run_that_recorded_only_a_reward_has_a_reward_curve(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward": 0.5}) + '\n{"step": 2, "rew')
    page = Page(write_report(tmp_path / "report.html", runs={"run": run}, evaluation=None, title="t"))
    assert page.figures == ["Reward: mean reward against step"]


def test_domains_of_a_mixture_and_other_tasks_have_curves_of_their_own(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    named = {"pass@1": 0.3, "pass@8": 0.4, "pass@8/sums": 0.5, "beyond_sharpening/pass@8": 0.1, "code/pass@8": 0.0}
    named |= {"change/pass@1": 0.1, "change/pass@8": 0.1}
    record = {f"heldout/{key}{end}": value for key, value in named.items() for end in ("", "/low", "/high")}
    (run / "metrics.jsonl").write_bytes(encode({"step": 0, **record}))
    page = Page(write_report(tmp_path / "r.html", runs={"run": run}, evaluation=None, title="t"))
    assert page.figures == [
        f"{title}: {label} against step"
        for title, label in (
            ("Pass@1", "fraction of problems"),
            ("Pass@8", "fraction of problems"),
            ("Beyond sharpening, Pass@8", "margin"),
            ("code: Pass@8", "fraction of problems"),
            ("sums: Pass@8", "fraction of problems"),
        )
    ]


def test_a_value_that_no_policy_has_gets_no_column(tmp_path: Path) -> None:
    told = evaluation([1, 16], measured("base", [8, 8]), measured("p", [8, 4]))
    for by_temperature in told.measurements.values():
        for t, found in by_temperature.items():
            by_temperature[t] = replace(found, prompts=tuple(replace(p, kl_to_base=None) for p in found.prompts))
    page = Page(write_report(tmp_path / "r.html", runs={}, evaluation=told, title="t"))
    assert "Retention" in page.text
    for absent in ("Pass@16", "KL to base", "Expansion"):
        assert absent not in page.text, f"{absent}: 8 answers, no KL, and no problem that the base did not solve"


def test_the_answers_of_a_lost_problem_are_short_and_stand_beside_verdict_and_reason(tmp_path: Path) -> None:
    told = evaluation([1, 8], measured("base", [4] * 40), measured("p", [0] * 40, "long " * 1000))
    page = Page(write_report(tmp_path / "r.html", runs={}, evaluation=told, title="t"))
    assert "Lost: solved by the base, not by p: 40" in page.text and "25 further ones are not shown." in page.text
    assert page.text.count("wrong: evaluates to 9") == 15 and page.text.count("4 of 8 correct") == 15
    assert 400 < max(map(len, page.text.split("wrong: evaluates")[1:-1])) < 1_000, "a problem and its two answers"


def test_an_evaluation_whose_policies_have_other_prompts_is_refused(tmp_path: Path) -> None:
    odd = evaluation([1, 8], measured("base", [4, 0]), measured("odd", [1, 2, 3]))
    with pytest.raises(ValueError, match=r"measurements: must have the same prompts, got 2 of 'base' and 3 of 'odd'"):
        write_report(tmp_path / "r.html", runs={}, evaluation=odd, title="t")


def test_a_running_mean_keeps_constants_and_length() -> None:
    assert running_mean([2.0] * 7, 5) == [2.0] * 7
    assert running_mean([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]


def test_the_two_answers_name_every_policy_with_its_numbers() -> None:
    base = measured("base", [4, 2, 1, 2] * 8)
    told = evaluation([1, 4], base, measured("better", [8, 7, 6, 7] * 8), measured("lost", [2, 0, 0, 0] * 8))
    assert survival(told) == (
        "Yes in better (Pass@4 +0.24, +0.17 to +0.29): no interval with k above 1 is below 0. "
        "No in lost (Pass@4 -0.57, -0.65 to -0.48)."
    )
    assert beyond_sharpening(told) == (
        "Yes at every k in better (margin +0.59 at k = 4). No in lost (below at every k). "
        "No temperature of base reaches the Pass@1 of better. "
        "Beyond the power distribution of base (k = 1) too: better."
    )


def test_what_was_not_measured_is_not_told_as_a_result(tmp_path: Path) -> None:
    def ungraded(name: str) -> Measurement:
        whole = measured(name, [0, 0])
        prompts = tuple(replace(p, total=0, correct=0, ungraded=8, log_probs=()) for p in whole.prompts)
        return replace(whole, prompts=prompts)

    told = evaluation([1, 4], ungraded("base"), measured("p", [4, 2]))
    told.measurements["base"][0.0] = replace(ungraded("base"), temperature=0.0)
    assert survival(told) == "Not measured: no Pass@k with k above 1."
    hopeless = evaluation([1, 4], measured("base", [0, 0]), measured("p", [0, 1]))
    assert survival(hopeless) == "There was nothing to lose: base has no right answer."
    assert beyond_sharpening(told).startswith("Not measured: ")
    assert "nan" not in Page(write_report(tmp_path / "r.html", runs={}, evaluation=told, title="t")).text
    alone = evaluation([1], measured("base", [4, 2] * 8), measured("p", [5, 3] * 8))
    assert survival(alone) == "Not measured: no Pass@k with k above 1."
    assert beyond_sharpening(alone) == (
        "Yes at every k in p (margin +0.12 at k = 1). No temperature of base reaches the Pass@1 of p. "
        "Beyond the power distribution of base (k = 1) too: none of them."
    )


def test_the_power_distribution_is_that_of_temperature_1_and_of_exponents_with_enough_effective_answers() -> None:
    told = evaluation([1, 4], measured("base", [4, 2] * 4), measured("p", [4, 2] * 4))
    hot = replace(measured("base", [0, 0] * 4), temperature=1.3)
    told.measurements["base"] = {1.3: hot, **told.measurements["base"]}
    assert told.power[1].passes[1][0].mean() == pytest.approx(3 / 8)
    assert list(told.power) == [1], "8 answers are fewer than 4 x 4 effective ones"
    cold = evaluation([1], measured("base", [4, 2] * 4), measured("p", [4, 2] * 4))
    cold.measurements["base"] = {0.0: cold.measurements["base"][0.0]}
    assert cold.power == {}
    captions = [frontier_caption(Sources(runs={}, records={}, evaluation=each)) for each in (told, cold)]
    assert ["power distribution" in caption for caption in captions] == [False, False], "k = 4 is drawn"
    assert "power distribution" in frontier_caption(Sources(runs={}, records={}, evaluation=replace(told, ks=[1])))


def test_a_run_without_readable_settings_is_only_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: [")
    assert run_facts("mine", tmp_path, 1) == run_facts("mine", tmp_path / "nowhere", None) == "mine"


def test_a_curve_of_many_steps_stays_small_and_keeps_its_extremes() -> None:
    y = [0.5 + 0.1 * (step % 7) for step in range(20_000)]
    y[12_345] = 9.0
    curve = Curve(name="a", style=1, x=list(range(20_000)), y=y, noisy=True)
    svg = panel_svg(Panel(title="t", x_label="x", y_label="y", curves=[curve]))
    assert len(svg) < 200_000
    assert ">8</text>" in svg, "the axis reaches to the one high value"
