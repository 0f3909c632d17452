"""Compare answers that are words, letters of a multiple choice, times of day or numbers in a given base, as strings."""

import re

from rewards.mathematics.expression import KNOWN_WORDS
from rewards.mathematics.numerals import number_from_words
from rewards.mathematics.text import WRAPPED_TEXT, canonical, unwrap_text

WORDS = re.compile(r"[A-Za-z][A-Za-z' .-]*")
# `C`, `(C)`, `C. 12`, `option C`: groups 1 and 2 are the letter, 3 the content.
CHOICE = re.compile(
    r"(?i:(?:the )?(?:option|choice|answer)s? ?:? ?)?(?:\( ?([A-J]) ?\)|([A-J])(?=[).:]|$)[).:]*)[.:]? *(.*)", re.DOTALL
)
# `(C) 12`.
LABELLED_CHOICE = re.compile(r"\( ?[A-J] ?\)[.:]? *([^ ].*)", re.DOTALL)
# Another letter, or a word that makes the choice doubtful.
OTHER_CHOICE = re.compile(r"(?<![A-Za-z])[A-J](?![A-Za-z])|\b(?:or|and|not)\b")
# `5:30 pm`, `17:30:00`.
TIME = re.compile(r"([0-9]{1,2})(?: ?: ?([0-9]{2}))?(?: ?: ?([0-9]{2}))? ?(?:([ap]) ?\.? ?m\b\.?)?", re.IGNORECASE)
# `1101_2`, `1101_{two}`.
NUMBER_IN_BASE = re.compile(r"\(?([0-9A-F]+(?:\.[0-9A-F]+)?)\)? ?_ ?\{? ?\(?([0-9]{1,2}|[a-z]+)\)? ?\}?")
# `1101 in base 2`.
NUMBER_IN_BASE_WORDS = re.compile(r"([0-9A-F]+) (?:in )?base[ -]([0-9]{1,2}|[a-z]+)")
JOINING_WORD = re.compile(r"\b(?:and|or)\b")
ARTICLE = re.compile(r"(?:the|an|a) ")
SYNONYMS = {
    "nosolutions": "nosolution",
    "nosuchsolution": "nosolution",
    "norealsolutions": "norealsolution",
    "emptyset": "nosolution",
    "dne": "doesnotexist",
    "infinitelymanysolutions": "infinitelymany",
    "infinite": "infinitelymany",
}
EMPTY_SET = {r"\emptyset": "nosolution"}


def is_words(text: str) -> bool:
    """Return whether a text is words: letters in a text command, or more adjacent letters than a product has.

    Examples: `"\\text{no}"` and `"Monday"` -> True; `"abc"`, `"sin"` and `"\\text{x or y}"` -> False.
    """
    plain = unwrap_text(text)
    if canonical(text) in EMPTY_SET:
        return True
    if not WORDS.fullmatch(plain) or JOINING_WORD.search(plain) or plain.lower().startswith("all real"):
        return False
    letter_runs = re.findall("[A-Za-z]+", plain)
    if all(run in KNOWN_WORDS for run in letter_runs) or (len(plain) == 1 and not WRAPPED_TEXT.search(text)):
        return False
    if WRAPPED_TEXT.search(text):
        return len(plain) > 1
    long = any(len(run) > 3 or (len(run) > 1 and run.isupper()) for run in letter_runs)
    return long or plain.lower() in ("yes", "no", "on")


def same_words(gold: str, answer: str) -> bool:
    """Return whether two texts are the same words, apart from case, spaces, punctuation, an article and SYNONYMS."""
    return _fold_words(gold) == _fold_words(answer)


def _fold_words(text: str) -> str:
    if canonical(text) in EMPTY_SET:
        return EMPTY_SET[canonical(text)]
    plain = ARTICLE.sub("", unwrap_text(text).casefold().strip(), count=1)
    letters = re.sub(r"[ .'\"!-]", "", plain)
    return SYNONYMS.get(letters, letters)


def choices_equal(gold: str, answer: str) -> bool | None:
    """Return whether the answer names the letter of the gold choice, as `"(C) 12"` and `"C"` do.

    Returns None if the gold is not a choice, or if the answer is not a choice but may be the content of the gold's.
    """
    gold_choice, answer_choice = CHOICE.fullmatch(unwrap_text(gold)), CHOICE.fullmatch(unwrap_text(answer))
    if gold_choice is None or OTHER_CHOICE.search(gold_choice[3]):
        return None
    letter = gold_choice[1] or gold_choice[2]
    if answer_choice is None:
        alone = canonical(answer).strip("().")
        return alone.upper() == letter if len(alone) == 1 and not gold_choice[3] else None
    if OTHER_CHOICE.search(answer_choice[3]):
        return False
    return letter == (answer_choice[1] or answer_choice[2])


def choice_content(text: str) -> str | None:
    """Return the content of a labelled choice: `"(C) 12"` -> `"12"`. None for any other text."""
    found = LABELLED_CHOICE.fullmatch(unwrap_text(text))
    return None if found is None or OTHER_CHOICE.search(found[1]) else found[1]


def time_or_base(text: str) -> tuple[str, ...] | None:
    """Parse a time of day with "am" or "pm", or digits with a base; None for any other text.

    Examples: `"5:30 pm"` -> `("time", "5", "30", "00", "p")`; `"1101_2"` -> `("base", "1101", "2")`.
    """
    plain = unwrap_text(text)
    in_base = NUMBER_IN_BASE.fullmatch(plain) or NUMBER_IN_BASE_WORDS.fullmatch(plain)
    if in_base:
        base = in_base[2] if in_base[2].isdigit() else number_from_words(in_base[2])
        return ("base", in_base[1], str(base)) if base is not None else None
    time = TIME.fullmatch(plain)
    if time and time[4]:
        return ("time", str(int(time[1])), time[2] or "00", time[3] or "00", time[4].lower())
    return None
