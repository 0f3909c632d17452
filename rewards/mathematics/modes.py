"""Extract the final answer of a response in another mode than strict (see `configs/extraction.py`).

Text inside `<think>` does not count in any mode. Every step takes time linear in the length of the response.
"""

import re
from collections import deque

from configs.extraction import BOXED, LAST_NUMBER, STRICT, tag
from rewards.mathematics.extraction import FinalAnswer, final_answer, last_boxes, of_boxes, readable

NO_ANSWER = {
    STRICT: "no \\boxed{}, no ####, no 'answer is', and not a bare short answer",
    BOXED: "no \\boxed{}",
    LAST_NUMBER: "no number at its end",
}
# TeX's separators of thousands: `1{,}234`, `1\,234`, `1,\!234`.
THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|,\\!)(?=[0-9]{3})")
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
VALUE_GOES_ON = re.compile(r"\s*(?:\^(?!\s*\{?\s*\\circ)|\\(?:sqrt|pi|cdot|times)(?![A-Za-z])|[×√π])")


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
    text = THOUSANDS.sub(",", text)
    last = deque(NUMBER.finditer(text), maxlen=1)
    if not last or VALUE_GOES_ON.match(text, last[0].end()):
        return None
    return FinalAnswer(last[0][0])


def _tagged(text: str, name: str) -> FinalAnswer | None:
    """Return the text in the last element `<name>...</name>`, or the content of the last box in it."""
    before, end, _ = text.rpartition(f"</{name}>")
    _, start, inside = before.rpartition(f"<{name}>")
    if not (end and start and inside.strip()):
        return None
    boxes = last_boxes(inside)
    return of_boxes(boxes) if boxes else FinalAnswer(inside.strip())
