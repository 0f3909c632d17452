"""Compare answers that are words or letters of a multiple choice."""

import re

from rewards.mathematics.expressions.tokens import KNOWN_WORDS, split_function
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
SYMBOL_CHOICES = {"I", "J"}
"""Letters that in lower case are the imaginary unit or an index, and not the choice."""
JOINING_WORD = re.compile(r"\b(?:and|or)\b")
LEADING_WORDS = re.compile(r"(?:there (?:is|are) )?(?:(?:the|an|a) )?")
LONE_LETTER = re.compile("(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
# `Amy`: a name of two or three letters, unlike the product `Abc`.
SHORT_NAME = re.compile(r"[A-Z][a-z]?[aeiouy][a-z]?")
SHORT_WORD_LIST = """act add age air ant any arc are arm art ask ate bad bag bar bat bed bee bet big bit box boy bud bug
bus but buy can cap car cat cup cut day did die dog dot dry due dub ear eat eel egg end era eve eye fan far fat fed few
fly for fox fun fur gap gas get god got gum gun guy hat hen her hot how ice ink its jam jar jet job key kid lap law led
leg let lid lie lot low man map mat may men met mix mob mud net new nil nod non nor not now nut oak odd off oil old one
our out owl own pan par pat pay pea pen per pet pie pig pin pit pop pot put ram ran rat raw red rib rid rob rod row rug
run sad sat saw say sea see set sew she sit six sky son sum sun tan tap tar tea ten the tie tin tip toe ton too top toy
two use van war was wax way wed wet who why wig win won yes yet zoo no on of or go
so to up us we"""
SHORT_WORDS = set(SHORT_WORD_LIST.split())
""""dog" and "god" are words and not products of the same letters."""
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
    functions = [run for run in letter_runs if run in KNOWN_WORDS or split_function(run)]
    are_functions = functions and len(functions) == sum(len(run) > 1 for run in letter_runs)
    if are_functions or (len(plain) == 1 and not WRAPPED_TEXT.search(text)):
        return False
    if WRAPPED_TEXT.search(text):
        return len(plain) > 1 and not LONE_LETTER.search(WRAPPED_TEXT.sub("", text))
    long = any(len(run) > 3 or (len(run) > 1 and run.isupper()) for run in letter_runs)
    return long or plain.lower() in SHORT_WORDS or SHORT_NAME.fullmatch(plain) is not None


def same_words(gold: str, answer: str) -> bool:
    """Return whether two texts are the same words, apart from case, spaces, punctuation, an article and SYNONYMS."""
    return _fold_words(gold) == _fold_words(answer)


def _fold_words(text: str) -> str:
    if canonical(text) in EMPTY_SET:
        return EMPTY_SET[canonical(text)]
    plain = LEADING_WORDS.sub("", unwrap_text(text).casefold().strip(), count=1)
    letters = re.sub(r"[ .'\"!-]", "", plain)
    return SYNONYMS.get(letters, letters)


def choices_equal(gold: str, answer: str) -> bool | None:
    """Return whether the answer names the letter of the gold choice, as `"(C) 12"` and `"C"` do.

    Returns None if the gold is not a choice, if the answer is not a choice but may be the content of the gold's, or if
    both have contents, which then must be equal too.
    """
    gold_choice, answer_choice = CHOICE.fullmatch(unwrap_text(gold)), CHOICE.fullmatch(unwrap_text(answer))
    if gold_choice is None or OTHER_CHOICE.search(gold_choice[3]):
        return None
    letter = gold_choice[1] or gold_choice[2]
    if answer_choice is None:
        alone = canonical(answer).strip("().")
        if len(alone) != 1 or gold_choice[3]:
            return None
        return alone == letter or (alone.upper() == letter and letter not in SYMBOL_CHOICES)
    if OTHER_CHOICE.search(answer_choice[3]):
        return False
    if gold_choice[3] and answer_choice[3]:
        return None  # the contents decide as well
    return letter == (answer_choice[1] or answer_choice[2])


def choice_parts(text: str) -> tuple[str, str] | None:
    """Return the letter and the content of a choice: `"C. 12"` -> `("C", "12")`. None for any other text."""
    found = CHOICE.fullmatch(unwrap_text(text))
    return (found[1] or found[2], found[3]) if found and found[3] and not OTHER_CHOICE.search(found[3]) else None


def choice_content(text: str) -> str | None:
    """Return the content of a labelled choice: `"(C) 12"` -> `"12"`. None for any other text."""
    found = LABELLED_CHOICE.fullmatch(unwrap_text(text))
    return None if found is None or OTHER_CHOICE.search(found[1]) else found[1]
