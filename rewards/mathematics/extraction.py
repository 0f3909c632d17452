"""The final answer that a response commits to.

Thoughts do not count. The last box counts; boxes that only `and`, `or` or a comma joins count together, so that a list
of guesses is a list. Without a box the last of `#### x`, "the answer is x" and a closing `A: x`, in `<answer>` where
there is one; without those a response that is nothing but an answer, or its end, if that is one formula or a sentence
that says what something is. All of it takes linear time.
"""

import re
from dataclasses import dataclass

RESPONSE_LIMIT = 32_768
"""Characters of a response that are read, from its end."""
WINDOW = 4_000
"""Characters before the last box where the boxes that count are looked for first."""
MARKERS = 5
"""Markers of an answer that are read, from the last one on."""
PLAIN_LIMIT = 300
"""A response without any marker is an answer only if it has at most this many characters."""

BOX_PARTS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
BOX_OF_ONE = re.compile(r"\\(?:boxed|fbox)[ \t]+([^\s{}$\\]+|\\[A-Za-z]+(?:\{[^{}]*\})*)")
JOINER = re.compile(
    r"(?<![A-Za-z])[A-Za-z](?:_\{?\w\}?)? ?=|[\s$,;:&]|\\[,;: ()\[\]]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
)
JOINING_WORD = re.compile(r"[,;]|and|or")
SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>")
TURN_END = re.compile(r"<\|(?:im_(?:start|end)|eot_id|end_?of_?text|end)\|>|</s>")
HASHED = re.compile(r"^[ \t]*####(?:[ \t]+(.*))?$|####[ \t]*(?=[-+$.0-9\\])(.*)$", re.MULTILINE)
STATED = re.compile(
    r"(?<![\w/])answers?\b[ \t*_]*(?:(?:is|are|=|:)[ \t:*_]*|(?=\$|\\[(\[]))|^[ \t>#*_]*final answer[ \t*_]*$",
    re.IGNORECASE | re.MULTILINE,
)
LETTERED = re.compile(r"^A: *(.+)\s*\Z", re.MULTILINE)
FORMULA = re.compile(
    r"\$\$[^$]{1,600}\$\$|\$[^$\n]{1,600}\$|\\\((?:[^\\\n]|\\[^()\n]){1,600}\\\)|\\\[(?:[^\\]|\\[^\[\]]){1,600}\\\]"
)
SENTENCE_PART = re.compile(FORMULA.pattern + r"|\n|[.!](?=[\s*<]|$)", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?[$€£]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?%?)(?![\w/])")
PROSE = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z]{2,}[ ,]+){3}")
LINKING = re.compile(r"(?<![A-Za-z])(?:is|are|equals|be)(?![A-Za-z])")
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
DOUBT = re.compile(
    r"\?|\b(?:not|or|either|neither|nor|maybe|perhaps|possibly|if|unless|except|but|isn't|wrong)\b", re.I
)
VAGUE = re.compile(
    r"\b(?:than|least|most|about|around|between|nearly|almost|roughly|over|under|above|below|up|by|from|to|any|every)\b",
    re.I,
)
REMARKS = {"correct", "right", "clear", "helpful", "wrong", "as follows", "below", "unique", "reasonable", "consistent"}
"""What a sentence after the answer says of it ("I hope the answer is correct")."""


@dataclass(frozen=True, slots=True)
class Final:
    """The answer, and, where several boxes were joined, what each of them holds."""

    text: str
    boxes: tuple[str, ...] = ()


def final_answer(response: str) -> Final | None:
    """The answer a response commits to, or None if it commits to nothing."""
    text = response.rpartition("</think>")[2].partition("<think>")[0][-RESPONSE_LIMIT:]
    text = text.strip()
    end = TURN_END.search(text, 1)
    text = SPECIAL_TOKEN.sub(" ", text[: end.start()] if end else text).replace(r"\\boxed", r"\boxed")
    boxes = last_boxes(text)
    if not boxes and "</answer>" in text:
        before = text.rpartition("</answer>")[0]
        text = before.rpartition("<answer>")[2] if "<answer>" in before else text
    if len(boxes) > 1:
        return Final(", ".join(boxes), tuple(boxes))
    if boxes:
        return Final(boxes[0])
    marked = _marked(text)
    if marked is not None:
        return Final(marked) if marked else None
    plain = _plain(text.strip())
    return Final(plain) if plain else None


