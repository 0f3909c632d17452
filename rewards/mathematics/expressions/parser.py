"""Parse a mathematical expression in LaTeX or plain text into a tree.

The tree consists of tuples whose first item is the kind of the node. The parser does not evaluate the expression, and
no part of the text is ever run as code. Any unknown notation raises ParseError; its meaning is not guessed.
"""

from fractions import Fraction
from typing import Any

from rewards.mathematics.expressions.operators import is_vector, read_operator, remainder
from rewards.mathematics.expressions.tokens import (
    CLOSING,
    DECORATIONS,
    FACTOR_ENDS,
    FUNCTIONS,
    INVERSE,
    MODULO,
    MULTI_ARGUMENT,
    SYMBOLS,
    TIMES,
    TRIGONOMETRIC,
    ParseError,
    split_tokens,
)

Node = tuple[Any, ...]
"""("num", Fraction) · ("const", name) · ("sym", name) · ("add"|"mul", [nodes]) · ("div"|"pow", node, node) ·
("neg"|"degrees", node) · ("root", node, degree) · ("call", name, [nodes]) · ("opaque", name, [nodes]).
"call" is a known function such as sin; "opaque" is an unknown one such as `f(x)`. Those of `operators.py` besides."""

DEPTH_LIMIT = 80
"""Largest depth of nested constructions, with or without brackets. It bounds the recursion."""
MINUS_ONE: Node = ("num", Fraction(-1))


def parse(text: str) -> Node:
    """Return the tree of an expression.

    Example: `"2x"` -> `("mul", [("num", Fraction(2)), ("sym", "x")])`.
    Raises: ParseError if the text is not an expression in a known notation.
    """
    parser = _Parser(split_tokens(text))
    node = parser.sum()
    if parser.current is not None:
        raise ParseError(f"unexpected {parser.current}")
    return node


