"""SQL questions: write the query for a short question, such as `pet(name,kind,age) how many where age over 3?`.

Tables, questions and rows are synthetic; every question has several right queries. A question always has the same
databases: the main one, and further ones with NULLs, ties and duplicates, on which a query must be right too. A hash of
the question's text decides whether it is held out, whatever the seed is.
"""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from configs.checks import require
from tasks.source import distinct, generator, held_out, require_heldout
from trajectories.trajectory import Prompt

MAX_DRAWS = 1_000
"""Random questions drawn for one problem. If none fits, the options are refused."""
MAX_ANSWER_BYTES = 56
TWO_TABLES = 1 / 8
"""Probability that a question needs two tables."""
FILTERED = 0.7
"""Probability that a question on one table has a condition."""
TABLES = ("pet", "car", "team", "shop", "book", "song")
WORDS = {
    "name": ("ann", "bob", "cy", "dee", "eve"),
    "kind": ("cat", "dog", "fox", "hen"),
    "hue": ("red", "tan", "blue", "gray"),
    "town": ("rome", "oslo", "bonn", "lima"),
}
"""Columns of words, with their possible values. They are never NULL."""
NUMBERS = ("age", "cost", "size", "year")
"""Columns of whole numbers."""
EXTREMES = ((99, "zebra"), (-9, "abbey"))
"""Values above and below all others: a number and a word each."""


@dataclass(frozen=True, kw_only=True)
class SqlQuestionsOptions:
    """`task.options` of sql_questions."""

    tables: int = 2
    """Largest number of tables in a schema."""
    constants: int = 9
    """Largest number in a question's condition; the smallest is 1."""
    rows: int = 8
    """Rows of a table, in addition to those for the numbers in the question's condition and their neighbours."""
    extra_databases: int = 3
    """Further databases of the same schema, on which the result of a query must be right too."""

    def __post_init__(self) -> None:
        field = "task.options."
        require(self.tables in (1, 2), f"{field}tables", "must be 1 or 2", self.tables)
        require(3 <= self.constants <= 99, f"{field}constants", "must be between 3 and 99", self.constants)
        require(2 <= self.rows <= 50, f"{field}rows", "must be between 2 and 50", self.rows)
        rule = "must be between 0 and 8"
        require(0 <= self.extra_databases <= 8, f"{field}extra_databases", rule, self.extra_databases)


