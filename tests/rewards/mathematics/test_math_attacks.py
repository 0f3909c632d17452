"""Check that no hostile answer of `attacks.jsonl` is rewarded, raises, takes long or leaves a file."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewards.mathematics.answer import verify

HERE = Path(__file__).parent
ROWS = [json.loads(line) for line in (HERE / "attacks.jsonl").read_text().splitlines()]
CLASSES = sorted({row["class"] for row in ROWS})
GOLDS = ["42", r"x+\sqrt{2}", "1,2,3"]
"""Golds for the attacks without a gold of their own: a number, an expression and a list."""
LIMIT_S = 1.0
"""Largest wall seconds of one verdict; the worker pool would kill the worker after 3 s."""


def hostile_answer(row: dict) -> str:
    return "".join(text * count for text, count in row["parts"])


def test_the_data_covers_every_class_of_attack() -> None:
    assert len(ROWS) >= 90
    assert {"powers", "factorials", "nesting", "code", "boxes", "guesses", "size", "regular expressions"} <= set(
        CLASSES
    )


@pytest.mark.parametrize("kind", CLASSES)
def test_a_hostile_answer_gets_zero_reward_quickly_and_the_next_answer_is_graded_correctly(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for row in (row for row in ROWS if row["class"] == kind):
        answer = hostile_answer(row)
        for gold in [row["gold"]] if "gold" in row else GOLDS:
            for text in (answer, rf"\boxed{{{answer}}}") if kind != "boxes" else (answer,):
                started = time.perf_counter()
                verdict = verify(text, {"answer": gold})
                seconds = time.perf_counter() - started
                assert verdict.reward == 0.0, (gold, text[:100])
                assert verdict.status in ("wrong", "no_answer", "rejected")
                assert verdict.reason and len(verdict.reason) <= 500
                assert seconds < LIMIT_S, (gold, text[:100])
    assert verify(r"\boxed{42}", {"answer": "42"}).status == "correct"
    assert verify(r"\boxed{\sqrt{2}+x}", {"answer": r"x+\sqrt{2}"}).status == "correct"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_answer_never_equals_an_empty_gold() -> None:
    for empty in ("", " ", r"\boxed{}", r"\boxed{ }", "$$", r"\text{}"):
        assert verify(empty, {"answer": empty}).reward is None


def test_verdicts_are_the_same_in_threads_and_in_an_event_loop() -> None:
    cases = [(r"x^2+2x+1", "(x+1)^2", 1.0), (r"2\sqrt3", r"\sqrt{12}", 1.0), (r"\sqrt2", "1.414", 0.0)]
    cases += [(r"\sin 2x", r"2\sin x\cos x", 1.0), ("42", "9^{9^{9^9}}", 0.0), (r"10^{300}\pi", r"10^{299}\pi", 0.0)]

    def rewards() -> list[float | None]:
        return [verify(rf"\boxed{{{answer}}}", {"answer": gold}).reward for gold, answer, _ in cases]

    async def in_a_loop() -> list[list[float | None]]:
        return [rewards(), *await asyncio.gather(*(asyncio.to_thread(rewards) for _ in range(4)))]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: rewards(), range(12)))
    assert all(row == [reward for *_, reward in cases] for row in found + asyncio.run(in_a_loop()))
