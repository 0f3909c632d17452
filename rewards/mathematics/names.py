"""Decide whether the left side of an equation only names the answer, as in `x = 5` and `f'(x) = 2x`.

A name is a symbol, possibly with index, argument or prime, a segment or angle, a derivative, a function of a symbol
such as `P(A)`, or words of a closed list such as "Area of ABC". In the gold, which is trusted, other words are names
too.
"""

import re

from rewards.mathematics.expressions.tokens import FUNCTIONS, SYMBOLS
from rewards.mathematics.quantities.counted import NOUNS, PLURALS, stem
from rewards.mathematics.text import canonical, closes_at_end, split_outside_brackets, unwrap_text

NAME_LIMIT = 60
"""Largest number of characters of a name."""
INDEX = r"(?:_ ?(?:\{[^{}]*\}|\w))"
MARKS = rf"(?:{INDEX}|'|\^ ?\{{? ?(?:\*|T) ?\}}?)*"
GREEK = "|".join(sorted(SYMBOLS))
DECORATION = r"\\(?:vec|hat|bar|d?dot|tilde|overline|overrightarrow|mathcal|mathbb|mathbf)"
DECORATED = rf"{DECORATION} ?(?:\{{ ?\\?[A-Za-z]{{1,10}} ?\}}|[A-Za-z])"
SYMBOL = rf"(?:[A-Za-z]|\\(?:{GREEK})(?![A-Za-z])|{DECORATED})"
ARGUMENT = r"[^()=<>]{1,30}"
NAMES = [
    re.compile(form)
    for form in (
        rf"{SYMBOL} ?{MARKS}",
        # A segment, polygon or angle: `AB`, `\triangle ABC`, `m\angle A`, `[ABC]`, `|AB|`, `|z|`, `|\vec{a}|`.
        rf"(?:m ?)?(?:\\(?:angle|measuredangle|triangle|overline|overrightarrow|odot|arc|square) ?)?"
        rf"\{{?[A-Z]'?(?: ?[A-Z]'?){{0,3}}\}}? ?{INDEX}?",
        rf"(?:m ?)?\\angle ?(?:[A-Za-z]|[0-9]|\\(?:{GREEK}))",
        r"\[ ?[A-Z]{3,6} ?\]",
        rf"\| ?(?:[A-Z]{{2}}|z{MARKS}|\\(?:vec|overline|overrightarrow) ?\{{? ?\w{{1,2}} ?\}}?) ?\|",
        r"\\frac ?\{ ?[A-Z]{2} ?\} ?\{ ?[A-Z]{2} ?\}",
        # Derivatives: `\frac{dy}{dx}`, `\frac{\partial f}{\partial x}`.
        r"\\frac ?\{ ?(?:d|\\partial) ?(?:\^ ?\{?[2-9]\}? ?)?\\?[A-Za-z]* ?\}"
        r" ?\{ ?(?:d|\\partial) ?[A-Za-z] ?(?:\^ ?\{?[2-9]\}? ?)?\}",
        r"(?:dy|df|dz) ?/ ?d[xt]|n ?\( ?[A-Z][^()=<>+*/-]{0,20}\)",
        # Probability and moments of anything: `P(A \cap B)`, `P(X > 3)`, `E[X]`, `\text{Var}(X)`.
        r"\\?(?:P|Pr|E|Var|V|D|Cov|SD|SE|mathbb ?\{?[EP]\}?) ?(?:\([^()]{1,30}\)|\[[^\[\]]{1,30}\])",
        r"\\?(?:det|dim|deg|rank|gcd|lcm|area|Area|vol|perimeter|tr|mean|median|mode) ?"
        r"\(?[A-Za-z](?: ?, ?[A-Za-z])?\)?",
    )
]
# A function of arguments: `f(x)`, `f^{-1}(x)`, `a_1(n)`.
FUNCTION_APPLIED = re.compile(
    rf"(?<![A-Za-z\\])([A-Za-z]|\\(?:{GREEK}))'*{INDEX}?'*(?:\^ ?\{{? ?(?:-1|\([0-9]\)) ?\}}?)? ?\({ARGUMENT}\)"
)
MULTIPLIED_LETTERS = set("xyzabcnkmt")
"""Letters that before a bracket are a factor, as in `x(y+1)`, instead of the name of a function."""
# A magnitude that words name: "Total cost of the pens".
NAME_WORD_LIST = """age altitude amount answer area average base breadth capacity charge circumference coefficient
constant cost degree density depth determinant diameter difference dimension discriminant distance domain earnings
equation expected expenditure expenses force fraction frequency function height hypotenuse income intercept interest
intersection length limit mass maximum mean measure median midpoint minimum mode money moment momentum number order
payment percent percentage perimeter period point population position power pressure price probability product profit
quantity quotient radius range rank rate ratio remainder result revenue salary savings side size slope solution speed
sum surface temperature term time total value variance velocity volume width weight work coordinate final maximal
minimal least greatest smallest largest lateral hours days minutes left new
possible ways required needed"""
NAME_WORDS = set(NAME_WORD_LIST.split())
JOINING = {"of", "the", "a", "an", "in", "for", "to", "by", "is", "per", "and"}
# Words that no name has: they say that the equation is false, or that it is one of another value.
NOT_NAME_WORD_LIST = """not false wrong incorrect never no half twice thrice double triple twofold minus negative
negated square squared cube cubed reciprocal inverse opposite conjugate other than unlike except if or third quarter
tenth log sqrt root"""
NOT_NAME_WORDS = set(NOT_NAME_WORD_LIST.split())
# `x-coordinate`
AXIS = re.compile(r"(?<![A-Za-z])[a-z]-(coordinate|intercept)")
# Digits, operators and commands that occur in values and not in names.
NOT_A_NAME = re.compile(
    r"[0-9+\-*/^&,;!%.]|\\(?:cdot|times|frac|sqrt|pm|pi|infty|cup|cap|begin|sum|int|binom|neg|lnot|sin|cos|tan|ln|log)"
)