class _Parser:
    """Recursive-descent parser over the tokens, with one method for each level of precedence."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.open_bars = 0

    @property
    def current(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self) -> str:
        token = self.current
        if token is None:
            raise ParseError("unexpected end of the text")
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise ParseError(f"missing {token}")

    def sum(self) -> Node:
        terms = [self.term()]
        while self.current in ("+", "-"):
            terms.append(self.term())  # a term parses its own signs
        return terms[0] if len(terms) == 1 else ("add", terms)

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.current in TIMES:
                sign = self.take()
                right = self.factor()
                if sign == r"\times" and is_vector(node) and is_vector(right):
                    raise ParseError("a cross product, which depends on the order of its factors")
                node = ("mul", [node, right])
            elif self.current in ("/", r"\div"):
                self.take()
                node = ("div", node, self.factor())
            elif self.current in MODULO:
                self.take()
                node = remainder(node, self.factor())
            elif self.starts_factor():
                node = ("mul", [node, self.power()])
            else:
                return node

    def starts_factor(self) -> bool:
        """Return whether the next tokens are a factor without a multiplication sign, as `x` in `2x`.

        A number is such a factor only after `!` or a closing bracket, or after a symbol as the base of a power: `n 2^n`
        is a product, `2 3` is none, and `x2` may stand for a power.
        """
        token = self.current
        if token is None or token in FACTOR_ENDS or (token == "|" and self.open_bars):
            return False
        number = token[0] in "0123456789" or (token[0] == "." and len(token) > 1)
        before, after = self.tokens[self.position - 1], self.tokens[self.position + 1 : self.position + 2]
        is_base = after == ["^"] and (before.isalpha() or before[1:] in SYMBOLS | {"pi"})
        return not number or is_base or before in ("!", ")", "]", "}")

    def factor(self) -> Node:
        negative = False
        while self.current in ("+", "-"):
            negative ^= self.take() == "-"
        node = self.power()
        return ("neg", node) if negative else node

    def power(self) -> Node:
        base = self.postfix()
        if self.current not in ("^", "**"):
            return base
        self.take()
        if self.current == r"\circ":
            self.take()
            return ("degrees", base)
        exponent = self.exponent()
        if base[0] == "sym" and self.current == "_":  # `v^2_0` is `v_0^2`
            base = ("sym", base[1] + self.subscript_and_primes())
        return ("pow", base, exponent)

    def exponent(self) -> Node:
        negative = False
        while self.current in ("+", "-"):
            negative ^= self.take() == "-"
        self.enter_level()
        node = self.power()
        self.depth -= 1
        return ("neg", node) if negative else node

    def postfix(self) -> Node:
        self.enter_level()
        node = self.atom(self.take())
        self.depth -= 1
        if self.current == "!":
            self.take()
            kind = "factorial"
            if self.current == "!":  # `5!!` is 5 * 3 * 1
                self.take()
                kind = "double factorial"
            node = ("call", kind, [node])
        return node

    def enter_level(self) -> None:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise ParseError(f"nested deeper than {DEPTH_LIMIT} levels")

    def atom(self, token: str) -> Node:
        if token[0] in "0123456789" or (token[0] == "." and len(token) > 1):
            return self.number_or_mixed(Fraction(token + "0" if token.endswith(".") else token))
        if token in ("(", "[", "{"):
            return self.sum_until(CLOSING[token])
        if token == "|":
            self.open_bars += 1
            node = self.sum_until("|")
            self.open_bars -= 1
            return ("call", "abs", [node])
        if token in (r"\lfloor", r"\lceil"):
            return ("call", "floor" if token == r"\lfloor" else "ceiling", [self.sum_until(CLOSING[token])])
        if len(token) == 1 and token.isalpha() and token.isascii():
            return self.symbol(token)
        if token[0] == "\\":
            return self.command(token[1:])
        raise ParseError(f"unexpected {token}")

    def sum_until(self, closing: str) -> Node:
        node = self.sum()
        self.expect(closing)
        return node

    def number_or_mixed(self, whole: Fraction) -> Node:
        """Parse a number, or a mixed number if an integer is followed by a proper fraction: `2\\frac{1}{3}` -> 7/3."""
        if self.current == r"\frac" and whole.denominator == 1:
            part = self.tokens[self.position + 1 : self.position + 7]
            if part[::3] == ["{", "{"] and part[2::3] == ["}", "}"] and part[1].isdecimal() and part[4].isdecimal():
                numerator, denominator = int(part[1]), int(part[4])
                if numerator < denominator:
                    self.position += 7
                    return ("num", whole + Fraction(numerator, denominator))
        return ("num", whole)

    def argument(self) -> Node:
        """Parse the argument of a command such as `\\frac`: a group in braces, or one token."""
        token = self.take()
        if token == "{":
            return self.sum_until("}")
        self.enter_level()
        node = self.atom(token)
        self.depth -= 1
        return node

    def symbol(self, letter: str) -> Node:
        name = letter + self.subscript_and_primes()
        if name in ("e", "i"):
            return ("const", name)
        following = self.tokens[self.position : self.position + 5]
        if name == "C" and following[::2] == ["(", ",", ")"]:  # `C(10, 3)`
            return ("call", "binomial", self.arguments_in_brackets())
        if letter in ("f", "g") and self.current == "(":
            return ("opaque", name, self.arguments_in_brackets())
        return ("sym", name)

    def subscript_and_primes(self) -> str:
        """Read the subscripts and primes that belong to the name of a symbol."""
        marks = ""
        while self.current in ("_", "'"):
            marks += self.take()
            if marks.endswith("_"):
                marks += self.raw_name()
        return marks

    def raw_name(self) -> str:
        """Join the tokens of a group in braces into a name, or take one token as the name."""
        if self.current != "{":
            return self.take()
        self.take()
        parts, level = [], 1
        while level:
            part = self.take()
            level += (part == "{") - (part == "}")
            parts.append(part)
        return "".join(parts[:-1])

    def arguments_in_brackets(self) -> list[Node]:
        """Parse arguments in round brackets, separated by commas."""
        self.expect("(")
        nodes = [self.sum()]
        while self.current == ",":
            self.take()
            nodes.append(self.sum())
        self.expect(")")
        return nodes

    def command(self, name: str) -> Node:
        operator = read_operator(self, name)
        if operator is not None:
            return operator
        if name == "frac":
            return ("div", self.argument(), self.argument())
        if name == "sqrt":
            return self.root()
        if name == "binom":
            return ("call", "binomial", [self.argument(), self.argument()])
        if name == "pi":
            return ("const", "pi")
        if name in MULTI_ARGUMENT:
            return ("call", name, self.arguments_in_brackets())
        if name in FUNCTIONS:
            return self.function(INVERSE.get(name, name))
        if name in SYMBOLS:
            return ("sym", "\\" + name + self.subscript_and_primes())
        if name in DECORATIONS:
            return ("sym", f"\\{name}{{{self.raw_name()}}}" + self.subscript_and_primes())
        raise ParseError(f"unknown command {name}")

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.current == "[":
            self.take()
            degree = self.sum_until("]")
        return ("root", self.argument(), degree)

    def ends_argument(self) -> bool:
        """Return whether the next factor is behind the argument of a function without brackets: `\\ln x 2^x`."""
        token = self.current or ""
        return token in ("(", "[") or token[0] in "0123456789" or token[1:] in FUNCTIONS

    def function(self, name: str) -> Node:
        """Parse the call of a function: `\\sin^2 x`, `\\log_2 (x+1)`, `\\ln 2x`.

        The argument is a group in brackets. Without brackets it is the factors up to the next sign or function.
        """
        base, exponent = None, None
        while self.current in ("_", "^"):
            if self.take() == "_" and name == "log":
                base = self.argument()
            elif self.tokens[self.position - 1] == "^":
                exponent = self.argument()
            else:
                raise ParseError(f"a subscript of the function {name}")
        if exponent in (MINUS_ONE, ("neg", ("num", Fraction(1)))) and name in TRIGONOMETRIC:
            name, exponent = "a" + name, None
        self.enter_level()
        if self.current in ("(", "[", "{", "|"):
            argument = self.postfix()
        else:
            argument = self.factor()
            while self.starts_factor() and not self.ends_argument():
                argument = ("mul", [argument, self.power()])
        self.depth -= 1
        node: Node = ("call", name, [argument] if base is None else [argument, base])
        return node if exponent is None else ("pow", node, exponent)
