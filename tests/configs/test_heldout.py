"""Sampling of held-out answers, and values of k that follow the number of answers."""

from pathlib import Path

import pytest

from configs.heldout import Decoding
from configs.load import load, to_yaml


@pytest.mark.parametrize(
    ("section", "answers", "ks"),
    [
        ("evaluate", 1, [1]),
        ("evaluate", 8, [1, 4, 8]),
        ("evaluate", 16, [1, 4, 16]),
        ("evaluate", 128, [1, 4, 16, 64, 128]),
        ("evaluate", 1000, [1, 4, 16, 64, 128]),
        ("monitor", 1, [1]),
        ("monitor", 5, [1, 4, 5]),
        ("monitor", 32, [1, 4, 16, 32]),
    ],
)
def test_the_default_ks_end_at_the_number_of_answers(section: str, answers: int, ks: list[int]) -> None:
    assert getattr(load([f"{section}.answers={answers}"]), section).ks == ks


def test_ks_of_a_record_follow_a_smaller_number_of_answers(tmp_path: Path) -> None:
    record = tmp_path / "config.yaml"
    record.write_text(to_yaml(load(["evaluate.answers=100", "monitor.answers=8"])))
    cfg = load(["evaluate.answers=2", "monitor.answers=4"], str(record))
    assert (cfg.evaluate.ks, cfg.monitor.ks) == ([1, 2], [1, 4])


def test_a_sampling_takes_what_it_does_not_set_from_training() -> None:
    words = ["evaluate.samplings.nucleus.top_p=0.95", "evaluate.samplings.greedy={temperature: 0, max_new_tokens: 64}"]
    cfg = load(["sampling.temperature=0.7", "sampling.max_new_tokens=12", *words])
    assert cfg.evaluate.decodings(cfg.sampling) == {
        "nucleus": [Decoding(temperature=0.7, max_new_tokens=12, top_p=0.95)],
        "greedy": [Decoding(temperature=0.0, max_new_tokens=64)],
    }


def test_without_samplings_policies_are_measured_as_in_training() -> None:
    cfg = load(["sampling.temperature=0.7", "sampling.max_new_tokens=9"])
    assert cfg.evaluate.decodings(cfg.sampling) == {"": [Decoding(temperature=0.7, max_new_tokens=9)]}
    both = load(["evaluate.temperatures=[1.0,0.5]", "evaluate.samplings.nucleus.top_p=0.9"])
    plain, nucleus = both.evaluate.decodings(both.sampling).values()
    assert ([d.temperature for d in plain], [d.top_p for d in nucleus]) == ([1.0, 0.5], [0.9])


def test_an_engine_of_a_run_holds_the_longest_answer_of_training_and_monitor() -> None:
    longer = ["sampling.max_new_tokens=10", "monitor.sampling.max_new_tokens=40"]
    assert load(longer).longest_answer == 40
    assert load([*longer, "monitor.every=0"]).longest_answer == 10
    assert load(["sampling.max_new_tokens=10", "monitor.sampling.max_new_tokens=4"]).longest_answer == 10
    assert load(["monitor.sampling.temperature=0.5", "monitor.kl_to_base=false"]).measures_as_trained is False
