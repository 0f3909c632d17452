"""Normalise the notation of mathematical answers, and split a text at separators outside its brackets.

`normalise` gives equal notations one spelling: `"\\dfrac12"`, `"\\frac 1 2"` and `"$\\tfrac{1}{2}$"` all become
`"\\frac{1}{2}"`. Every function takes time linear in the length of its text, and none evaluates the text.
"""

import re

from rewards.mathematics.characters import spell_characters

# Applied in this order. A command that is escaped twice (`\\frac`) becomes the command; `\\` alone, which starts a new
# row of a matrix, and `\{`, which opens a set, are kept.
REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"∛\s*([0-9]+|[A-Za-z])", r"\\sqrt[3]{\1}"),
        # A blank of TeX. Before the first number of a text it may stand for "about".
        (r"(?<=[^\s~])~+", " "),
        (
            r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|left|right|text|le|leq|ge|geq|pi|cdot|times|infty|cup|pm|mathbb)(?![A-Za-z]))",
            r"\\",
        ),
        (r",\s*\\!\s*|(?<=[0-9])\s*\{\s*,\s*\}\s*(?=[0-9])", ","),
        (r"(?<![A-Za-z])\{:\}|\\colon(?![A-Za-z])", ":"),
        # A thin space before three digits groups them (`1\,000`); elsewhere it is an ordinary space.
        (r"(?<=[0-9])(?<!\\)\\[,;: ](?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<!\\)\\[()\[\]!]", ""),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])", " "),
        (r"\\(?:left|right)(?![A-Za-z])\.?|\\middle(?![A-Za-z])", ""),
        (r"\\(?:[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|rm|bf|it|boxed|fbox)(?![A-Za-z])", ""),
        (r"\\(?:[dtc]|small)?frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])(?![0-9])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9])", r"\\sqrt{\1}"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\mathrm +(?=d ?[A-Za-z\\])", " "),
        (r"\\(?:operatorname|mathrm|text) ?\{ ?(Re|Im|arg) ?\}", r"\\\1 "),
        (r"\{ ?([^{}\\]{1,40}) ?\\choose ?([^{}\\]{1,40})\}", r"\\binom{\1}{\2}"),
        (r"\\(?:[lc]?dots|dotsc)(?![A-Za-z])|\.\.\.(?= ?[^\s.$])|(?<=,)\s*\.\.\.", r"\\dots "),
        (r"\\prime(?![A-Za-z]) ?", "'"),
        (r"\^ ?(?:\{ ?('{1,3}) ?\}|('{1,3}))", r"\1\2"),
        (r"\\(?:mathbf|boldsymbol|bm) ?\{? ?([a-z])(?![A-Za-z]) ?\}?", r"\\vec{\1}"),
        (r"\\%", "%"),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\var(phi|theta|epsilon)(?![A-Za-z])", r"\\\1"),
        (r"\\(?:leq?(?:slant)?)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq?(?:slant)?)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\neq?(?![A-Za-z])|\\not\s*=|!=", r"\\ne "),
        (r"\\(?:mid|[lr]?vert)(?![A-Za-z])", "|"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\backslash(?![A-Za-z])", r"\\setminus "),
        (r"\^\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])", r"^\\circ "),
        (r"(?<=[0-9]) ?x ?(?=10 ?\^)|(?<=[0-9]) [xX] (?=\$?[0-9])", r"\\times "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf)(?![A-Za-z])", r"\\infty "),
        (r"\s+", " "),
    ]
]
# `$...$` and `$$...$$`. As in Markdown, a sign before a digit closes no formula, so `$24 + $5` is a sum of money.
INLINE_FORMULA = r"\$(?:(?=[^\s$])(?:\\.|[^$\\\n]){1,600}?(?<=\S)|[ \t](?:\\.|[^$\\\n]){1,600}?)\$(?![0-9])"
DISPLAYED_FORMULA = r"\$\$(?:\\.|[^$\\]){1,600}\$\$"
ADJACENT_FORMULAS = re.compile(r"(?<=[^\s$])\$[ \t]+\$(?=[^\s$])")
LOOSE_SIGN = re.compile(r"(?<!\\)\$(?! ?[-(.0-9])")
ALIGNED = re.compile(
    r"(?:\\left\s*\\\{\s*)?\\begin\s*\{(?P<kind>aligned|align\*?|gathered|gather\*?|cases)\}(?P<rows>(?s:.*))"
    r"\\end\s*\{(?P=kind)\}(?:\s*\\right\.)?"
)
LINE_END = re.compile(r"\n|(?<!\\)\\\\(?![A-Za-z]{2}|\\)|\\q?quad(?![A-Za-z])")
# "The answer is" or "Answer:" at the start of an answer.
LABEL = re.compile(r"(?:the )?(?:final |correct )?answer(?: is:?| ?[:=]) ?(?=.)", re.IGNORECASE)
WRAPPED_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname|underline|emph)\s*"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}"
)
THOUSANDS = re.compile(r"(?<![0-9.,])([1-9][0-9]{0,2}(?:,[0-9]{3})+)(?![0-9,])")


