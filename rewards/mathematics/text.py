"""Spelling of mathematical answers: one way to write what can be written in many.

Everything here takes time linear in the text and never evaluates it.
"""

import re
import unicodedata

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")
GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi
omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"""
LOOKALIKES: dict[int, str] = {
    ord(character): replacement
    for characters, replacement in [
        ("−–—‐‑", "-"),
        ("\u00a0\u2009\u202f\u3000~", " "),
        ("\u200b\u200c\u200d\u2060\ufeff", ""),
        ("×✕", r"\times "),
        ("·⋅∙•", r"\cdot "),
        ("÷⁄∕", "/"),
        ("∞", r"\infty "),
        ("°º", r"^\circ "),
        ("≤⩽", r"\le "),
        ("≥⩾", r"\ge "),
        ("≠", r"\ne "),
        ("≈", r"\approx "),
        ("∈", r"\in "),
        ("∪", r"\cup "),
        ("±", r"\pm "),
        ("∓", r"\mp "),
        ("∅", r"\emptyset "),
        ("′’", "'"),
        ("ℝ", r"\mathbb{R} "),
        ("½", " 1/2"),
        ("¼", " 1/4"),
        ("¾", " 3/4"),
        ("⅓", " 1/3"),
        ("⅔", " 2/3"),
        ("⅕", " 1/5"),
        ("⅛", " 1/8"),
        *[(letter, rf"\{name} ") for letter, name in zip(GREEK_LETTERS, GREEK.split(), strict=True)],
    ]
    for character in characters
}
# Applied in order. Commands escaped twice are commands; `\\` (a new matrix row) and `\{` (a set) are kept.
REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"∛\s*([0-9]+|[A-Za-z])", r"\\sqrt[3]{\1}"),
        (r"\\\$|\$", ""),
        (
            r"\\\\(?=(?:[dt]?frac|sqrt|left|right|text|le|leq|ge|geq|pi|cdot|times|infty|cup|pm|mathbb)(?![A-Za-z]))",
            r"\\",
        ),
        (r",\s*\\!\s*|(?<=[0-9])\s*\{\s*,\s*\}\s*(?=[0-9])", ","),
        (r"(?<![A-Za-z])\{:\}|\\colon(?![A-Za-z])", ":"),
        # A thin space groups three digits; elsewhere it separates.
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
        (r"(?<=[0-9]) ?x ?(?=10 ?\^)", r"\\times "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf)(?![A-Za-z])", r"\\infty "),
        (r"\s+", " "),
    ]
]
WRAPPED_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname|underline|emph)\s*"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}"
)
THOUSANDS = re.compile(r"(?<![0-9.,])([1-9][0-9]{0,2}(?:,[0-9]{3})+)(?![0-9,])")


def normalise(text: str) -> str:
    """The text in one spelling: look-alike characters, spacing, brackets' sizes, fractions and emphasis made equal."""
    if not text.isascii():
        text = re.sub(r"[⁰¹²³⁴-⁹⁻ⁿ]+", lambda run: "^{" + run[0].translate(SUPERSCRIPTS) + "}", text)
        text = re.sub(r"[₀-₉ₙ]+", lambda run: "_{" + run[0].translate(SUBSCRIPTS) + "}", text).translate(LOOKALIKES)
        text = unicodedata.normalize("NFKC", text).translate(LOOKALIKES)  # full-width and mathematical letters
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    return _without_thousands(_unwrap(text))


def _unwrap(text: str) -> str:
    """Without emphasis, the full stop and braces around the whole."""
    while True:
        text, before = text.strip(), text
        for mark in ("**", "__", "`", '"', "``"):
            if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
                text = text[len(mark) : -len(mark)]
        if text.startswith("{") and text.endswith("}") and "{" not in text[1:] and "}" not in text[:-1]:
            text = text[1:-1]
        # `\right.` is gone by now, so a full stop or comma at the end is punctuation, and `\\` there an empty row.
        text = text.rstrip(".,;\\ ") if not text.endswith(r"\}") else text
        if text == before:
            return text


def _without_thousands(text: str) -> str:
    """Commas that group three digits fall where no bracket makes them separate items."""
    if "," not in text:
        return text
    parts, place = [], 0
    depths = dict(brackets(text, "([", ")]"))
    depth, steps = 0, sorted(depths)
    upcoming = 0
    for group in THOUSANDS.finditer(text):
        while upcoming < len(steps) and steps[upcoming] < group.start():
            depth = depths[steps[upcoming]]
            upcoming += 1
        if depth == 0 and not text.startswith("\\{"):
            parts += [text[place : group.start()], group[0].replace(",", "")]
            place = group.end()
    return "".join([*parts, text[place:]])


def bare(text: str) -> str:
    """Upright text as plain words."""
    if "\\" not in text:
        return text
    for _ in range(3):  # as deep as it is nested in practice
        text, before = WRAPPED_TEXT.sub(r" \1 ", text), text
        if text == before:
            break
    return " ".join(text.split())


def canonical(text: str) -> str:
    """For comparing as strings: no spaces but between digits, no braces around single characters, no leading plus."""
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", bare(text))
    return re.sub(r"(?<![^(\[,])\+", "", re.sub(r"\{(\w)\}", r"\1", text))


def brackets(text: str, opening: str = "([{", closing: str = ")]}") -> list[tuple[int, int]]:
    """Place and depth after each bracket; `\\{` counts as one."""
    depth, found = 0, []
    for place, character in enumerate(text):
        if character in opening:
            depth += 1
        elif character in closing:
            depth -= 1
        else:
            continue
        found.append((place, depth))
    return found


def depth(text: str) -> int:
    """The deepest nesting of brackets."""
    return max((level for _, level in brackets(text)), default=0)


def closes_at_end(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    return next((place for place, level in brackets(text) if level <= 0), -1) == len(text) - 1


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Parts between separators that stand in no bracket, and those separators."""
    levels, level, upcoming, start = brackets(text), 0, 0, 0
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
