"""Extract the final answer of a response in another mode than strict (see `configs/extraction.py`).

Text inside `<think>` does not count in any mode. Every step takes time linear in the length of the response.
"""

import re
from collections import deque

from configs.extraction import BOXED, LAST_NUMBER, STRICT, tag
from rewards.mathematics.extraction import FinalAnswer, final_answer, last_boxes, last_element, of_boxes, readable

NO_ANSWER = {
    STRICT: "no \\boxed{}, no ####, no 'answer is', and not a bare short answer",
    BOXED: "no \\boxed{}",
    LAST_NUMBER: "no number at its end",
}
# TeX's separators of thousands: `1{,}234`, `1\,234`, `1,\!234`.
THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|,\\!)(?=[0-9]{3})")
# Thousands that are separated by a blank: `1 200`.
SPACED_THOUSANDS = re.compile(r"(?<![\w.,/])[1-9][0-9]{0,2}(?:[ \u00a0\u2009\u202f][0-9]{3})+(?![\w/])")
# A number in prose or a formula: `-1,000.5`, `$5`, `2 3/4`, `50%`, `2e3`, `\frac{3}{4}`. No exponent, index or argument
# of a root, no ordinal (`2nd`), and no digit of a word (`H2`). A minus after a value subtracts.
NUMBER = re.compile(
    r"(?<![\w.^_])(?<![\^_]\{)(?<![\^_]-)(?<!\^\{-)(?<!sqrt\{)"
    r"(?:(?<![)\]}%])[-−])?(?:\\?\$|[€£])?"
    r"(?>(?:[0-9]+ ?)?\\[dt]?frac(?:\{[0-9]+\}|[0-9]){2}|[0-9]+ [0-9]+/[0-9]+"
    r"|(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?:/[0-9]+)?)"
    r"(?!(?:st|nd|rd|th)\b)(?:\\?%)?"
)
# What makes a number a part of a larger value: `2^{10}`, `3\sqrt{2}`, `5 \times 10^3`. `90^\circ` is a number.
VALUE_GOES_ON = re.compile(
    r"\s*(?:\^(?!\s*\{?\s*\\circ)|\\(?:sqrt|pi|cdot|times)(?![A-Za-z])|[×√π])|[^\W\d_]|!|[/:](?=\S)|\}\{"
    r"|[ \t]*[-+*/÷−][ \t]*(?:[A-Za-z](?![A-Za-z])|\\[A-Za-z])"
)
# The same before a number, its sign included: `10-5`, `x - 5`, `12:00`, `\frac{x}{3}`, `\pm 3`.
VALUE_BEFORE = re.compile(
    r"(?:[0-9)\]}%!]\$?|(?<![A-Za-z])[A-Za-z]\$?)[ \t]*(?:[-+*/×÷·−–]|\\(?:cdot|times|div)(?![A-Za-z]))[ \t]*\Z"
    r"|[0-9](?::| : )\Z|\}\{\Z|(?:\\pm(?![A-Za-z])|±)[ \t]*\Z"
)
BEFORE_LIMIT = 20
"""Characters before a number that are searched for a value that goes on in it."""


def extract(response: str, mode: str) -> FinalAnswer | None:
    """Return the final answer of a response in an extraction mode, or None if it has none."""
    if mode == STRICT:
        return final_answer(response)
    text = readable(response)
    if mode == LAST_NUMBER:
        return _last_number(text)
    if mode == BOXED:
        boxes = last_boxes(text)
        return of_boxes(boxes) if boxes else None
    return _tagged(text, tag(mode))


def no_answer(mode: str) -> str:
    """Return why a response has no final answer in a mode."""
    name = tag(mode)
    return f"no final answer: {f'no text in <{name}>...</{name}>' if name else NO_ANSWER[mode]}"


def _last_number(text: str) -> FinalAnswer | None:
    """Return the last number, with its sign; None if there is none, or if it is only a part of a larger value."""
    text = SPACED_THOUSANDS.sub(lambda found: ",".join(found[0].split()), THOUSANDS.sub(",", text))
    last = deque(NUMBER.finditer(text), maxlen=1)
    if not last or VALUE_GOES_ON.match(text, last[0].end()):
        return None
    digits = last[0].start() + last[0][0].startswith(("-", "−"))
    if VALUE_BEFORE.search(text, max(0, digits - BEFORE_LIMIT), digits):
        return None
    return FinalAnswer(last[0][0])


def _tagged(text: str, name: str) -> FinalAnswer | None:
    """Return the text in the last element `<name>...</name>`, or the content of the last box in it."""
    inside = (last_element(text, name) or "").strip()
    if not inside:
        return None
    boxes = last_boxes(inside)
    return of_boxes(boxes) if boxes else FinalAnswer(inside)
