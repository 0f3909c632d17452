"""SQL questions: the query that answers a short question, such as `pet(name,kind,age) how many where age over 3?`.

Tables, questions and data are made up; every question has several right queries. The same question always comes with
the same databases: one main, and further ones with NULLs, ties and duplicates, on which a query has to be right too.
Whether a question is for training or held out is read off a hash of its text: no seed can move it across.
"""

import random
import re
from dataclasses import dataclass
from itertools import count as integers
from typing import NamedTuple

from configs.checks import require
from tasks.source import digest, generator
from trajectories.trajectory import Prompt

HELDOUT_SHARE = 1 / 8
TRIES = 1_000
"""Random questions tried for one problem before the options are called impossible."""
PATIENCE = 2_000
"""Held-out draws in a row without a new problem after which none is thought to be left."""
LONGEST_ANSWER = 56
"""Bytes."""
ACROSS = 1 / 8
"""Share of the questions that need two tables."""
FILTERED = 0.7
"""Share of the other questions that have a condition."""
TABLES = ("pet", "car", "team", "shop", "book", "song")
WORDS = {
    "name": ("ann", "bob", "cy", "dee", "eve"),
    "kind": ("cat", "dog", "fox", "hen"),
    "hue": ("red", "tan", "blue", "gray"),
    "town": ("rome", "oslo", "bonn", "lima"),
}
"""Columns of words and what they may hold; they are never NULL."""
NUMBERS = ("age", "cost", "size", "year")
"""Columns of whole numbers."""
EXTREMES = ((99, "zebra"), (-9, "abbey"))
"""A number and a word beyond all others, at either end."""


@dataclass(frozen=True, kw_only=True)
class SqlQuestionsOptions:
    """`task.options` of sql_questions."""

    tables: int = 2
    """At most so many tables in a schema."""
    constants: int = 9
    """The largest number a question asks about; the smallest is 1."""
    rows: int = 8
    """Rows of a table beside those that make a question's number and its neighbours occur."""
    extra_databases: int = 3
    """Further databases of the same schema on which a query must agree with the right one."""

    def __post_init__(self) -> None:
        field = "task.options."
        require(self.tables in (1, 2), f"{field}tables", "must be 1 or 2", self.tables)
        require(3 <= self.constants <= 99, f"{field}constants", "must be between 3 and 99", self.constants)
        require(2 <= self.rows <= 50, f"{field}rows", "must be between 2 and 50", self.rows)
        rule = "must be between 0 and 8"
        require(0 <= self.extra_databases <= 8, f"{field}extra_databases", rule, self.extra_databases)


ASKS: dict[str, tuple[str, ...]] = {
    "how many": ("count(*){f}", "count(1){f}", "count(name){f}", "sum({form}) FROM {t}"),
    "name": ("name{f}", "ALL name{f}"),
    "{n}": ("{n}{f}", "ALL {n}{f}"),
    "highest {n}": ("max({n}){f}", "{n}{f} ORDER BY {n} DESC LIMIT 1", "{n}{f} ORDER BY 1 DESC LIMIT 1"),
    "lowest {n}": ("min({n}){f}", "{n}{f} ORDER BY 1 NULLS LAST LIMIT 1"),
    "total {n}": ("sum({n}){f}", "sum(ALL {n}){f}"),
    "mean {n}": ("avg({n}){f}", "sum({n})*1.0/count({n}){f}"),
    "distinct {w}": ("DISTINCT {w}{f}", "{w}{f} GROUP BY {w}", "{w}{f} GROUP BY 1"),
    "how many per {w}": (
        *("{w},count(*){f} GROUP BY {w}", "{w},count(1){f} GROUP BY {w}"),
        *("{w},count(*){f} GROUP BY 1", "{w},count(1){f} GROUP BY 1"),
    ),
    "highest {n} per {w}": ("{w},max({n}){f} GROUP BY {w}", "{w},max({n}){f} GROUP BY 1"),
    "{n} rising": ("{n}{f} ORDER BY {n}", "{n}{f} ORDER BY 1", "{n}{f} ORDER BY {n} ASC"),
    "{n} falling": ("{n}{f} ORDER BY {n} DESC", "{n}{f} ORDER BY 1 DESC"),
}
"""What a question asks of one table, and the queries that answer it, without SELECT: {t} the table, {n} a column of
numbers (not the condition's), {w} the column of words, {f} the table and the condition. {form}, the condition alone,
needs one."""
JOINS = (
    "SELECT {c} FROM {one} NATURAL JOIN {two} WHERE {form}",
    "SELECT {c} FROM {one} JOIN {two} USING(name) WHERE {form}",
)


class Table(NamedTuple):
    name: str
    columns: tuple[str, ...]


