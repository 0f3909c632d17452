"""Extract the final answer of a response.

Text inside `<think>` does not count. The final answer is the first of these that the response has:

1. its last `\\boxed{}`. Boxes that are joined by `and`, `or` or a comma count together, so that a list of guesses is
   compared as a list;
2. the text after the last marker: `#### x`, "the answer is x" or a closing line `A: x`; only the content of the last
   `<answer>` element is searched if there is one;
3. the whole response if it is only an answer, the only formula of a short response, the last line if that is one
   formula or one number, or the value of the last sentence: x in "y is x" and in "Total: x", or its only value.

A sentence that denies or doubts its value ("I doubt it is 5"), or states that of something else ("twice the answer is
10"), has no answer.

Every step takes time linear in the length of the response.
"""

import re
from dataclasses import dataclass

from rewards.mathematics.sentences.patterns import DOUBT, FORMULA, LINKING_VERB, PROSE, VALUE_LINE, WORD
from rewards.mathematics.sentences.values import (
    is_denied,
    is_other_answer,
    repeats_label,
    value_at_start,
    value_of_last_sentence,
)

RESPONSE_LIMIT = 32_768
"""Number of characters at the end of a response that are read."""
BOX_WINDOW = 4_000
"""Boxes are searched first in the text from this many characters before the last box, then in the whole response."""
MARKERS_LIMIT = 5
"""Number of markers that are tried, starting from the last one."""
UNMARKED_LIMIT = 300
"""Largest number of characters of a response without a box or marker that can be an answer as a whole."""

