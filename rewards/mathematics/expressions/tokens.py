"""Split an expression into tokens: numbers, commands, letters and signs. Unknown words raise ParseError."""

import re

from rewards.mathematics.characters import GREEK

TOKEN_LIMIT = 400
"""Largest number of tokens of an expression."""
TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(\\[A-Za-z]+|\\.)|([A-Za-z]+)|(\*\*|[^\s]))", re.DOTALL)
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
INVERSE = {f"a{prefix}{name}": f"a{name}" for name in TRIGONOMETRIC for prefix in ("rc", "r", "")}
HYPERBOLIC = {"sinh", "cosh", "tanh"}
FUNCTIONS = TRIGONOMETRIC | HYPERBOLIC | set(INVERSE) | {"log", "ln", "lg", "exp", "sqrt", "abs"}
MULTI_ARGUMENT = {"gcd", "lcm", "max", "min"}
SYMBOLS = {*GREEK.split(), "hbar", "ell"} - {"pi"}
DECORATIONS = {"vec", "overline", "bar", "hat", "tilde", "widehat", "overrightarrow", "mathcal", "mathfrak", "dot"}
KNOWN_WORDS = FUNCTIONS | MULTI_ARGUMENT | {"pi"}
"""Words that are read as commands without a backslash."""
MODULO = {r"\bmod", r"\mod", r"\pmod"}
CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\{": r"\}"}
TIMES = {"*", r"\cdot", r"\times", r"\ast"}
FACTOR_ENDS = {*CLOSING.values(), *TIMES, "+", "-", "/", r"\div", "=", ",", "^", "!", "'", "_", "**", r"\le", *MODULO}
"""Tokens that cannot begin a factor, so no multiplication sign is left out before them."""
PRODUCT_LIMIT = 3
"""Largest number of adjacent letters that are read as a product: `abc` is a*b*c, and `abcd` is a word."""


def split_function(letters: str) -> tuple[str, str] | None:
    """Split a function from the symbol behind it: `"sinx"` -> `("sin", "x")`. None for other letters, as "cost"."""
    known = letters[:-1] in FUNCTIONS - {"sqrt", "abs"} and letters[-1] in "xyzABC"
    return (letters[:-1], letters[-1]) if known else None


class ParseError(Exception):
    """The text is not an expression in the notation of this parser."""


def split_tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for found in TOKEN.finditer(text):
        number, command, letters, sign = found.groups()
        if letters:
            if letters in KNOWN_WORDS:
                tokens.append("\\" + letters)
            elif with_symbol := split_function(letters):
                tokens += ["\\" + with_symbol[0], with_symbol[1]]
            elif len(letters) > PRODUCT_LIMIT:
                raise ParseError(f"unknown word {letters}")
            else:
                tokens += letters
        else:
            tokens.append(number or command or sign)
        if len(tokens) > TOKEN_LIMIT:
            raise ParseError(f"more than {TOKEN_LIMIT} tokens")
    return tokens
