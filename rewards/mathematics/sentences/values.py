"""Find the value that a sentence states. A sentence that denies, doubts or changes a value states none."""

import re

from rewards.mathematics.quantities.parsing import parse_quantity
from rewards.mathematics.sentences.patterns import (
    ADVERBS,
    BOUND,
    CHANGES,
    CHOICE_SENTENCE,
    CLAUSE_LIMIT,
    CLAUSE_START,
    DENIAL,
    DENIES,
    DOUBT,
    FORMULA,
    LINKING_VERB,
    NO_RESULT,
    NUMBER,
    OTHER_ANSWER,
    OTHER_NUMBER,
    PLAIN_BEFORE,
    PLAIN_BEHIND,
    PROSE,
    RESULT_LINE,
    SENTENCE_END,
    SENTENCE_PART,
    UNIT_BEHIND,
    UNIT_LIMIT,
    VAGUE,
    WORD,
    WORKING,
    WORKING_LIMIT,
)


def value_at_start(text: str) -> str:
    """Return the answer in the sentence at the start of a text.

    The sentence ends at a full stop or line end outside a formula. A sentence of prose with one value is reduced to the
    value: "Alice has 5 apples left." -> `"5"`.
    """
    end = next((part.start() for part in SENTENCE_PART.finditer(text) if len(part[0]) == 1), len(text))
    sentence = ADVERBS.sub("", text[:end].rstrip("*_ ").strip(), count=1)
    if len(WORD.findall(sentence)) < 3 or DOUBT.search(sentence) or not sentence[0].isalpha():
        return sentence
    before, value, _ = _only_value(sentence)
    is_stated = value and not VAGUE.search(sentence) and not is_denied(before)
    return _after_last_is(sentence) or (value if is_stated else sentence)


def is_denied(before: str) -> bool:
    """Return whether the clause before a link or value denies or doubts the value, or makes it that of something else.

    Examples: `"I doubt it"`, `"Their sum minus one"` and `"none of the "` -> True.
    """
    clause = CLAUSE_START.split(before[-CLAUSE_LIMIT:])[-1]
    return bool(DENIES.search(clause) or CHANGES.search(clause))


def is_other_answer(before: str) -> bool:
    """Return whether the words before "answer is" make it another answer: `"The wrong "`, `"Twice the "` -> True."""
    return is_denied(before) or OTHER_ANSWER.search(before[-CLAUSE_LIMIT:]) is not None


def repeats_label(lines: list[str]) -> bool:
    """Return whether the last two lines name results alike, as guesses do: `"Total: 5"` and `"Total: 6"`."""
    found = [RESULT_LINE.fullmatch(line.strip("*_ .!")) for line in lines[-2:]]
    labels = [line[0][: line.start("value") - line.start()] for line in found if line]
    return len(labels) == 2 and labels[0] == labels[1]


def _only_value(text: str) -> tuple[str, str, str]:
    """Return the only formula or number of a text, between the text before and after it; `""` for it if it has more."""
    prose = FORMULA.sub(lambda formula: " " * len(formula[0]), text)
    found = [*FORMULA.finditer(text), *NUMBER.finditer(prose)]
    if len(found) != 1:
        return text, "", ""
    return text[: found[0].start()], found[0][0], text[found[0].end() :]


def _after_last_is(sentence: str) -> str | None:
    """Return the formula, or the number with its unit, after the last "is" of a sentence; None if there is none."""
    links = list(LINKING_VERB.finditer(sentence))
    tail = ADVERBS.sub("", sentence[links[-1].end() :].strip(" :*_"), count=1) if links else ""
    if tail and is_denied(sentence[: links[-1].start()]):
        return None
    if not tail or PROSE.search(tail + " ") or not (FORMULA.search(tail) or NUMBER.search(tail)):
        return None
    return tail


def value_of_last_sentence(line: str) -> str | None:
    """Return the value that the last sentence of a line states, or None."""
    return _value_of_sentence(re.split(r"(?<=[.!?])\s+", line.strip("*_ "))[-1])


def _value_of_sentence(sentence: str) -> str | None:
    """Return the value that a last sentence states, or None.

    It is what follows the last "is" ("y is 5"), the last side of an equation ("4 x 8 = 32 pens"), or the only value of
    a complete sentence ("5 cars drove past.").
    """
    text = sentence.strip("*_ .!")
    result, choice = RESULT_LINE.fullmatch(text), CHOICE_SENTENCE.fullmatch(text)
    if choice:
        return choice[1] or choice[2]
    if result and not _is_refused_label(result["label"] or ""):
        return (result["name"] or "") + result["value"]
    formulas = FORMULA.findall(text)
    working, _, tail = FORMULA.sub(" ", text).rpartition("=")
    if WORKING.search(working[-WORKING_LIMIT:]) and not DENIAL.search(text):
        before, value, after = _only_value(tail)
        is_vague = formulas or DOUBT.search(tail) or VAGUE.search(before) or BOUND.search(after)
        return (value if len(WORD.findall(tail)) > 1 else tail.strip()) if value and not is_vague else None
    if not text or DOUBT.search(sentence):
        return None
    stated = _after_last_is(text)
    if stated or working or NO_RESULT.search(text):
        return stated
    before, value, after = _only_value(text)
    is_complete = len(WORD.findall(text)) > 1 and not text[0].islower() and SENTENCE_END.search(sentence)
    if not (is_complete and value and PLAIN_BEFORE.fullmatch(before) and PLAIN_BEHIND.fullmatch(after)):
        return None
    if VAGUE.search(before) or BOUND.search(after) or OTHER_NUMBER.match(after) or is_denied(before):
        return None
    return _with_unit(value, after)


def _with_unit(value: str, after: str) -> str:
    """Return a number with what follows it in its sentence if that is a unit or a noun, else with the unit behind it.

    Examples: `"60"`, `" miles per hour"` -> `"60 miles per hour"`; `"540"`, `" meters a week"` -> `"540 meters"`;
    `"8"`, `" toys a week"` -> `"8"`.
    """
    if len(after) <= UNIT_LIMIT and parse_quantity(value + after):
        return value + after
    unit = UNIT_BEHIND.match(after)
    quantity = parse_quantity(value + unit[0]) if unit else None
    return value + unit[0] if unit and quantity and (quantity.dimensions or not quantity.names) else value


def _is_refused_label(label: str) -> bool:
    """Return whether the label of a result denies it or makes it a part of one."""
    words = label.rstrip(":= ")
    return is_denied(words) or any(pattern.search(words) for pattern in (DOUBT, NO_RESULT, VAGUE))