# The start of a box, an escaped character, or a brace: what decides where a box ends.
BOX_PARTS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
# A box without braces: `\boxed 5`, `\boxed \frac{1}{2}`.
BOX_WITHOUT_BRACES = re.compile(r"\\(?:boxed|fbox)[ \t]+([^\s{}$\\]+|\\[A-Za-z]+(?:\{[^{}]*\})*)")
# What may be between two boxes that count together: `x =`, spaces, punctuation, "and", "or".
BETWEEN_JOINED_BOXES = re.compile(
    r"(?<![A-Za-z])[A-Za-z](?:_\{?\w\}?)? ?=|[\s$,;:&]|\\[,;: ()\[\]]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
)
JOINING_WORD = re.compile(r"[,;]|and|or")
# Tokens of chat templates, such as `<|im_end|>`. Those of TURN_END end the response.
SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>")
TURN_END = re.compile(r"<\|(?:im_(?:start|end)|eot_id|end_?of_?text|end)\|>|</s>")
# `#### 5` as a line, or inside a line before a number or formula.
HASHES = re.compile(r"^[ \t]*####(?:[ \t]+(.*))?$|####[ \t]*(?=[-+$.0-9\\])(.*)$", re.MULTILINE)
# "the answer is 5", "Answer: 5", or "final answer" as a line.
STATED = re.compile(
    r"(?<![\w/])answers?\b[ \t*_]*(?:(?:is|are|=|:)[ \t:*_]*|(?=\$|\\[(\[]))|^[ \t>#*_]*final answer[ \t*_]*$",
    re.IGNORECASE | re.MULTILINE,
)
# `A: 5` as the last line.
CLOSING_A = re.compile(r"^A: *(.+)\s*\Z", re.MULTILINE)
SENTENCE_BREAK = re.compile(r"[A-Za-z0-9)][.!?] +[A-Z]")
# A line that is no bare answer: a sentence, or the side of an equation.
STATEMENT_START = re.compile(r"[*_ ]*(?:[A-Z]|[-=]>|[=⇒→∴])")
REMARKS = {"correct", "right", "clear", "helpful", "wrong", "as follows", "below", "unique", "reasonable", "consistent"}
"""Texts after a marker that describe an answer instead of giving it, as in "I hope the answer is correct"."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """A final answer as text, and the content of each box if several boxes were joined."""

    text: str
    boxes: tuple[str, ...] = ()


def final_answer(response: str) -> FinalAnswer | None:
    """Return the final answer of a response, or None if it has none."""
    text = readable(response)
    boxes = last_boxes(text)
    if boxes:
        return of_boxes(boxes)
    inside = last_element(text, "answer")
    text = text if inside is None else inside
    marked = _after_last_marker(text)
    if marked is not None:
        return FinalAnswer(marked) if marked else None
    unmarked = _unmarked_answer(text.strip())
    return FinalAnswer(unmarked) if unmarked else None


def readable(response: str) -> str:
    """Return the end of a response without the text in `<think>` and without tokens of chat templates."""
    text = response.rpartition("</think>")[2].partition("<think>")[0][-RESPONSE_LIMIT:].strip()
    end = TURN_END.search(text, 1)
    return SPECIAL_TOKEN.sub(" ", text[: end.start()] if end else text).replace(r"\\boxed", r"\boxed")


def last_element(text: str, name: str) -> str | None:
    """Return the text in the last element `<name>...</name>`, in whatever case its tags are; None if there is none."""
    if "</" not in text:  # as in most responses; the search for tags is slower than all else here
        return None
    tags = [(found.start(), found.end()) for found in re.finditer(rf"</?{name}>", text, re.IGNORECASE | re.ASCII)]
    while tags and text[tags[-1][0] + 1] != "/":
        tags.pop()
    end = tags[-1][0] if tags else 0
    start = next((after for before, after in reversed(tags) if text[before + 1] != "/"), None)
    return None if start is None else text[start:end]


def of_boxes(boxes: list[str]) -> FinalAnswer:
    """Return the final answer that one or more joined boxes give."""
    return FinalAnswer(", ".join(boxes), tuple(boxes)) if len(boxes) > 1 else FinalAnswer(boxes[0])


def last_boxes(text: str) -> list[str]:
    """Return the content of the last balanced `\\boxed{}` or `\\fbox{}` and of the boxes joined to it.

    Of nested boxes the outermost counts. Equal contents are returned once.
    Example: `"\\boxed{1} and \\boxed{2}"` -> `["1", "2"]`; `"\\boxed{1}. No, \\boxed{2}"` -> `["2"]`.
    """
    start = min((position for position in (text.find(r"\boxed"), text.find(r"\fbox")) if position >= 0), default=-1)
    if start < 0:
        return []
    last = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    spans = _box_spans(text, max(start, last - BOX_WINDOW)) or _box_spans(text, start)
    if not spans:
        return []
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        between = text[span[1] + 1 : joined[0][2]]
        if len(between) > 100 or not JOINING_WORD.search(between) or BETWEEN_JOINED_BOXES.sub("", between):
            break
        joined.insert(0, span)
    return list(dict.fromkeys(text[inner:end].strip() for inner, end, _ in joined))


def _box_spans(text: str, start: int) -> list[tuple[int, int, int]]:
    """Return (start of the content, end of the content, start of the command) for each outermost box."""
    stack: list[tuple[int, int] | None] = []
    spans: list[tuple[int, int, int]] = []
    for part in BOX_PARTS.finditer(text, start):
        if part[0].startswith((r"\boxed", r"\fbox")):
            stack.append((part.end(), part.start()))
        elif part[0] == "{":
            stack.append(None)
        elif part[0] == "}" and stack:
            opened = stack.pop()
            if opened is not None:
                while spans and spans[-1][2] > opened[1]:
                    spans.pop()
                spans.append((opened[0], part.start(), opened[1]))
    spans += [(found.start(1), found.end(1), found.start()) for found in BOX_WITHOUT_BRACES.finditer(text, start)]
    return sorted(spans, key=lambda span: span[2])


def _after_last_marker(text: str) -> str | None:
    """Return the text after the last marker of an answer that is not followed by a remark; None if there is none.

    It is empty if the words before the marker deny the answer or change it: "Twice the answer is 72".
    """
    found = [match for marker in (STATED, HASHES, CLOSING_A) for match in marker.finditer(text)]
    for latest in sorted(found, key=lambda match: match.start(), reverse=True)[:MARKERS_LIMIT]:
        if latest.re is STATED:
            candidate = value_at_start(text[latest.end() :].lstrip())
        else:
            candidate = next((group for group in latest.groups() if group), "").strip()
        if candidate.lower() not in REMARKS:
            return "" if latest.re is STATED and is_other_answer(text[: latest.start()]) else candidate
    return None


def _unmarked_answer(text: str) -> str | None:
    """Return the answer of a response without box or marker, or None.

    The response is only an answer, or is short with one formula, or its last line is one formula or number, or its last
    sentence states a value.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    stated = None if repeats_label(lines) else value_of_last_sentence(lines[-1])
    formulas = list(FORMULA.finditer(text))
    if len(text) <= UNMARKED_LIMIT:
        before, after = text[: formulas[0].start()] if formulas else "", text[formulas[-1].end() :] if formulas else ""
        if len(formulas) == 1 and WORD.search(before) and (not WORD.search(after) or LINKING_VERB.match(after.strip())):
            return None if DOUBT.search(before + after) or is_denied(before) else formulas[0][0]
        if stated and len(lines) == 1 and STATEMENT_START.match(text):
            return stated
        if len(lines) == 1 and not PROSE.search(text + " ") and not SENTENCE_BREAK.search(text):
            return text
        if not any(len(WORD.findall(line)) > 1 for line in lines) and not _is_value_below_working(lines):
            return text
    last = lines[-1].strip("*_ .")
    if FORMULA.fullmatch(last) or _is_value_below_working(lines):
        return last
    return stated or (text if len(lines) == 1 and len(text) <= UNMARKED_LIMIT else None)


def _is_value_below_working(lines: list[str]) -> bool:
    """Return whether the last line is only a number and the line before it is not, so that it is no list of guesses."""
    values = [VALUE_LINE.fullmatch(line.strip("*_ .")) is not None for line in lines[-2:]]
    return values == [False, True] and not DOUBT.search(lines[-2])
