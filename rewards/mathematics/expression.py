"""A reader of closed mathematical expressions in LaTeX or plain text: text to a tree, nothing else.

The tree consists of tuples whose first item names the node; nothing in it is evaluated here and nothing of it is ever
run as code. What the reader does not know is Unreadable, so a doubtful notation is never guessed at.
"""

import re
from fractions import Fraction
from typing import Any

from rewards.mathematics.text import GREEK

Node = tuple[Any, ...]
"""("num", Fraction) · ("const", name) · ("sym", name) · ("add"|"mul", [nodes]) · ("div"|"pow", node, node) ·
("neg"|"degrees", node) · ("root", node, degree) · ("call", name, [nodes]) · ("opaque", name, [nodes])."""

TOKEN_LIMIT = 400
DEPTH_LIMIT = 80
"""Nested constructions, brackets or not: a bound on recursion."""
TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(\\[A-Za-z]+|\\.)|([A-Za-z]+)|(\*\*|[^\s]))", re.DOTALL)
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
INVERSE = {f"a{prefix}{name}": f"a{name}" for name in TRIGONOMETRIC for prefix in ("rc", "r", "")}
HYPERBOLIC = {"sinh", "cosh", "tanh"}
FUNCTIONS = TRIGONOMETRIC | HYPERBOLIC | set(INVERSE) | {"log", "ln", "lg", "exp", "sqrt", "abs"}
OF_SEVERAL = {"gcd", "lcm", "max", "min"}
SYMBOLS = {*GREEK.split(), "hbar", "ell"} - {"pi"}
DECORATIONS = {"vec", "overline", "bar", "hat", "tilde", "widehat", "overrightarrow", "mathcal", "mathfrak", "dot"}
NAMES = FUNCTIONS | OF_SEVERAL | {"pi"}
"""Words that need no backslash."""
PRODUCT_LIMIT = 3
"""Letters that stand together and still are a product."""
CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\{": r"\}"}
TIMES = {"*", r"\cdot", r"\times", r"\ast"}
ENDS = {")", "]", "}", r"\}", r"\rfloor", r"\rceil", "+", "-", "/", r"\div", "=", ",", "^", "!", "'", "_", "**", *TIMES}
MINUS_ONE: Node = ("num", Fraction(-1))


class Unreadable(Exception):
    """The text is no expression this reader knows."""


def read(text: str) -> Node:
    """The tree of an expression. Raises Unreadable."""
    reader = _Reader(_tokens(text))
    node = reader.sum()
    if reader.here is not None:
        raise Unreadable(f"at {reader.here}")
    return node


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for found in TOKEN.finditer(text):
        number, command, letters, sign = found.groups()
        if letters:
            if letters in NAMES:
                tokens.append("\\" + letters)
            elif len(letters) > PRODUCT_LIMIT:
                raise Unreadable(f"the word {letters}")
            else:
                tokens += letters
        else:
            tokens.append(number or command or sign)
        if len(tokens) > TOKEN_LIMIT:
            raise Unreadable(f"more than {TOKEN_LIMIT} signs")
    return tokens


