"""Answers that are words, letters of a choice, times or numbers in another base: these compare as strings."""

import re

from rewards.mathematics.expression import NAMES
from rewards.mathematics.numerals import in_words
from rewards.mathematics.text import WRAPPED_TEXT, bare, canonical

WORDS = re.compile(r"[A-Za-z][A-Za-z' .-]*")
CHOICE = re.compile(
    r"(?i:(?:the )?(?:option|choice|answer)s? ?:? ?)?(?:\( ?([A-J]) ?\)|([A-J])(?=[).:]|$)[).:]*)[.:]? *(.*)", re.DOTALL
)
LABELLED = re.compile(r"\( ?[A-J] ?\)[.:]? *([^ ].*)", re.DOTALL)
OTHER_CHOICE = re.compile(r"(?<![A-Za-z])[A-J](?![A-Za-z])|\b(?:or|and|not)\b")
TIME = re.compile(r"([0-9]{1,2})(?: ?: ?([0-9]{2}))?(?: ?: ?([0-9]{2}))? ?(?:([ap]) ?\.? ?m\b\.?)?", re.IGNORECASE)
BASED = re.compile(r"\(?([0-9A-F]+(?:\.[0-9A-F]+)?)\)? ?_ ?\{? ?\(?([0-9]{1,2}|[a-z]+)\)? ?\}?")
BASED_IN_WORDS = re.compile(r"([0-9A-F]+) (?:in )?base[ -]([0-9]{1,2}|[a-z]+)")
JOINED = re.compile(r"\b(?:and|or)\b")
ARTICLE = re.compile(r"(?:the|an|a) ")
SAME = {
    "nosolutions": "nosolution",
    "nosuchsolution": "nosolution",
    "norealsolutions": "norealsolution",
    "emptyset": "nosolution",
    "dne": "doesnotexist",
    "infinitelymanysolutions": "infinitelymany",
    "infinite": "infinitelymany",
}
EMPTY = {r"\emptyset": "nosolution"}


def wordy(text: str) -> bool:
    """Whether a text is words: upright letters, or a run of them too long for a product of symbols."""
    plain = bare(text)
    if canonical(text) in EMPTY:
        return True
    if not WORDS.fullmatch(plain) or JOINED.search(plain) or plain.lower().startswith("all real"):
        return False
    runs = re.findall("[A-Za-z]+", plain)
    if all(run in NAMES for run in runs) or (len(plain) == 1 and not WRAPPED_TEXT.search(text)):
        return False
    if WRAPPED_TEXT.search(text):
        return len(plain) > 1
    return any(len(run) > 3 or (len(run) > 1 and run.isupper()) for run in runs) or plain.lower() in ("yes", "no", "on")


def same_words(gold: str, answer: str) -> bool:
    return _folded(gold) == _folded(answer)


def _folded(text: str) -> str:
    if canonical(text) in EMPTY:
        return EMPTY[canonical(text)]
    plain = ARTICLE.sub("", bare(text).casefold().strip(), count=1)
    letters = re.sub(r"[ .'\"!-]", "", plain)
    return SAME.get(letters, letters)


def choices_equal(gold: str, answer: str) -> bool | None:
    """Whether two choices name the same letter; None where the gold is no choice or the answer could be its content."""
    ours, theirs = CHOICE.fullmatch(bare(gold)), CHOICE.fullmatch(bare(answer))
    if ours is None or OTHER_CHOICE.search(ours[3]):
        return None
    letter = ours[1] or ours[2]
    if theirs is None:
        alone = canonical(answer).strip("().")
        return alone.upper() == letter if len(alone) == 1 and not ours[3] else None
    if OTHER_CHOICE.search(theirs[3]):
        return False
    return letter == (theirs[1] or theirs[2])


def content(text: str) -> str | None:
    """What stands behind the letter of a choice in brackets, `(C) 12`; None for anything else."""
    found = LABELLED.fullmatch(bare(text))
    return None if found is None or OTHER_CHOICE.search(found[1]) else found[1]


def special(text: str) -> tuple[str, ...] | None:
    """A time of day with its half, or digits with their base; None for anything else."""
    plain = bare(text)
    based = BASED.fullmatch(plain) or BASED_IN_WORDS.fullmatch(plain)
    if based:
        base = based[2] if based[2].isdigit() else in_words(based[2])
        return ("base", based[1], str(base)) if base is not None else None
    time = TIME.fullmatch(plain)
    if time and time[4]:
        return ("time", str(int(time[1])), time[2] or "00", time[3] or "00", time[4].lower())
    return None