QUERIES: dict[str, tuple[str, ...]] = {
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
"""Questions about one table, and the queries that answer them, without SELECT. {t} is the table, {n} a column of
numbers other than the condition's, {w} the column of words, {f} the FROM and WHERE clauses. {form} is the condition; a
query with it answers only questions that have a condition."""
JOINS = (
    "SELECT {c} FROM {one} NATURAL JOIN {two} WHERE {form}",
    "SELECT {c} FROM {one} JOIN {two} USING(name) WHERE {form}",
)


class Table(NamedTuple):
    name: str
    columns: tuple[str, ...]


class Condition(NamedTuple):
    """The condition of a question, in English and SQL, and values of its column. The text determines all of them."""

    text: str
    forms: tuple[str, ...]
    """SQL conditions with this meaning."""
    column: str
    fulfilled_by: int | str | None
    borders: tuple[int | str | None, ...]
    """Values on which slightly different conditions, such as > for >=, give another result."""


class Question(NamedTuple):
    tables: tuple[Table, ...]
    text: str
    queries: tuple[str, ...]
    """Right queries; the first is the gold query that answers are compared with."""
    condition: Condition | None


class SqlQuestions:
    """Source of questions about synthetic tables."""

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
        found = distinct(self._heldout_draws(), lambda question: question.text, count)
        require_heldout(len(found), count)
        return [self._prompt("heldout", index, question) for index, question in enumerate(found)]

    def _heldout_draws(self) -> Iterator[Question]:
        for index in itertools.count():
            yield self._draw(generator("sql_questions", "heldout", index), heldout=True)

    def _draw(self, random_: random.Random, heldout: bool) -> Question:
        for _ in range(MAX_DRAWS):
            question = random_question(random_, self.options)
            if question.queries and is_heldout(question.text) == heldout:
                return question
        split = "held-out" if heldout else "train"
        raise ValueError(f"task.options: must admit {split} problems, got none in {MAX_DRAWS} draws of {self.options}")

    def _prompt(self, stream: str, position: int, question: Question) -> Prompt:
        scripts = [schema_script(question, self.options, number) for number in range(1 + self.options.extra_databases)]
        return Prompt(
            id=f"sql_questions/{stream}/{position}",
            position=position,
            text=question.text,
            verifier="sql",
            problem={"schema_sql": scripts[0], "gold_sql": question.queries[0], "extra_dbs": scripts[1:]},
        )


def is_heldout(text: str) -> bool:
    """Return whether a question is held out; the same for every seed."""
    return held_out(f"sql_questions/{text}")


def random_question(random_: random.Random, options: SqlQuestionsOptions) -> Question:
    """Draw a question with those of its right queries that have at most MAX_ANSWER_BYTES; there may be none."""
    if options.tables == 2 and random_.random() < TWO_TABLES:
        return _two_table_question(random_, options)
    word, numbers = random_.choice(list(WORDS)[1:]), random_.sample(NUMBERS, 2)
    table = Table(random_.choice(TABLES), ("name", word, *numbers))
    condition = random_condition(random_, table, options.constants) if random_.random() < FILTERED else None
    number = random_.choice([column for column in numbers if condition is None or column != condition.column])
    names = {"t": table.name, "n": number, "w": word}
    forms = condition.forms if condition else ()
    wording, templates = random_.choice(list(QUERIES.items()))
    queries = [
        "SELECT " + template.format(**names, f=f" FROM {table.name} WHERE {form}".removesuffix(" WHERE "), form=form)
        for template in templates
        if forms or "{form}" not in template
        for form in forms or ("",)
    ]
    where = f" where {condition.text}" if condition else ""
    text = f"{table.name}({','.join(table.columns)}) {wording.format(**names)}{where}?"
    return Question((table,), text, _short(queries), condition)


def _two_table_question(random_: random.Random, options: SqlQuestionsOptions) -> Question:
    """Draw a question on a column of one table with a condition on another; they are joined on the column `name`."""
    left_name, right_name = random_.sample(TABLES, 2)
    left = Table(left_name, ("name", random_.choice(NUMBERS)))
    right = Table(right_name, ("name", random_.choice(list(WORDS)[1:])))
    selected, filtered = (left, right) if random_.random() < 0.5 else (right, left)
    condition = random_condition(random_, Table(filtered.name, filtered.columns[1:]), options.constants)
    column = selected.columns[1]
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
    """Draw a condition on one column of a table, each kind with the same probability."""
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
    given = [int(number) for number in re.findall("[0-9]+", text)]
    near = tuple(sorted({number + step for number in given for step in (-1, 0, 1)}))
    return Condition(f"{c} {text}", forms, c, fulfilled_by, near or (None, 1))


def schema_script(question: Question, options: SqlQuestionsOptions, database: int) -> str:
    """Return the SQL script of one database of a question.

    Database 0 is the main one. Databases with an odd number have many ties, and all have NULLs.
    """
    random_ = generator("sql_questions", "data", question.text, database)
    statements = []
    for table in question.tables:
        types = [f"{column} {'TEXT NOT NULL' if column in WORDS else 'INTEGER'}" for column in table.columns]
        rows = _rows(random_, table, question.condition, options, database)
        statements.append(f"CREATE TABLE {table.name}({', '.join(types)});")
        statements.append(f"INSERT INTO {table.name} VALUES {', '.join(rows)};")
    return "\n".join(statements)


def _rows(
    random_: random.Random, table: Table, condition: Condition | None, options: SqlQuestionsOptions, database: int
) -> list[str]:
    """Return rows in random order: one that fulfils the condition, one for each of its borders, and random ones.

    Two of the border rows, different ones in each database, have extreme values in the other columns. A query that
    selects one row too many or too few then has another maximum, minimum or set of words.
    """
    here = condition if condition and condition.column in table.columns else None
    given = [here.fulfilled_by, *here.borders] if here else []
    rows = []
    for index in range(1 + options.rows + len(given)):
        row: dict[str, int | str | None] = {}
        for column in table.columns:
            highest = 3 if database % 2 == 1 else options.constants + 3 if here and here.column == column else 50
            null = index > 0 and random_.random() < 1 / 8
            row[column] = None if null else random_.randint(0, highest)
            row[column] = random_.choice(WORDS[column]) if column in WORDS else row[column]
        for turn, (number, word) in enumerate(EXTREMES, start=database):
            if here and index == 1 + turn % len(here.borders):
                row |= {c: word if c in WORDS else number + i for i, c in enumerate(table.columns) if c != "name"}
        if index == 0:
            row["name"] = "ann"  # In both tables, so that a join has rows.
        if here and index < len(given):
            row[here.column] = given[index]
        rows.append(f"({', '.join(map(_literal, row.values()))})")
    random_.shuffle(rows)
    return rows


def _literal(value: int | str | None) -> str:
    return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def _short(queries: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(query for query in queries if len(query) <= MAX_ANSWER_BYTES))