class _Reader:
    """Recursive descent over the tokens, one method for each level of binding."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0

    @property
    def here(self) -> str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self) -> str:
        token = self.here
        if token is None:
            raise Unreadable("at the end")
        self.place += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise Unreadable(f"no {token}")

    def sum(self) -> Node:
        terms = [self.term()]
        while self.here in ("+", "-"):
            terms.append(self.term())  # a term takes its own signs
        return terms[0] if len(terms) == 1 else ("add", terms)

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.here in TIMES:
                self.take()
                node = ("mul", [node, self.factor()])
            elif self.here in ("/", r"\div"):
                self.take()
                node = ("div", node, self.factor())
            elif self.starts_factor():
                node = ("mul", [node, self.power()])
            else:
                return node

    def starts_factor(self) -> bool:
        """Whether what follows is multiplied without a sign: a number only where it does not join the one before."""
        token = self.here
        if token is None or token in ENDS or (token == "|" and self.bars):
            return False
        number = token[0].isdigit() or (token[0] == "." and len(token) > 1)
        return not number or self.tokens[self.place - 1] in ("!", ")", "]", "}")

    def factor(self) -> Node:
        negative = False
        while self.here in ("+", "-"):
            negative ^= self.take() == "-"
        node = self.power()
        return ("neg", node) if negative else node

    def power(self) -> Node:
        base = self.postfix()
        if self.here not in ("^", "**"):
            return base
        self.take()
        if self.here == r"\circ":
            self.take()
            return ("degrees", base)
        exponent = self.exponent()
        if base[0] == "sym" and self.here == "_":  # `v^2_0` is `v_0^2`
            base = ("sym", base[1] + self.marks())
        return ("pow", base, exponent)

    def exponent(self) -> Node:
        negative = False
        while self.here in ("+", "-"):
            negative ^= self.take() == "-"
        self.deeper()
        node = self.power()
        self.depth -= 1
        return ("neg", node) if negative else node

    def postfix(self) -> Node:
        self.deeper()
        node = self.atom(self.take())
        self.depth -= 1
        if self.here == "!":
            self.take()
            node = ("call", "factorial", [node])
        return node

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise Unreadable("too deep")

    def atom(self, token: str) -> Node:
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self.mixed(Fraction(token + "0" if token.endswith(".") else token))
        if token in ("(", "[", "{"):
            return self.until(CLOSING[token])
        if token == "|":
            if self.bars:
                raise Unreadable("bars in bars")
            self.bars += 1
            node = self.until("|")
            self.bars -= 1
            return ("call", "abs", [node])
        if token in (r"\lfloor", r"\lceil"):
            return ("call", "floor" if token == r"\lfloor" else "ceiling", [self.until(CLOSING[token])])
        if len(token) == 1 and token.isalpha() and token.isascii():
            return self.symbol(token)
        if token[0] == "\\":
            return self.command(token[1:])
        raise Unreadable(f"at {token}")

    def until(self, closing: str) -> Node:
        node = self.sum()
        self.expect(closing)
        return node

    def mixed(self, whole: Fraction) -> Node:
        """A number, or a mixed number where a proper fraction of numbers follows an integer."""
        if self.here == r"\frac" and whole.denominator == 1:
            part = self.tokens[self.place + 1 : self.place + 7]
            if part[::3] == ["{", "{"] and part[2::3] == ["}", "}"] and part[1].isdigit() and part[4].isdigit():
                above, below = int(part[1]), int(part[4])
                if above < below:
                    self.place += 7
                    return ("num", whole + Fraction(above, below))
        return ("num", whole)

    def argument(self) -> Node:
        """What a command without brackets of its own takes: a group or one token."""
        token = self.take()
        if token == "{":
            return self.until("}")
        self.deeper()
        node = self.atom(token)
        self.depth -= 1
        return node

    def symbol(self, letter: str) -> Node:
        name = letter + self.marks()
        if name in ("e", "i"):
            return ("const", name)
        if letter in ("f", "g") and self.here == "(":
            return ("opaque", name, self.listed())
        return ("sym", name)

    def marks(self) -> str:
        """Subscript and primes, which belong to a name."""
        marks = ""
        while self.here in ("_", "'"):
            marks += self.take()
            if marks.endswith("_"):
                marks += self.raw()
        return marks

    def raw(self) -> str:
        """The tokens of a group, or one token, as a name."""
        if self.here != "{":
            return self.take()
        self.take()
        parts, level = [], 1
        while level:
            part = self.take()
            level += (part == "{") - (part == "}")
            parts.append(part)
        return "".join(parts[:-1])

    def listed(self) -> list[Node]:
        """Arguments in round brackets, separated by commas."""
        self.expect("(")
        nodes = [self.sum()]
        while self.here == ",":
            self.take()
            nodes.append(self.sum())
        self.expect(")")
        return nodes

    def command(self, name: str) -> Node:
        if name == "frac":
            return ("div", self.argument(), self.argument())
        if name == "sqrt":
            return self.root()
        if name == "binom":
            return ("call", "binomial", [self.argument(), self.argument()])
        if name == "pi":
            return ("const", "pi")
        if name in OF_SEVERAL:
            return ("call", name, self.listed())
        if name in FUNCTIONS:
            return self.function(INVERSE.get(name, name))
        if name in SYMBOLS:
            return ("sym", "\\" + name + self.marks())
        if name in DECORATIONS:
            return ("sym", f"\\{name}{{{self.raw()}}}" + self.marks())
        raise Unreadable(f"the command {name}")

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.here == "[":
            self.take()
            degree = self.until("]")
        return ("root", self.argument(), degree)

    def function(self, name: str) -> Node:
        """`\\sin^2 x`, `\\log_2 (x+1)`, `\\ln 2x`: the argument is a group, or the factors up to a sign or function."""
        base, exponent = None, None
        while self.here in ("_", "^"):
            if self.take() == "_" and name == "log":
                base = self.argument()
            elif self.tokens[self.place - 1] == "^":
                exponent = self.argument()
            else:
                raise Unreadable("a subscript of a function")
        if exponent in (MINUS_ONE, ("neg", ("num", Fraction(1)))) and name in TRIGONOMETRIC:
            name, exponent = "a" + name, None
        self.deeper()
        if self.here in ("(", "[", "{", "|"):
            argument = self.postfix()
        else:
            argument = self.factor()
            while self.starts_factor() and self.here not in ("(", "[") and (self.here or "")[1:] not in FUNCTIONS:
                argument = ("mul", [argument, self.power()])
        self.depth -= 1
        node: Node = ("call", name, [argument] if base is None else [argument, base])
        return node if exponent is None else ("pow", node, exponent)