class Condition(NamedTuple):
    """A question's `where`, the SQL conditions that mean it, and values of its column, all told by the text."""

    text: str
    forms: tuple[str, ...]
    column: str
    fulfilled_by: int | str | None
    borders: tuple[int | str | None, ...]
    """Values at which conditions that are nearly this one differ from it."""


class Question(NamedTuple):
    tables: tuple[Table, ...]
    text: str
    queries: tuple[str, ...]
    """All right; the first is the gold."""
    condition: Condition | None


class SqlQuestions:
    """A Source of questions about made-up tables."""

    def __init__(self, options: SqlQuestionsOptions, seed: int) -> None:
        self.options = options
        self.seed = seed

    def prompt(self, position: int) -> Prompt:
        return self.demonstration(position)[0]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        require(position >= 0, "position", "must not be negative", position)
        random_ = generator(self.seed, "sql_questions", "train", position)
        question = self._draw(random_, heldout=False)
        return self._prompt("train", position, question), random_.choice(question.queries)

    def heldout(self, count: int) -> list[Prompt]:
        found: dict[str, Question] = {}
        misses = 0
        for index in integers():
            if len(found) == count or misses == PATIENCE:
                break
            question = self._draw(generator("sql_questions", "heldout", index), heldout=True)
            misses = misses + 1 if question.text in found else 0
            found.setdefault(question.text, question)
        rule = f"must be at most the {len(found)} held-out problems that fit task.options"
        require(len(found) == count, "task.heldout_prompts", rule, count)
        return [self._prompt("heldout", index, question) for index, question in enumerate(found.values())]

    def _draw(self, random_: random.Random, heldout: bool) -> Question:
        for _ in range(TRIES):
            question = random_question(random_, self.options)
            if question.queries and is_heldout(question.text) == heldout:
                return question
        side = "held-out" if heldout else "train"
        raise ValueError(
            f"task.options: must admit problems, got none in {TRIES} draws of {self.options} ({side} side)"
        )

    def _prompt(self, stream: str, position: int, question: Question) -> Prompt:
        scripts = [schema_script(question, self.options, place) for place in range(1 + self.options.extra_databases)]
        return Prompt(
            id=f"sql_questions/{stream}/{position}",
            position=position,
            text=question.text,
            verifier="sql",
            problem={"schema_sql": scripts[0], "gold_sql": question.queries[0], "extra_dbs": scripts[1:]},
        )


def is_heldout(text: str) -> bool:
    """The side of a problem: the same for every seed."""
    return digest(f"sql_questions/{text}") < HELDOUT_SHARE * 2**64


def random_question(random_: random.Random, options: SqlQuestionsOptions) -> Question:
    """A question with its right queries, of which only those within LONGEST_ANSWER are kept; there may be none."""
    if options.tables == 2 and random_.random() < ACROSS:
        return _across_tables(random_, options)
    word, numbers = random_.choice(list(WORDS)[1:]), random_.sample(NUMBERS, 2)
    table = Table(random_.choice(TABLES), ("name", word, *numbers))
    condition = random_condition(random_, table, options.constants) if random_.random() < FILTERED else None
    number = random_.choice([column for column in numbers if condition is None or column != condition.column])
    names = {"t": table.name, "n": number, "w": word}
    forms = condition.forms if condition else ()
    ask, templates = random_.choice(list(ASKS.items()))
    queries = [
        "SELECT " + template.format(**names, f=f" FROM {table.name} WHERE {form}".removesuffix(" WHERE "), form=form)
        for template in templates
        if forms or "{form}" not in template
        for form in forms or ("",)
    ]
    where = f" where {condition.text}" if condition else ""
    text = f"{table.name}({','.join(table.columns)}) {ask.format(**names)}{where}?"
    return Question((table,), text, _short(queries), condition)


def _across_tables(random_: random.Random, options: SqlQuestionsOptions) -> Question:
    """A column of one table where a condition holds in another; the tables share the column `name`."""
    left_name, right_name = random_.sample(TABLES, 2)
    left = Table(left_name, ("name", random_.choice(NUMBERS)))
    right = Table(right_name, ("name", random_.choice(list(WORDS)[1:])))
    asked, other = (left, right) if random_.random() < 0.5 else (right, left)
    condition = random_condition(random_, Table(other.name, other.columns[1:]), options.constants)
    column = asked.columns[1]
    queries = [
        join.format(c=column, one=one.name, two=two.name, form=form)
        for form in condition.forms
        for one, two in ((left, right), (right, left))
        for join in JOINS
    ]
    schema = " ".join(f"{table.name}({','.join(table.columns)})" for table in (left, right))
    text = f"{schema} {column} where {condition.text}?"
    return Question((left, right), text, _short(queries), condition)


