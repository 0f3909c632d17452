"""Replace Unicode characters by the notation of LaTeX: `"2⅗"` -> `"2 3/5"`, `"x²"` -> `"x^{2}"`, `"≤"` -> `"\\le "`."""

import re
import unicodedata

GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi
omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"""
LOOKALIKES: dict[int, str] = {
    ord(character): replacement
    for characters, replacement in [
        ("−–—‐‑", "-"),
        ("\u00a0\u2009\u202f\u3000", " "),
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
        ("…⋯", r"\dots "),
        *[(letter, rf"\{name} ") for letter, name in zip(GREEK_LETTERS, GREEK.split(), strict=True)],
    ]
    for character in characters
}
LOOKALIKES |= {  # `1⅞` is a mixed number, not seventeen eighths
    code: f" {int(numerator, 16) - 48}/{int(denominator, 16) - 48}"
    for code in [*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189]
    for _, numerator, *_, denominator in [unicodedata.decomposition(chr(code)).split()]
    if code != 0x2152
} | {0x2152: " 1/10"}


def _scripts(kind: str) -> str:
    codes = [0xB2, 0xB3, 0xB9, *range(0x2B0, 0x300), *range(0x1D2C, 0x1D6B), *range(0x2070, 0x209D)]
    return "".join(chr(code) for code in codes if unicodedata.decomposition(chr(code)).startswith(kind))


SUPERSCRIPTS = re.compile(f"[{_scripts('<super>')}]+")
SUBSCRIPTS = re.compile(f"[{_scripts('<sub>')}]+")
ENCLOSED_NUMBERS = re.compile("[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf]")
LONE_ENCLOSED_NUMBER = re.compile(rf"(?<![0-9.\w]){ENCLOSED_NUMBERS.pattern}(?![0-9.\w])")


def spell_characters(text: str) -> str:
    """Return the text with LaTeX or ASCII instead of look-alikes, scripts, fraction glyphs and full-width characters.

    An enclosed number alone is a number: `"⑤"` -> `"5"`. Beside another digit it stays as it is: `"4②"` is not 42.
    """
    text = SUPERSCRIPTS.sub(lambda run: f"^{{{_plain(run[0])}}}", text)
    text = SUBSCRIPTS.sub(lambda run: f"_{{{_plain(run[0])}}}", text).translate(LOOKALIKES)
    text = LONE_ENCLOSED_NUMBER.sub(lambda found: str(int(unicodedata.numeric(found[0]))), text)
    if ENCLOSED_NUMBERS.search(text):
        return text
    return unicodedata.normalize("NFKC", text).translate(LOOKALIKES)  # full-width digits and mathematical letters


def _plain(scripts: str) -> str:
    return unicodedata.normalize("NFKC", scripts).replace("−", "-")
