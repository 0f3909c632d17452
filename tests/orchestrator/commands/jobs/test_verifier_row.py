"""One row of the registry is all that a new verifier needs: every reader of the registry uses it."""

import asyncio
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from orchestrator.commands.cli import main
from orchestrator.verify_file import parse
from rewards.judge import Judge
from rewards.registry import BUDGET_MARGIN_S, VERIFIERS, Canary, Field, Verifier, check, deadline_s, resolve
from rewards.verdict import Verdict, correct, wrong
from rewards.workers.task import Task

NAME = "palindrome"
CANARY = Canary(problem={"word": "level"}, right="level", wrong="lever")
ROW = Verifier(
    path="palindrome_verifier:verify",
    help="a word that reads the same backwards",
    deadline=2.0,
    isolation=1,
    fields=(Field(name="text", types=(str,), key="word"),),
    canaries=(CANARY,),
)


class PoolInThisProcess:
    """Replaces the worker pool: worker processes do not have a row that was added while the test runs."""

    respawns = 0

    def __init__(self) -> None:
        self.answers: list[str] = []

    async def run(
        self, verifier: str, problem: Mapping[str, Any], answer: str, context: Mapping[str, Any] | None = None
    ) -> Verdict:
        self.answers.append(answer)
        verdict = resolve(verifier)(answer, problem)
        return Verdict(reward=verdict.reward, status=verdict.status, reason=verdict.reason, isolation=1)

    def submit(self, tasks: Sequence[Task]) -> list[asyncio.Future[Verdict]]:
        return [asyncio.ensure_future(self.run(*task)) for task in tasks]

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def added_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the row and its module for the time of one test."""

    def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
        return correct() if answer == answer[::-1] == problem["word"] else wrong("it is another word backwards")

    module = types.ModuleType("palindrome_verifier")
    module.__dict__.update(verify=verify, budget_s=lambda problem: 0.5 * len(problem["word"]))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(VERIFIERS, NAME, ROW)


def judge_level(answers: list[str]) -> tuple[list[Verdict], PoolInThisProcess, Judge]:
    async def work() -> tuple[list[Verdict], PoolInThisProcess, Judge]:
        judge, pool = Judge(require=1), PoolInThisProcess()
        await judge.close()  # the pool it came with, which has started no process
        judge._pool = pool  # type: ignore[assignment]
        verdicts = [await judge.judge(NAME, {"word": "level"}, answer) for answer in answers]
        return verdicts, pool, judge

    return asyncio.run(work())


def test_a_new_row_is_resolved_by_its_name() -> None:
    check(NAME)
    assert resolve(NAME)("level", {"word": "level"}).status == "correct"
    assert resolve(NAME)("lever", {"word": "level"}).status == "wrong"
    with pytest.raises(ValueError, match=r"must be one of .*, palindrome, package.module:function .* \(did you mean"):
        check("palindrom")


def test_a_new_row_has_a_deadline_in_seconds_or_by_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deadline_s(NAME, {}, 6.0) == 2.0
    assert deadline_s(NAME, {}, 0.5) == 0.5
    by_problem = Verifier(path=ROW.path, help=ROW.help, deadline="palindrome_verifier:budget_s")
    monkeypatch.setitem(VERIFIERS, NAME, by_problem)
    assert deadline_s(NAME, {"word": "level"}, 0.5) == 2.5 + BUDGET_MARGIN_S


def test_the_canaries_of_a_new_row_are_judged_before_its_first_answer() -> None:
    verdicts, pool, judge = judge_level(["lever", "level"])
    assert pool.answers == ["level", "lever", "lever", "level"]
    assert [verdict.status for verdict in verdicts] == ["wrong", "correct"]
    assert judge.levels == {NAME: 1}


def test_a_wrong_verdict_on_a_canary_of_a_new_row_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = Canary(problem=CANARY.problem, right=CANARY.wrong, wrong=CANARY.right)
    monkeypatch.setitem(VERIFIERS, NAME, Verifier(path=ROW.path, help=ROW.help, deadline=2.0, canaries=(swapped,)))
    with pytest.raises(RuntimeError, match="verifier 'palindrome' finds 'lever' wrong"):
        judge_level(["level"])


def test_the_fields_of_a_new_row_are_checked_and_stored_under_their_keys() -> None:
    row = parse(b'{"id": 1, "text": "level", "answer": "level"}', 1, NAME)
    assert (row.problem, row.answer, row.refusal) == ({"word": "level"}, "level", "")
    assert parse(b'{"id": 1, "answer": "level"}', 1, NAME).refusal == "has no field 'text'"


def test_the_help_of_verify_lists_every_row_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name, row in VERIFIERS.items():
        fields = "; ".join(f"{field.name}: {field.allowed}" for field in row.fields)
        assert f"  {name}\n      {row.help}\n      {fields}\n" in text
    assert f"  {NAME}\n      a word that reads the same backwards\n      text: a string\n" in text
