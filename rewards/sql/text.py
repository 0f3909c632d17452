"""Find the one SQL statement of a response, and split SQL text into tokens, statements and arguments of calls.

A scanner that takes linear time reads the text. Only trusted gold queries are parsed with sqlglot, which recurses
(`rewards/sql/gold.py`); answers never are.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rewards.verdict import Status

RESPONSE_LIMIT = 200_000
"""Number of characters at the end of a response that are read."""
STATEMENT_LIMIT = 20_000
"""Largest number of characters of one statement."""
OPENING_LIMIT = 200
"""Number of characters that are read to distinguish a statement from a sentence."""

QUERIES = {"SELECT", "WITH", "VALUES"}
COMMANDS = {
    *("ALTER", "ANALYZE", "ATTACH", "BEGIN", "COMMIT", "COPY", "CREATE", "DELETE", "DESCRIBE", "DETACH", "DROP"),
    *("EXECUTE", "EXPLAIN", "INSERT", "MERGE", "PIVOT", "PRAGMA", "PREPARE", "REINDEX", "RELEASE", "REPLACE"),
    *("ROLLBACK", "SAVEPOINT", "SUMMARIZE", "TRUNCATE", "UPDATE", "VACUUM"),
}
AFTER_COMMAND = {
    *("ALL", "DATABASE", "DEFERRED", "FROM", "IGNORE", "INDEX", "INTO", "OR", "PLAN", "QUERY", "SCHEMA", "SELECT"),
    *("TABLE", "TEMP", "TEMPORARY", "TRANSACTION", "TRIGGER", "UNIQUE", "VALUES", "VIEW", "VIRTUAL", "WITH"),
}
"""Second words that show that the first word is a command and not the start of a sentence: `Explain select`, not
`Explain why`."""

FENCE = re.compile(r"```([A-Za-z0-9_+-]*)")
TAGS = ("answer", "solution", "sql")
# A keyword at the start of a line, or one of a query after a backtick, a colon or "is".
STATEMENT_START = re.compile(
    rf"(?:^[ \t]*({'|'.join(sorted(QUERIES | COMMANDS))})|(?:`|:\**|\bis\b)[ \t]*\b({'|'.join(sorted(QUERIES))}))\b",
    re.IGNORECASE | re.MULTILINE,
)
BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
CONTINUING_WORDS = (
    *("FROM", "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "OFFSET", "UNION", "INTERSECT", "EXCEPT", "JOIN", "LEFT"),
    *("RIGHT", "INNER", "CROSS", "FULL", "NATURAL", "ON", "AND", "OR", "SELECT", "WINDOW", "VALUES", "AS", "CASE"),
    *("WHEN", "ELSE", "END"),
)
CONTINUATION = re.compile(rf"[,()]|--|/\*|(?:{'|'.join([*CONTINUING_WORDS, *map(str.lower, CONTINUING_WORDS)])})\b")
"""Starts of text that continues a query after an empty line. `From` and `On` begin a sentence instead."""
# First words of a sentence after a query, unless they are followed like a name in SQL.
PROSE = re.compile(r"(?:Explanation|Note|This|These|The|Here|It|Output|Result|In this)\b(?!\s*[.(,])")


class Token(NamedTuple):
    """A token of SQL text; `start` and `end` are its positions there."""

    kind: str
    """space, comment, string, name (a quoted identifier), word, number or symbol."""
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        """A word in upper case, to compare with keywords; "" for other kinds."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def function_name(self) -> str:
        """The token as the name of a function: without quotes, in lower case; "" if it is not a name or word."""
        if self.kind == "name":
            quote = self.text[0].replace("[", "]")
            return self.text[1:-1].replace(quote * 2, quote).lower()
        return self.text.lower() if self.kind == "word" else ""


def _scanner(bracketed_names: str) -> re.Pattern[str]:
    return re.compile(
        r"(?P<space>[ \t\n\f\r]+)"
        r"|(?P<comment>--[^\n]*|/\*(?s:.)*?(?:\*/|\Z))"
        r"|(?P<string>'[^']*(?:''[^']*)*'?)"
        rf"|(?P<name>\"[^\"]*(?:\"\"[^\"]*)*\"?|`[^`]*(?:``[^`]*)*`?{bracketed_names})"
        r"|(?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)"
        r"|(?P<number>[0-9][0-9A-Za-z_.]*)"
        r"|(?P<symbol>(?s:.))"
    )


