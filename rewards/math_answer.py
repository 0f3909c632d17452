"""The mathematics verifier: final answer against gold, exactly.

Numbers compare as fractions, lists and sets as multisets, tuples and intervals in order with their brackets. Only what
is left, one expression against one expression, goes to math-verify, after its size is bounded and in a worker process
that the pool can kill; what math-verify calls equal is checked once more at 50 digits, because it rounds.
No answer text is ever evaluated as code.
"""

import re
from collections.abc import Mapping
from typing import Any

from rewards.math_symbolic import symbolically_equal
from rewards.math_text import bare, canonical, normalise, number, quantity
from rewards.verdict import Verdict, correct, grader_error, wrong

RESPONSE_LIMIT = 32_768
"""Characters of a response that are read, from its end."""
PLAIN_LIMIT = 200
"""A response without any marker is an answer only if it is one line of at most this many characters."""

BOX_PARTS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
STATED = re.compile(r"\banswer(?: is|:)[ \t:*]*", re.IGNORECASE)
SENTENCE_END = re.compile(r"\.\s")
LENGTH_LIMIT = 1_000
"""Characters of a final answer."""
DEPTH_LIMIT = 50
ITEM_LIMIT = 20
"""Items of a list or set that are matched one against another."""
FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|sqrt|pi|max|min|gcd|lcm")
RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt)(?![A-Za-z])")
SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and/or|or|and)(?![A-Za-z])")
ASSIGNMENT = re.compile(r"(\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?) ?= ?([^=<>]+)")
WRITTEN_ONE_WAY = re.compile(
    r"[0-9]_|[0-9] [0-9]|[:?]|\\(?:approx|sim|simeq|cong|equiv|neq?|not|[a-zA-Z]*arrow|to|implies|mid)(?![A-Za-z])"
)
"""Bases, ratios, times and statements: compared as strings only."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Correct if the final answer of a response equals `problem["answer"]`, a bare answer or a whole solution."""
    if isinstance(problem.get("answer"), bool) or not isinstance(problem.get("answer"), str | int | float):
        return grader_error("the problem must have an answer, a string or a number")
    gold = normalise(gold_answer(problem["answer"])[:LENGTH_LIMIT])
    if not gold:
        return grader_error("the problem's answer is empty")
    found = final_answer(answer)
    if found is None:
        return wrong("no final answer: no box, no ####, no 'answer is', and not a short answer", "no_answer")
    if len(found) > LENGTH_LIMIT:
        return wrong(f"the final answer is longer than {LENGTH_LIMIT} characters", "rejected")
    if _depth(found) > DEPTH_LIMIT:
        return wrong(f"the final answer is nested more than {DEPTH_LIMIT} deep", "rejected")
    text = normalise(found)
    if not text:
        return wrong("the final answer is empty", "no_answer")
    try:
        equal = _equal(gold, text)
    except (MemoryError, RecursionError, OverflowError) as error:
        return wrong(f"comparing took more than its share ({type(error).__name__})", "rejected")
    return correct() if equal else wrong(f"{text[:200]} is not the answer")


def final_answer(response: str) -> str | None:
    """The answer a response commits to, or None: thoughts are left out, then the last balanced box, else the text after
    the last `####`, else after the last "answer is", else the whole response when it is short."""
    text = response[-RESPONSE_LIMIT:].rpartition("</think>")[2].partition("<think>")[0]
    box = _last_box(text)
    if box is not None:
        return box
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip() or None
    stated = [match.end() for match in STATED.finditer(text)]
    if stated:
        line = text[stated[-1] :].lstrip().partition("\n")[0]
        return SENTENCE_END.split(line, maxsplit=1)[0].strip() or None
    text = text.strip()
    return text if text and "\n" not in text and len(text) <= PLAIN_LIMIT else None


def _last_box(text: str) -> str | None:
    """What the last balanced `\\boxed{}` or `\\fbox{}` holds; the outermost of nested ones that end together."""
    stack: list[int | None] = []
    best: tuple[int, int] | None = None
    for part in BOX_PARTS.finditer(text):
        if part[0].startswith(("\\boxed", "\\fbox")):
            stack.append(part.end())
        elif part[0] == "{":
            stack.append(None)
        elif part[0] == "}" and stack:
            start = stack.pop()
            if start is not None:
                best = (start, part.start())
    return None if best is None else text[best[0] : best[1]]


def gold_answer(gold: object) -> str:
    """The final answer of a data row: after `####` or in a box where the row holds a whole solution, else all of it."""
    text = str(gold)
    if "####" in text or _last_box(text) is not None:
        return final_answer(text) or ""
    return text.strip()


def _equal(gold: str, answer: str) -> bool:
    """Equality of whole answers: one value, or collections item by item."""
    if not answer:
        return False
    decided = _quantities_equal(gold, answer)
    if decided is not None:
        return decided
    if canonical(gold) == canonical(answer):
        return True
    gold, answer = _without_assignment(gold, answer)
    ours, theirs = _collection(gold), _collection(answer)
    if ours is None and theirs is None:
        return _leaf_equal(gold, answer)
    if ours is None or theirs is None:
        # An inequality may answer an interval, and the other way round.
        return bool(RELATION.search(gold if ours is None else answer)) and symbolically_equal(gold, answer)
    kind, items = ours
    if kind != theirs[0] or len(items) != len(theirs[1]):
        return False
    if kind in ("set", "union"):
        return _same_multiset(items, theirs[1])
    return all(map(_equal, items, theirs[1]))