def random_condition(random_: random.Random, table: Table, constants: int) -> Condition:
    """A condition on one column of a table, each kind evenly."""
    column = random_.choice([column for column in table.columns if column != "name"])
    if column in WORDS:
        words = WORDS[column]
        one = random_.choice(words)
        other = words[words.index(one) - 1]
        if random_.random() < 1 / 2:
            forms: tuple[str, ...] = (f"{column}='{one}'", f"'{one}'={column}")
            return Condition(f"{column} is {one}", forms, column, one, (one, other))
        forms = (f"{column}!='{one}'", f"{column}<>'{one}'", f"NOT {column}='{one}'")
        return Condition(f"{column} not {one}", forms, column, other, (one, other))
    low = random_.randint(1, constants - 2)
    high = random_.randint(low + 2, constants)
    c, k = column, random_.randint(1, constants)
    numbers: list[tuple[str, tuple[str, ...], int | None]] = [
        (f"over {k}", (f"{c}>{k}", f"{c}>={k + 1}", f"{k}<{c}"), k + 1),
        (f"under {k}", (f"{c}<{k}", f"{c}<={k - 1}", f"{k}>{c}"), k - 1),
        (f"at least {k}", (f"{c}>={k}", f"{c}>{k - 1}", f"{k}<={c}"), k),
        (f"at most {k}", (f"{c}<={k}", f"{c}<{k + 1}", f"{k}>={c}"), k),
        (f"is {k}", (f"{c}={k}", f"{k}={c}"), k),
        (f"not {k}", (f"{c}!={k}", f"{c}<>{k}", f"NOT {c}={k}"), k + 1),
        (f"from {low} to {high}", (f"{c} BETWEEN {low} AND {high}", f"{c}>={low} AND {c}<={high}"), low),
        (f"is {low} or {high}", (f"{c} IN({low},{high})", f"{c}={low} OR {c}={high}"), high),
        ("missing", (f"{c} IS NULL", f"{c} ISNULL"), None),
        ("known", (f"{c} NOT NULL", f"{c} IS NOT NULL"), 1),
    ]
    text, forms, fulfilled_by = random_.choice(numbers)
    said = [int(number) for number in re.findall("[0-9]+", text)]
    near = tuple(sorted({number + step for number in said for step in (-1, 0, 1)}))
    return Condition(f"{c} {text}", forms, c, fulfilled_by, near or (None, 1))


def schema_script(question: Question, options: SqlQuestionsOptions, place: int) -> str:
    """One database of a question: 0 is the main one, odd ones have many ties, all have NULLs."""
    random_ = generator("sql_questions", "data", question.text, place)
    statements = []
    for table in question.tables:
        types = [f"{column} {'TEXT NOT NULL' if column in WORDS else 'INTEGER'}" for column in table.columns]
        rows = _rows(random_, table, question.condition, options, place)
        statements.append(f"CREATE TABLE {table.name}({', '.join(types)});")
        statements.append(f"INSERT INTO {table.name} VALUES {', '.join(rows)};")
    return "\n".join(statements)


def _rows(
    random_: random.Random, table: Table, condition: Condition | None, options: SqlQuestionsOptions, place: int
) -> list[str]:
    """Rows in no order: one that fulfils the condition, one for each of its borders, and random ones.

    In every database another two of the borders have the extreme values of the other columns: so a query that takes
    one row too many or too few has another maximum, minimum or set of words.
    """
    own = condition if condition and condition.column in table.columns else None
    given = [own.fulfilled_by, *own.borders] if own else []
    rows = []
    for index in range(1 + options.rows + len(given)):
        row: dict[str, int | str | None] = {}
        for column in table.columns:
            highest = 3 if place % 2 == 1 else options.constants + 3 if own and own.column == column else 50
            null = index > 0 and random_.random() < 1 / 8
            row[column] = None if null else random_.randint(0, highest)
            row[column] = random_.choice(WORDS[column]) if column in WORDS else row[column]
        for turn, (number, word) in enumerate(EXTREMES, start=place):
            if own and index == 1 + turn % len(own.borders):
                row |= {c: word if c in WORDS else number + i for i, c in enumerate(table.columns) if c != "name"}
        if index == 0:
            row["name"] = "ann"  # in both tables, so that a join has rows
        if own and index < len(given):
            row[own.column] = given[index]
        rows.append(f"({', '.join(map(_literal, row.values()))})")
    random_.shuffle(rows)
    return rows


def _literal(value: int | str | None) -> str:
    return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def _short(queries: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(query for query in queries if len(query) <= LONGEST_ANSWER))