def is_name(text: str, trusted: bool = False) -> bool:
    """Return whether the left side of an equation only names the answer.

    Args:
        trusted: the equation is a gold, so unknown words are a name as well.
    Examples: `x`, `f(x)`, `a_{n}`, `\\angle ABC`, `|AB|`, `(x, y)`, `\\frac{dy}{dx}`, `Area` -> True; `x^{-1}`,
    `\\sin x`, `half of x` -> False.
    """
    text = unwrap_text(text)
    if not 0 < len(text) <= NAME_LIMIT or not re.search("[A-Za-z]", text):
        return False
    if text[0] == "(" and closes_at_end(text):
        return all(is_name(part, trusted) for part in split_outside_brackets(text[1:-1], re.compile("[,;]"))[0])
    if set(re.findall("[a-z]+", text.partition("(")[0].lower())) & NOT_NAME_WORDS:
        return False
    if any(form.fullmatch(text) for form in NAMES):
        return True
    applied = FUNCTION_APPLIED.fullmatch(text)
    if applied:
        return applied[1] not in MULTIPLIED_LETTERS
    return _is_name_in_words(text, trusted)


def _is_name_in_words(text: str, trusted: bool) -> bool:
    """Return whether words name a magnitude: each is of a closed list, a noun, or capital letters of vertices."""
    text = AXIS.sub(r"\1", text)
    if NOT_A_NAME.search(text) or "(" in text:
        return False
    words = re.findall(r"[A-Za-z]+(?:'s)?|\\[A-Za-z]+", text)
    lower = [word.lower() for word in words]
    if not words or set(lower) & FUNCTIONS or max(map(len, words)) < 3:
        return False
    if trusted:
        return True
    named = any(word in NAME_WORDS for word in lower)
    return named and all(
        word in NAME_WORDS | JOINING | PLURALS or stem(word) in NOUNS or original.isupper()
        for word, original in zip(lower, words, strict=True)
    )


def name_without_index(text: str) -> str:
    """Return a name without its index: `x_1` and `x_2` are two values of the same unknown, `x`."""
    return canonical(re.sub(r"_ ?(?:\{ ?[0-9]+ ?\}|[0-9])", "", unwrap_text(text)))