def _quantities_equal(gold: str, answer: str) -> bool | None:
    """Exact comparison when both are numbers with or without a unit; None when that does not decide."""
    ours, theirs = quantity(gold), quantity(answer)
    if ours is None or theirs is None:
        return None
    (value, percent), (other, other_percent) = ours, theirs
    if percent == other_percent:
        return value == other
    # 50% is 50 of the unit percent, and it is also 0.5.
    return value == other or (value / 100 == other if percent else value == other / 100)


def _without_assignment(gold: str, answer: str) -> tuple[str, str]:
    """`x=5` answers `5`; where both name a left side it has to be the same one."""
    ours, theirs = ASSIGNMENT.fullmatch(gold), ASSIGNMENT.fullmatch(answer)
    if ours and theirs:
        return (ours[2], theirs[2]) if canonical(ours[1]) == canonical(theirs[1]) else (gold, answer)
    if ours and "=" not in answer and not RELATION.search(answer):
        return ours[2], answer
    if theirs and "=" not in gold and not RELATION.search(gold):
        return gold, theirs[2]
    return gold, answer


def _collection(text: str) -> tuple[str, list[str]] | None:
    """Kind ("set", "union", or the two brackets of a tuple or interval) and items; None for a single value."""
    if number(text) is not None or "\\begin" in text:
        return None
    cups = re.split(r"\\cup(?![A-Za-z])", text)
    if len(cups) > 1 and all(_depth_balanced(part) for part in cups):
        return "union", [part.strip() for part in cups]
    items = _split(text)
    if len(items) > 1:
        return "set", items
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text):
        return "set", _split(text[2:-2].strip())
    if text[0] in "([" and text[-1] in ")]" and _closes_at_end(text):
        inner = _split(text[1:-1].strip())
        if len(inner) > 1:
            return text[0] + text[-1], inner
        if text[0] + text[-1] == "()":
            return _collection(inner[0]) if inner[0] else None
    if text.count("\\pm") == 1:
        return "set", [text.replace("\\pm", sign).lstrip("+ ").replace("  ", " ") for sign in ("+", "-")]
    return None


def _brackets(text: str) -> list[tuple[int, int]]:
    """Place and depth after each bracket; `\\{` counts as one."""
    depth, found = 0, []
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        else:
            continue
        found.append((place, depth))
    return found


def _depth(text: str) -> int:
    return max((depth for _, depth in _brackets(text)), default=0)


def _depth_balanced(text: str) -> bool:
    depths = [depth for _, depth in _brackets(text)]
    return not depths or (depths[-1] == 0 and min(depths) == 0)


def _closes_at_end(text: str) -> bool:
    """Whether the first bracket is closed by the last one."""
    return next((place for place, depth in _brackets(text) if depth <= 0), -1) == len(text) - 1


def _split(text: str) -> list[str]:
    """Parts between separators that stand in no bracket; upright `or` and `and` separate like commas."""
    text = bare(text)
    brackets, depth, items, start = _brackets(text), 0, [], 0
    upcoming = 0
    for separator in SEPARATOR.finditer(text):
        while upcoming < len(brackets) and brackets[upcoming][0] < separator.start():
            depth = brackets[upcoming][1]
            upcoming += 1
        if depth == 0:
            items.append(text[start : separator.start()].strip())
            start = separator.end()
    items.append(text[start:].strip())
    # "1, 2, and 3" leaves nothing between the comma and the word.
    return [item for item in items if item] or [""]


def _same_multiset(gold: list[str], answer: list[str]) -> bool:
    rest = list(answer)
    unmatched = []
    for item in gold:
        same = next((other for other in rest if canonical(other) == canonical(item)), None)
        if same is None:
            unmatched.append(item)
        else:
            rest.remove(same)
    if len(unmatched) > ITEM_LIMIT and any(number(item) is None for item in unmatched):
        return False
    for item in unmatched:
        match = next((other for other in rest if _equal(item, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _leaf_equal(gold: str, answer: str) -> bool:
    """One expression against one: as strings where only that is safe, else symbolically."""
    gold, answer = _in_one_pair(gold), _in_one_pair(answer)
    decided = _quantities_equal(gold, answer)
    if decided is not None:
        return decided
    ours, theirs = canonical(gold), canonical(answer)
    if ours == theirs:
        return True
    if ours.isalpha():
        return ours.casefold() == theirs.casefold() and (len(ours) > 1 or ours in "ABCDEFGH")
    if any(WRITTEN_ONE_WAY.search(text) or not text.isascii() for text in (ours, theirs)):
        return False
    if ("=" in ours) != ("=" in theirs):
        return False
    if _has_words(gold) or _has_words(answer, symbols=gold):
        return False
    return symbolically_equal(gold, answer)


def _in_one_pair(text: str) -> str:
    text = bare(text)
    while text.startswith("(") and text.endswith(")") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _has_words(text: str, symbols: str | None = None) -> bool:
    """Whether letters stand together that are no function: words, unless they can be a product of the gold's symbols
    (in the gold itself, of up to three)."""
    runs = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+", " ", text))
    return any(
        not FUNCTION.fullmatch(run) and (len(run) > 3 if symbols is None else not set(run) <= set(symbols))
        for run in runs
    )