def last_boxes(text: str) -> list[str]:
    """The last balanced `\\boxed{}` or `\\fbox{}`, the outermost of nested ones, and before it those joined to it."""
    start = min((place for place in (text.find(r"\boxed"), text.find(r"\fbox")) if place >= 0), default=-1)
    if start < 0:
        return []
    last = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    spans = _box_spans(text, max(start, last - WINDOW)) or _box_spans(text, start)
    if not spans:
        return []
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        between = text[span[1] + 1 : joined[0][2]]
        if len(between) > 100 or not JOINING_WORD.search(between) or JOINER.sub("", between):
            break
        joined.insert(0, span)
    return list(dict.fromkeys(text[inner:end].strip() for inner, end, _ in joined))


def _box_spans(text: str, start: int) -> list[tuple[int, int, int]]:
    """Where the contents of the outermost boxes begin and end, and where their commands begin."""
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
    spans += [(found.start(1), found.end(1), found.start()) for found in BOX_OF_ONE.finditer(text, start)]
    return sorted(spans, key=lambda span: span[2])


def _marked(text: str) -> str | None:
    """What follows the last marker of an answer; None where there is no marker."""
    found = [match for marker in (STATED, HASHED, LETTERED) for match in marker.finditer(text)]
    for latest in sorted(found, key=lambda match: match.start(), reverse=True)[:MARKERS]:
        if latest.re is STATED:
            said = _sentence(text[latest.end() :].lstrip())
        else:
            said = next((group for group in latest.groups() if group), "").strip()
        if said.lower() not in REMARKS:
            return said
    return None


def _sentence(text: str) -> str:
    """Up to the full stop or the end of the line, neither of them in a formula; of a sentence in prose, its value."""
    end = next((part.start() for part in SENTENCE_PART.finditer(text) if len(part[0]) == 1), len(text))
    sentence = text[:end].rstrip("*_ ").strip()
    if len(WORD.findall(sentence)) < 3 or DOUBT.search(sentence) or not sentence[0].isalpha():
        return sentence
    values = FORMULA.findall(sentence) + NUMBER.findall(FORMULA.sub(" ", sentence))
    return _linked(sentence) or (values[0] if len(values) == 1 and not VAGUE.search(sentence) else sentence)


def _linked(sentence: str) -> str | None:
    """What a sentence says something to be: the formula, or number with its unit, after its last `is`."""
    links = list(LINKING.finditer(sentence))
    tail = sentence[links[-1].end() :].strip(" :*_") if links else ""
    if not tail or PROSE.search(tail + " ") or not (FORMULA.search(tail) or NUMBER.search(tail)):
        return None
    return tail


def _plain(text: str) -> str | None:
    """A response that is nothing but an answer, or ends in a formula of its own or a sentence that says what it is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    formulas = list(FORMULA.finditer(text))
    if len(text) <= PLAIN_LIMIT:
        before, after = text[: formulas[0].start()] if formulas else "", text[formulas[-1].end() :] if formulas else ""
        if len(formulas) == 1 and WORD.search(before) and (not WORD.search(after) or LINKING.match(after.strip())):
            return None if DOUBT.search(before + after) else formulas[0][0]
        if len(lines) == 1 and not PROSE.search(text + " "):
            return text
        if not any(len(WORD.findall(line)) > 1 for line in lines):
            return text
    last = lines[-1].strip("*_ .")
    if FORMULA.fullmatch(last):
        return last
    sentence = re.split(r"(?<=[.!?])\s+", last)[-1]
    linked = None if DOUBT.search(sentence) else _linked(sentence)
    return linked or (text if len(lines) == 1 and len(text) <= PLAIN_LIMIT else None)