SCANNERS = {"sqlite": _scanner(r"|\[[^\]]*\]?"), "duckdb": _scanner("")}


class QueryFailed(Exception):
    """A response has no statement that may run, or a query has no result.

    `status` and `reason` become those of the verdict if the answer is the cause.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def tokens(text: str, engine: str, start: int = 0) -> Iterator[Token]:
    """Yield the tokens of a text from `start` on, by the engine's rules.

    The tokens joined are the whole text. Takes linear time, and accepts any text.
    """
    for match in SCANNERS[engine].finditer(text, start):
        assert match.lastgroup is not None
        yield Token(match.lastgroup, match[0], match.start(), match.end())


def significant(text: str, engine: str, start: int = 0) -> Iterator[Token]:
    """Yield the tokens that are neither spaces nor comments."""
    return (token for token in tokens(text, engine, start) if token.kind not in ("space", "comment"))


def canonical(text: str, engine: str) -> str:
    """Return a query without comments, with its tokens one space apart and its words in upper case."""
    return " ".join(token.upper or token.text for token in significant(text, engine))


def statements(text: str, engine: str) -> list[str]:
    """Return the statements between semicolons, without those that consist of spaces and comments."""
    found, start, has_token = [], 0, False
    for token in tokens(text, engine):
        if token.text == ";":
            if has_token:
                found.append(text[start : token.start].strip())
            start, has_token = token.end, False
        elif token.kind not in ("space", "comment"):
            has_token = True
    return [*found, text[start:].strip()] if has_token else found


def extract(response: str, engine: str = "sqlite") -> str:
    """Return the one query of a response, without its semicolon.

    Text inside `<think>` does not count. Of `<answer>`, `<solution>` and `<sql>` elements, only the content of the last
    one counts, if there is one. The query is the first of these that exists:

    1. the last fenced block marked as SQL;
    2. the last unmarked fenced block that begins with a keyword of a statement;
    3. the last statement that begins a line or follows a colon, a backtick or the word "is".

    Raises: QueryFailed with no_answer if there is no statement; with rejected if there are several, or one that is not
        SELECT, WITH or VALUES.
    """
    text = _last_element(response[-RESPONSE_LIMIT:].rpartition("</think>")[2].partition("<think>")[0])
    block = _last_block(text, engine)
    if block is not None:
        found = statements(block, engine)
    else:
        # A fence without SQL, or one that only closes, ends a statement as an empty line does.
        found = _last_unfenced_statement(FENCE.sub("\n\n", text), engine)
    if not found:
        raise QueryFailed("no_answer", "the response has no SQL statement")
    if len(found) > 1:
        raise QueryFailed("rejected", f"the response must have one statement, got {len(found)}")
    statement = found[0]
    if len(statement) > STATEMENT_LIMIT:
        raise QueryFailed("rejected", f"the statement is longer than {STATEMENT_LIMIT} characters")
    if next(significant(statement, engine)).upper not in QUERIES:
        raise QueryFailed("rejected", "the statement is not SELECT, WITH or VALUES")
    return statement


def _last_element(text: str) -> str:
    """Return the content of the last closed element among TAGS, or the whole text if there is none."""
    lower = text.lower()
    ends = [(lower.rfind(f"</{tag}>"), tag) for tag in TAGS]
    end, tag = max(ends)
    start = lower.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end] if end >= 0 and start >= 0 else text


def _last_block(text: str, engine: str) -> str | None:
    """Return the last fenced block of SQL, or None. A block that is not closed extends to the end of the text."""
    sql_blocks: list[str] = []
    unmarked_blocks: list[str] = []
    position = 0
    while (fence := FENCE.search(text, position)) is not None:
        label, start = fence[1].upper(), fence.end()
        if label in QUERIES | COMMANDS:
            label, start = "", fence.start() + 3
        end = text.find("```", start)
        content = text[start : end if end >= 0 else len(text)]
        position = end + 3 if end >= 0 else len(text)
        first = next(significant(content, engine), None)
        if first is None:
            continue
        if "SQL" in label or label == "DUCKDB":
            sql_blocks.append(content)
        elif not label and first.upper in QUERIES | COMMANDS:
            unmarked_blocks.append(content)
    return next((found[-1] for found in (sql_blocks, unmarked_blocks) if found), None)


def _last_unfenced_statement(text: str, engine: str) -> list[str]:
    """Return the last statement of a text without fences; several if they follow each other after semicolons."""
    found: list[str] = []
    first = next((token for token in significant(text, engine) if token.text != ";"), None)
    if first is None:
        return []
    position = 0
    if _starts_statement(text, first.start, engine):
        found, position = _read_statements(text, first.start, engine)
    while (start := STATEMENT_START.search(text, position)) is not None:
        begin = start.start(start.lastindex or 0)
        if _starts_statement(text, begin, engine):
            found, position = _read_statements(text, begin, engine)
        else:
            position = start.end()
    return found


def _starts_statement(text: str, start: int, engine: str) -> bool:
    """Return whether a statement begins at `start`, and not a sentence that begins with a keyword."""
    ahead = significant(text[start : start + OPENING_LIMIT], engine)
    word, second = next(ahead), next(ahead, None)
    third = next(ahead, None)
    if word.upper not in QUERIES | COMMANDS or second is None:
        return False
    if word.upper == "VALUES":
        return second.text == "("
    if word.upper == "WITH":
        if second.upper == "RECURSIVE":
            second, third = third, next(ahead, None)
        named = second is not None and second.kind in ("word", "name", "string")
        return named and third is not None and (third.upper == "AS" or third.text == "(")
    if word.upper == "SELECT":
        sentence = word.text.istitle() and second.text in ("the", "statement", "statements", "only")
        return not sentence and (second.kind != "symbol" or second.text in "*(-+~:@?[{$")
    return word.text.isupper() or second.upper in AFTER_COMMAND


def _read_statements(text: str, start: int, engine: str) -> tuple[list[str], int]:
    """Return the statement that begins at `start`, those that follow it directly, and the position of their end."""
    if text[start - 1 : start] == "`":
        end = text.find("`", start)
        end = end if end >= 0 else len(text)
        return statements(text[start:end], engine), end + 1
    found = []
    while True:
        end = _statement_end(text, start, engine)
        found.append(text[start:end].strip())
        if text[end : end + 1] != ";":
            return found, end
        rest = next((token for token in significant(text, engine, end) if token.text != ";"), None)
        if rest is None or not _starts_statement(text, rest.start, engine):
            return found, rest.start if rest else len(text)
        start = rest.start


def _statement_end(text: str, start: int, engine: str) -> int:
    """Return where a statement in running text ends: at a semicolon, or where prose begins."""
    depth, last = 0, ""
    for token in tokens(text, engine, start):
        if token.text == ";":
            return token.start
        if token.kind == "space":
            paragraph = BLANK_LINE.search(token.text) and not CONTINUATION.match(text, token.end) and last != ","
            sentence = "\n" in token.text and PROSE.match(text, token.end)
            if depth <= 0 and (paragraph or sentence):
                return token.start
            continue
        depth += (token.text == "(") - (token.text == ")")
        last = token.text
    return len(text)


def arguments(statement: str, engine: str, indices: Mapping[str, int]) -> Iterator[tuple[str, str | None]]:
    """Yield the name and one argument of each call of some functions, to check arguments that determine the cost.

    Args:
        indices: for each function, the index of the argument.
    Yields: the name, and the argument as it is written: "" if it is left out, None if it is more than one token.
    """
    calls: list[_OpenCall] = []
    before = ""
    for token in significant(statement, engine):
        if calls and calls[-1].index == calls[-1].wanted_index and token.text not in (",", ")", "]", "}"):
            calls[-1].argument.append(token.text)
        if token.text in ("(", "[", "{"):
            calls.append(_OpenCall(before, indices.get(before, -1) if token.text == "(" else -1))
        elif token.text == "," and calls:
            calls[-1].index += 1
        elif token.text in (")", "]", "}") and calls:
            call = calls.pop()
            if call.wanted_index >= 0:
                yield call.name, None if len(call.argument) > 1 else "".join(call.argument)
        before = token.function_name


@dataclass
class _OpenCall:
    """An open bracket after a name, and the tokens of the wanted argument. `wanted_index` is -1 for other calls."""

    name: str
    wanted_index: int
    index: int = 0
    argument: list[str] = field(default_factory=list)
