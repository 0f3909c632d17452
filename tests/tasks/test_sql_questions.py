"""Source of SQL questions: questions, queries, databases, held-out questions and options."""

import re
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

import pytest

from configs.task import TaskConfig
from rewards.sql.query import verify
from tasks.registry import build
from tasks.source import generator
from tasks.sql_questions import (
    MAX_ANSWER_BYTES,
    QUERIES,
    SqlQuestions,
    SqlQuestionsOptions,
    random_question,
    schema_script,
)
from trajectories.trajectory import Prompt

ONE_SMALL_DATABASE = SqlQuestionsOptions(rows=2, extra_databases=0)


def rows(script: str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(script)
        return database.execute(query).fetchall()


def databases(prompt: Prompt) -> list[str]:
    return [prompt.problem["schema_sql"], *prompt.problem["extra_dbs"]]


def agrees(prompt: Prompt, query: str) -> bool:
    """Whether a query has the result of the gold query on every database, in its order if the gold query orders."""
    gold = prompt.problem["gold_sql"]
    for script in databases(prompt):
        ours, theirs = rows(script, gold), rows(script, query)
        if ours != theirs and ("ORDER BY" in gold or Counter(ours) != Counter(theirs)):
            return False
    return True


def test_every_demonstration_agrees_with_the_gold_and_belongs_to_its_train_prompt() -> None:
    source = SqlQuestions(SqlQuestionsOptions(), seed=3)
    for position in range(250):
        prompt, answer = source.demonstration(position)
        assert agrees(prompt, answer), (prompt.text, answer)
        assert prompt == source.prompt(position)
        assert len(prompt.text.encode()) <= 72
        assert len(answer.encode()) <= MAX_ANSWER_BYTES


def test_every_query_of_a_question_is_right_on_databases_of_other_sizes_too() -> None:
    options = SqlQuestionsOptions(rows=2, constants=12, extra_databases=5)
    random_ = generator("every query")
    for _ in range(120):
        question = random_question(random_, options)
        for place in range(6):
            script = schema_script(question, options, place)
            results = [rows(script, query) for query in question.queries]
            ordered = bool(question.queries) and "ORDER BY" in question.queries[0]
            kept = results if ordered else [Counter(result) for result in results]
            assert all(result == kept[0] for result in kept), question


def test_the_verifier_accepts_demonstrations_and_rejects_a_constant_row() -> None:
    source = SqlQuestions(SqlQuestionsOptions(), seed=4)
    for position in range(40):
        prompt, answer = source.demonstration(position)
        assert verify(answer, prompt.problem).status == "correct", (prompt.text, answer)
        assert verify("SELECT 6", prompt.problem).status == "wrong"


def test_a_gold_query_has_rows_on_every_database_and_is_not_all_null() -> None:
    for prompt in map(SqlQuestions(SqlQuestionsOptions(), seed=5).prompt, range(150)):
        for script in databases(prompt):
            found = rows(script, prompt.problem["gold_sql"])
            assert found, prompt.text
            assert "missing" in prompt.text or any(value is not None for row in found for value in row), prompt.text


def test_the_databases_expose_queries_that_are_nearly_right() -> None:
    """With another constant, another column or no condition, the result differs on some database."""
    tried = caught = 0
    for prompt in map(SqlQuestions(SqlQuestionsOptions(), seed=6).prompt, range(200)):
        gold = prompt.problem["gold_sql"]
        numbers = [number for number in ("age", "cost", "size", "year") if number in prompt.text.split(")")[0]]
        near = [gold.split(" WHERE ")[0]] if " WHERE " in gold else []
        near += [re.sub(r"(>=|<=|>|<|(?<![<>!])=)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", gold)]
        if len(numbers) == 2:
            near.append(gold.replace(numbers[0], "#").replace(numbers[1], numbers[0]).replace("#", numbers[1]))
        for query in set(near) - {gold}:
            tried += 1
            caught += not agrees(prompt, query)
    assert tried > 250
    assert caught / tried > 0.99


def test_every_wording_and_condition_occurs_and_questions_have_several_queries() -> None:
    random_ = generator("occurs")
    questions = [random_question(random_, SqlQuestionsOptions()) for _ in range(2_000)]
    kept = [question for question in questions if question.queries]
    assert len(kept) > 1_600
    assert sum(len(question.queries) > 1 for question in kept) / len(kept) > 0.95
    words = Counter(word for question in kept for word in question.text.rstrip("?").split())
    assert {"many", "highest", "lowest", "total", "mean", "distinct", "per", "rising", "falling"} <= set(words)
    assert {"over", "under", "least", "most", "not", "from", "or", "missing", "known"} <= set(words)
    assert sum(len(question.tables) == 2 for question in kept) > 50
    assert len(QUERIES) == 12


def test_demonstrations_are_any_of_the_right_queries_not_only_the_gold() -> None:
    source = SqlQuestions(ONE_SMALL_DATABASE, seed=0)
    pairs = [source.demonstration(position) for position in range(1_000)]
    assert sum(answer == prompt.problem["gold_sql"] for prompt, answer in pairs) < 400
    for words in ("count(1)", "sum(", "LIMIT 1", "GROUP BY 1", " IN(", " OR ", "BETWEEN", " ISNULL", "USING", "<>"):
        assert any(words in answer for _, answer in pairs), words


def test_the_same_seed_and_position_give_the_same_prompt_and_others_differ() -> None:
    one, same, other = (SqlQuestions(SqlQuestionsOptions(), seed) for seed in (1, 1, 2))
    assert [one.prompt(i) for i in range(50)] == [same.prompt(i) for i in reversed(range(50))][::-1]
    assert sum(one.prompt(i).text == other.prompt(i).text for i in range(200)) < 5
    assert len({one.prompt(i).text for i in range(200)}) > 185


def test_the_same_question_comes_with_the_same_databases_at_every_position() -> None:
    source = SqlQuestions(SqlQuestionsOptions(tables=1), seed=0)
    seen: dict[str, Any] = {}
    repeated = 0
    for prompt in map(source.prompt, range(2_000)):
        repeated += prompt.text in seen
        assert seen.setdefault(prompt.text, prompt.problem) == prompt.problem
    assert repeated > 5


def test_a_stream_does_not_change_between_releases() -> None:
    source = SqlQuestions(SqlQuestionsOptions(), seed=0)
    assert [source.prompt(i).text for i in range(3)] == [
        "song(name,hue,size,cost) highest cost?",
        "shop(name,town,size,cost) how many per town?",
        "book(name,town,year,size) distinct town where size at least 5?",
    ]
    assert source.prompt(1).id == "sql_questions/train/1"
    assert source.prompt(1).verifier == "sql"
    assert source.prompt(2).problem["gold_sql"] == "SELECT DISTINCT town FROM book WHERE size>=5"


def test_train_and_heldout_questions_are_disjoint() -> None:
    heldout = {prompt.text for prompt in SqlQuestions(ONE_SMALL_DATABASE, seed=0).heldout(500)}
    assert len(heldout) == 500
    for seed in (0, 1):
        source = SqlQuestions(ONE_SMALL_DATABASE, seed)
        assert not {source.prompt(position).text for position in range(4_000)} & heldout


def test_heldout_questions_are_the_same_for_every_seed_and_count() -> None:
    prompts = SqlQuestions(SqlQuestionsOptions(), seed=0).heldout(64)
    assert SqlQuestions(SqlQuestionsOptions(), seed=9).heldout(32) == prompts[:32]
    assert [prompt.id for prompt in prompts[:2]] == ["sql_questions/heldout/0", "sql_questions/heldout/1"]


def test_more_heldout_questions_than_exist_are_refused_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.source.MAX_REPEATS", 1)
    source = SqlQuestions(SqlQuestionsOptions(tables=1), seed=0)
    with pytest.raises(ValueError, match=r"task.heldout_prompts: must be at most the \d+ held-out problems"):
        source.heldout(5_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": 3}, "task.options.tables: must be 1 or 2, got 3"),
        ({"constants": 2}, "task.options.constants: must be between 3 and 99, got 2"),
        ({"rows": 1}, "task.options.rows: must be between 2 and 50, got 1"),
        ({"extra_databases": 9}, "task.options.extra_databases: must be between 0 and 8, got 9"),
        ({"table": 1}, "task.options.table: unknown option (did you mean 'tables'?), got 1"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(TaskConfig(name="sql_questions", options=options), seed=0)
    assert message in str(caught.value)
