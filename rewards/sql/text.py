"""Text of SQL: the one statement a response commits to, checks on its tokens, and the sort keys of a gold query.

Answers only ever meet one linear scanner here; sqlglot, which recurses, parses gold queries alone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rewards.verdict import Status

RESPONSE_LIMIT = 200_000
"""Characters of a response that are read, from its end."""
STATEMENT_LIMIT = 20_000
"""Characters of one statement."""
OPENING_LIMIT = 200
"""Characters that tell a statement from a sentence."""

QUERIES = {"SELECT", "WITH", "VALUES"}
COMMANDS = {
    *("ALTER", "ANALYZE", "ATTACH", "BEGIN", "COMMIT", "COPY", "CREATE", "DELETE", "DESCRIBE", "DETACH", "DROP"),
    *("EXECUTE", "EXPLAIN", "INSERT", "MERGE", "PIVOT", "PRAGMA", "PREPARE", "REINDEX", "RELEASE", "REPLACE"),
    *("ROLLBACK", "SAVEPOINT", "SUMMARIZE", "TRUNCATE", "UPDATE", "VACUUM"),
}
FOLLOWS_COMMAND = {
    *("ALL", "DATABASE", "DEFERRED", "FROM", "IGNORE", "INDEX", "INTO", "OR", "PLAN", "QUERY", "SCHEMA", "SELECT"),
    *("TABLE", "TEMP", "TEMPORARY", "TRANSACTION", "TRIGGER", "UNIQUE", "VALUES", "VIEW", "VIRTUAL", "WITH"),
}
"""Words that make a command of a word that could as well begin a sentence: `Explain select`, not `Explain why`."""

FENCE = re.compile(r"```([A-Za-z0-9_+-]*)")
TAGS = ("answer", "solution", "sql")
START = re.compile(
    rf"(?:^[ \t]*({'|'.join(sorted(QUERIES | COMMANDS))})|(?:`|:\**|\bis\b)[ \t]*\b({'|'.join(sorted(QUERIES))}))\b",
    re.IGNORECASE | re.MULTILINE,
)
BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
CONTINUING = (
    *("FROM", "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "OFFSET", "UNION", "INTERSECT", "EXCEPT", "JOIN", "LEFT"),
    *("RIGHT", "INNER", "CROSS", "FULL", "NATURAL", "ON", "AND", "OR", "SELECT", "WINDOW", "VALUES", "AS", "CASE"),
    *("WHEN", "ELSE", "END"),
)
CONTINUES = re.compile(rf"[,()]|--|/\*|(?:{'|'.join([*CONTINUING, *map(str.lower, CONTINUING)])})\b")
"""What goes on with a query after an empty line; not capitalised, since sentences begin with `From` and `On`."""
PROSE = re.compile(r"(?:Explanation|Note|This|These|The|Here|It|Output|Result|In this)\b(?!\s*[.(,])")


class Token(NamedTuple):
    kind: str
    """space, comment, string, name (a quoted identifier), word, number or symbol."""
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else ""

    @property
    def called(self) -> str:
        """The name as a function's: without quotes, in lower case."""
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
    """A response without a statement that may be run, or a query without a result; the status and the words of the
    verdict, where an answer is to blame."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def tokens(text: str, engine: str, start: int = 0) -> Iterator[Token]:
    """All of the text from `start` on, cut the way the engine cuts it; linear in its length, never fails."""
    for match in SCANNERS[engine].finditer(text, start):
        assert match.lastgroup is not None
        yield Token(match.lastgroup, match[0], match.start(), match.end())


def significant(text: str, engine: str, start: int = 0) -> Iterator[Token]:
    return (token for token in tokens(text, engine, start) if token.kind not in ("space", "comment"))


def statements(text: str, engine: str) -> list[str]:
    """The statements between semicolons that hold more than comments."""
    found, start, filled = [], 0, False
    for token in tokens(text, engine):
        if token.text == ";":
            if filled:
                found.append(text[start : token.start].strip())
            start, filled = token.end, False
        elif token.kind not in ("space", "comment"):
            filled = True
    return [*found, text[start:].strip()] if filled else found


def extract(response: str, engine: str = "sqlite") -> str:
    """The one query of a response, without its semicolon.

    Thoughts are left out. Then, in this order: what the last `<answer>`, `<solution>` or `<sql>` element holds; the
    last fenced block marked as SQL, or the last unmarked one that begins like a statement; the last statement that
    begins a line or follows a colon, a backtick or `is`. Raises QueryFailed (no_answer, or rejected where there are
    several statements or one that is no query).
    """
    text = _tagged(response[-RESPONSE_LIMIT:].rpartition("</think>")[2].partition("<think>")[0])
    block = _fenced(text, engine)
    # A fence that holds no SQL, or only closes, ends a statement like an empty line.
    found = statements(block, engine) if block is not None else _bare(FENCE.sub("\n\n", text), engine)
    if not found:
        raise QueryFailed("no_answer", "no SQL statement in the response")
    if len(found) > 1:
        raise QueryFailed("rejected", f"{len(found)} statements where one is asked for")
    statement = found[0]
    if len(statement) > STATEMENT_LIMIT:
        raise QueryFailed("rejected", f"the statement is longer than {STATEMENT_LIMIT} characters")
    if next(significant(statement, engine)).upper not in QUERIES:
        raise QueryFailed("rejected", "the statement is no SELECT, WITH or VALUES")
    return statement


def _tagged(text: str) -> str:
    """The content of the last closed element among TAGS; the whole text without one."""
    lower = text.lower()
    ends = [(lower.rfind(f"</{tag}>"), tag) for tag in TAGS]
    end, tag = max(ends)
    start = lower.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end] if end >= 0 and start >= 0 else text


def _fenced(text: str, engine: str) -> str | None:
    """The last fenced block that holds SQL; an unclosed one runs to the end."""
    marked: list[str] = []
    plain: list[str] = []
    place = 0
    while (fence := FENCE.search(text, place)) is not None:
        label, start = fence[1].upper(), fence.end()
        if label in QUERIES | COMMANDS:
            label, start = "", fence.start() + 3
        end = text.find("```", start)
        content = text[start : end if end >= 0 else len(text)]
        place = end + 3 if end >= 0 else len(text)
        first = next(significant(content, engine), None)
        if first is None:
            continue
        if "SQL" in label or label == "DUCKDB":
            marked.append(content)
        elif not label and first.upper in QUERIES | COMMANDS:
            plain.append(content)
    return next((found[-1] for found in (marked, plain) if found), None)


def _bare(text: str, engine: str) -> list[str]:
    """The last statement of a text without fences; two of them when another one follows right after its semicolon."""
    found: list[str] = []
    first = next((token for token in significant(text, engine) if token.text != ";"), None)
    if first is None:
        return []
    place = 0
    if _opens(text, first.start, engine):
        found, place = _take(text, first.start, engine)
    while (start := START.search(text, place)) is not None:
        begin = start.start(start.lastindex or 0)
        if _opens(text, begin, engine):
            found, place = _take(text, begin, engine)
        else:
            place = start.end()
    return found


def _opens(text: str, start: int, engine: str) -> bool:
    """Whether a statement begins here, not a sentence that begins with one of its words."""
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
    return word.text.isupper() or second.upper in FOLLOWS_COMMAND


def _take(text: str, start: int, engine: str) -> tuple[list[str], int]:
    """The statement that begins here, with those that follow directly, and the place where they end."""
    if text[start - 1 : start] == "`":
        end = text.find("`", start)
        end = end if end >= 0 else len(text)
        return statements(text[start:end], engine), end + 1
    found = []
    while True:
        end = _end(text, start, engine)
        found.append(text[start:end].strip())
        if text[end : end + 1] != ";":
            return found, end
        rest = next((token for token in significant(text, engine, end) if token.text != ";"), None)
        if rest is None or not _opens(text, rest.start, engine):
            return found, rest.start if rest else len(text)
        start = rest.start


def _end(text: str, start: int, engine: str) -> int:
    """Where a statement in running text ends: at a semicolon, or where prose takes over."""
    depth, last = 0, ""
    for token in tokens(text, engine, start):
        if token.text == ";":
            return token.start
        if token.kind == "space":
            paragraph = BLANK_LINE.search(token.text) and not CONTINUES.match(text, token.end) and last != ","
            sentence = "\n" in token.text and PROSE.match(text, token.end)
            if depth <= 0 and (paragraph or sentence):
                return token.start
            continue
        depth += (token.text == "(") - (token.text == ")")
        last = token.text
    return len(text)


def arguments(statement: str, engine: str, places: Mapping[str, int]) -> Iterator[tuple[str, str | None]]:
    """For each call of a function in `places`: its name, and its argument at that place as it is written, empty if left
    out, None if it is more than one token.

    For functions whose cost is set by an argument, in one step that the engine cannot interrupt.
    """
    calls: list[Call] = []
    before = ""
    for token in significant(statement, engine):
        if calls and calls[-1].at == calls[-1].place and token.text not in (",", ")", "]", "}"):
            calls[-1].argument.append(token.text)
        if token.text in ("(", "[", "{"):
            calls.append(Call(before, places.get(before, -1) if token.text == "(" else -1))
        elif token.text == "," and calls:
            calls[-1].at += 1
        elif token.text in (")", "]", "}") and calls:
            call = calls.pop()
            if call.place >= 0:
                yield call.name, None if len(call.argument) > 1 else "".join(call.argument)
        before = token.called


@dataclass
class Call:
    """An open parenthesis after a name, and the tokens of the argument that matters."""

    name: str
    place: int
    at: int = 0
    argument: list[str] = field(default_factory=list)