def normalise(text: str) -> str:
    """Return the text with one spelling for each notation.

    Replaces look-alike Unicode characters, spacing, sized brackets (`\\left(`), variants of fractions, emphasis and the
    commas of thousands. Example: `"\\left(1{,}000 ,\\, \\dfrac12\\right)."` -> `"(1,000 , \\frac{1}{2})"`.
    """
    if not text.isascii():
        text = spell_characters(text)
    text = _join_equations(_remove_math_signs(text))
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text = _strip_enclosing_marks(text)
    label = LABEL.match(unwrap_text(text)) if "nswer" in text[:40] else None
    return _remove_thousands_commas(unwrap_text(text)[label.end() :] if label else text)


def _remove_math_signs(text: str) -> str:
    """Remove the dollar signs around formulas. Those of money stay: `"$18"`, `"\\$18"` -> `"$18"`."""
    if "$" not in text:
        return text
    text = ADJACENT_FORMULAS.sub("$\n$", text)
    text = re.sub(DISPLAYED_FORMULA, lambda found: found[0][2:-2], text)
    text = re.sub(INLINE_FORMULA, lambda found: found[0][1:-1], text)
    return LOOSE_SIGN.sub("", text).replace(r"\$", "$")


def _join_equations(text: str) -> str:
    """Put commas between equations that stand on lines of their own or are separated by a wide space."""
    rows = ALIGNED.fullmatch(text.strip())
    if rows and "=" in rows["rows"]:
        text = rows["rows"].replace("&", " ")
    if text.count("=") < 2 or r"\begin" in text:
        return text
    parts = [part.strip(" ,;.") for part in LINE_END.split(text)]
    parts = [part for part in parts if part]
    if len(parts) < 2 or not all("=" in part and part[0] != "=" and part[-1] != "=" for part in parts):
        return text
    return ", ".join(parts)


def _strip_enclosing_marks(text: str) -> str:
    """Remove emphasis marks, quotation marks and braces around the whole text, and punctuation at its end."""
    while True:
        text, before = text.strip(), text
        for mark in ("**", "__", "`", '"', "``"):
            if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
                text = text[len(mark) : -len(mark)]
        if text.startswith("{") and text.endswith("}") and "{" not in text[1:] and "}" not in text[:-1]:
            text = text[1:-1]
        # REWRITES has already removed `\right.`, so a full stop or comma at the end is punctuation, and `\\` at the end
        # is an empty row of a matrix.
        text = text.rstrip(".,;\\ ") if not text.endswith(r"\}") else text
        if text == before:
            return text


def _remove_thousands_commas(text: str) -> str:
    """Remove commas that group three digits, except inside brackets, where they separate items: `(1,000)` is a pair."""
    if "," not in text:
        return text
    parts, position = [], 0
    depths = dict(bracket_depths(text, "([", ")]"))
    depth, steps = 0, sorted(depths)
    upcoming = 0
    for group in THOUSANDS.finditer(text):
        while upcoming < len(steps) and steps[upcoming] < group.start():
            depth = depths[steps[upcoming]]
            upcoming += 1
        if depth == 0 and not text.startswith("\\{"):
            parts += [text[position : group.start()], group[0].replace(",", "")]
            position = group.end()
    return "".join([*parts, text[position:]])


def unwrap_text(text: str) -> str:
    """Replace each text command by its content: `"5 \\text{cm}"` -> `"5 cm"`."""
    if "\\" not in text:
        return text
    for _ in range(3):  # answers do not nest these commands deeper in practice
        text, before = WRAPPED_TEXT.sub(r" \1 ", text), text
        if text == before:
            break
    return " ".join(text.split())


def canonical(text: str) -> str:
    """Return the form in which two answers are compared as strings.

    It has no text commands, no spaces except between digits, no braces around single characters and no leading plus.
    Example: `"x_{1} = +2"` -> `"x_1=2"`.
    """
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", unwrap_text(text))
    return re.sub(r"(?<![^(\[,])\+", "", re.sub(r"\{(\w)\}", r"\1", text))


def bracket_depths(text: str, opening: str = "([{", closing: str = ")]}") -> list[tuple[int, int]]:
    """Return (position, nesting depth after it) for each bracket. The brace of `\\{` counts as a bracket."""
    depth, found = 0, []
    for position, character in enumerate(text):
        if character in opening:
            depth += 1
        elif character in closing:
            depth -= 1
        else:
            continue
        found.append((position, depth))
    return found


def nesting_depth(text: str) -> int:
    """Return the largest nesting depth of brackets."""
    return max((level for _, level in bracket_depths(text)), default=0)


def closes_at_end(text: str) -> bool:
    """Return whether the last character closes the first bracket: True for `"(a)"`, False for `"(a)(b)"`."""
    return next((position for position, level in bracket_depths(text) if level <= 0), -1) == len(text) - 1


def split_outside_brackets(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Split a text at the separators outside all brackets.

    Returns: the stripped parts, and the separators between them: one fewer than the parts.
    Example: `"(1,2), 3"` at commas -> `["(1,2)", "3"], [","]`.
    """
    levels, level, upcoming, start = bracket_depths(text), 0, 0, 0
    parts, separators = [], []
    for found in separator.finditer(text):
        while upcoming < len(levels) and levels[upcoming][0] < found.start():
            level = levels[upcoming][1]
            upcoming += 1
        if level == 0:
            parts.append(text[start : found.start()].strip())
            separators.append(found[0])
            start = found.end()
    return [*parts, text[start:].strip()], separators
