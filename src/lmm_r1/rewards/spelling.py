"""One spelling for what people and models write: Unicode, LaTeX spacing, text wrappers, thousands separators.

`tidy` is a fixed sequence of linear patterns; words from \\text{...} keep marks around them, so that no later step
takes them for a product of letters. `canonical` is the string that is compared when nothing exact can be.
"""

from __future__ import annotations

import re
import unicodedata

from lmm_r1.rewards.foreign import spelled_out
from lmm_r1.rewards.terms import FUNCTIONS

#: Marks around what stood in \text{...}: words, never a product of letters.
MARK, KRAM = "\x02", "\x03"

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_SPELLING = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒", "-"),
        **dict.fromkeys("$`", " "),
        "。": ".",
        "、": ",",
        "度": "^\\circ ",
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "π": "\\pi ",
        "√": "\\sqrt ",
        "°": "^\\circ ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "≈": "\\approx ",
        "∅": "\\emptyset ",
        "∨": "\\lor ",
        "±": "\\pm ",
        "¢": "\\text{ cent}",
        "∪": "\\cup ",
        "∈": "\\in ",
        "∠": "\\angle ",
        "θ": "\\theta ",
        "\u00a0": " ",
        "~": " ",
        "“": " ",
        "”": " ",
        '"': " ",
        "∩": "\\cap ",
        "∖": "\\setminus ",
        "′": "'",
        "，": ",",
        "≡": "\\equiv ",
        "∴": "\\therefore ",
    }
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u2060\ufeff]")
_DROPPED = re.compile(
    r"\\(?:m?left|m?right|displaystyle|limits|(?:big|Big|bigg|Bigg)[lr]?|textstyle|boldsymbol|bf|rm|it|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge)(?![a-zA-Z])|\\[!]|\\\$"
)
_SPACE = re.compile(r"\\(?:[ ;:()\[\]]|quad(?![a-zA-Z])|qquad(?![a-zA-Z]))|\\\\")
_TEXT_DASH = re.compile(r"\\text(?:rm)?\{-{1,3}\}")
_FRAC = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_FONT = re.compile(r"\\(?:mathrm|text|mathbf|rm)\s+([a-zA-Z])(?![a-zA-Z])")
_COLOUR = re.compile(r"\\(?:text)?color\s?\{[a-zA-Z!0-9]{1,20}\}")
_CHOOSE = re.compile(r"\{\s?([^{}\\]{1,40})\\choose(?![a-zA-Z])\s?([^{}\\]{1,40})\}")
_OVER_BAR = re.compile(r"\{\s?([^{}\\]{1,40})\\over(?![a-zA-Z])\s?([^{}\\]{1,40})\}")
_COMBINATIONS = re.compile(r"(?<![a-zA-Z\\])C_\s?(?:\{([^{}]{1,6})\}|(\d))\s?\^\s?(?:\{([^{}]{1,6})\}|(\d))")
_NUMBER_SETS = re.compile(r"\\(?:mathbf|mathrm|bm)\s?\{\s?([RZNQ])\s?\}")
_VECTOR = re.compile(r"\\(?:vec|overrightarrow)\s?(?:\{\s?([a-z])\s?\}|([a-z])(?![a-zA-Z]))")
_ANGLE_NAME = re.compile(r"\\angle\s?\{([A-Z0-9]{1,4})\}")
_SYSTEM = re.compile(r"\\\{\s?\\begin\s?\{array\}\s?\{[lcr| ]*\}(.*?)\\end\s?\{array\}\s?\.?", re.DOTALL)
_ITALIC = re.compile(r"\*([^*\s][^*]{0,200})\*")
_BINOM = re.compile(r"\\[dt]binom(?![a-zA-Z])")
_ROW_SPACE = re.compile(r"\\\\\s?\[\d{1,3}\s?(?:pt|em|ex|mm)\]")
_EMPHASIS = re.compile(r"(?:(?<=\s)|^)\*\*(?! )([^*]{1,200}?)(?<! )\*\*(?=[\s.,;:!?]|$)")
_BLANKS = re.compile(r"\s{2,}")
_SYNONYMS = {
    "\\lvert": "|",
    "\\rvert": "|",
    "\\vert": "|",
    "\\mid": "|",
    "\\varnothing": "\\emptyset",
    "\\bigcup": "\\cup",
    "\\langle": "(",
    "\\rangle": ")",
    "\\leq": "\\le",
    "\\geq": "\\ge",
    "\\neq": "\\ne",
    "\\leqslant": "\\le",
    "\\geqslant": "\\ge",
    "\\lt": "<",
    "\\gt": ">",
    "\\lbrace": "\\{",
    "\\rbrace": "\\}",
}
_SYNONYM = re.compile(
    r"\\(?:leqslant|geqslant|leq|geq|neq|lt|gt|lvert|rvert|vert|mid|varnothing|bigcup|langle|rangle|lbrace|rbrace)(?![a-zA-Z])"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|emph|underline|ce)\s?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_BOX = re.compile(r"\\boxed\s{0,4}\{")
_AND_SO_ON = re.compile(r",\s*(?:\.{3}|\\[lc]?dots)[\s$.]*$")
_ROUND = re.compile(r"\^\s?\{\s*\\circ\s*\}")
_SMALL_O = re.compile(r"(?<=\d)\s?\^\s?(?:\{\s?o\s?\}|o(?![a-zA-Z]))")
_MODULUS = re.compile(r"\\pmod\s?(?:\{\s?(\d+)\s?\}|(\d+))|\(\s?\\?\x02?b?mod\x03?\s{0,2}(\d+)\s?\)")
_PER_SQUARED = re.compile(r"\bper (second|sec|hour|minute) squared\b")
_THIN_GROUP = re.compile(r",\s?\\!\s{0,2}(?=\d{3}(?!\d))")
#: 12 500: groups of three, and nothing else that could make them two numbers.
_SPACED_GROUPS = re.compile(r"(?<![\d.,/}] )(?<![\d.,/^_{])([1-9]\d{0,2})((?: \d{3})+)(?![\d,/]| ?\d|\.\d* \d| ?/)")
_PRIMES = re.compile(r"\^\s?\{?\s?((?:\\prime\s?){1,2})\}?")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁻⁺]+")
_LOWERED = re.compile("[₀-₉]+")
_MARKS = ('"', "'", "″", "′", "”", "\\prime")
_INCHES = re.compile(r"(?<=[\d}])\s?(?:''|\"|”)(?!\w)")
_FEET = re.compile(r"(?<=\d)\s?'(?!\w|')(?=\s?$|\s?\d|,)|(?<=\d)\s?'(?=\d)")
_OPENED = re.compile(r"(?<!\d)[\"“]\s?[-$\\\w(]")
#: 10~20; 10~000 is a number with a gap, 5~cm a measure.
_FROM_TO = re.compile(r"(?<=[\d%°])(?:\s?[～〜至到]\s?|\s~\s?|~\s|(?<!\d)~|~(?!\d{3}(?!\d)))(?=\d)")
_HUNDREDTHS = re.compile(r"百分之\s?(\d{1,9}(?:\.\d{1,6})?)")
_PARTS_OF = re.compile(r"(?<!\d)(\d{1,9})\s?分之\s?(\d{1,9})")
_TO_ONE = re.compile(r"(?<=\d)\s?比\s?(?=\d)")
_HOURS = re.compile(r"(\d)\s?[时時](?=\s?\d{1,2}\s?分)")
_MINUTES = re.compile(
    r"((?:小时|小時|时间|時間)\s?\d{1,3}(?:\.\d+)?|\d(?=\s?分\s?\d{1,2}(?:\.\d+)?\s?秒))\s?分(?![钟鐘之数數])"
)
_BAR = "\u0305"
_OVERLINED = re.compile("(?:\\d\u0305)+")
_DOTTED = re.compile(r"\\dot\s?\{?(\d)\}?(?:(\d{0,20})\\dot\s?\{?(\d)\}?)?")
_PERIOD = re.compile(r"(?<=\d)(\.\d{0,12})\((\d{1,12})\)(?!\d)")
#: 0.1666..., 0.3636...: a group that is written out at least twice, a single digit three times.
_GOES_ON = re.compile(
    r"(?<![\d.])(\d{1,9}\.\d{0,6}?)(?:(\d{2,6})\2|(\d)\3\3)(?:\2|\3)*\s?(?:\.{3}|\\[lc]?dots)(?![\d\w])"
)
_UNEQUAL = re.compile(r"(?<=[a-zA-Z\s})\]])!=(?!=)")
_GROUP = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\ )(?=\d{3}(?!\d))")
_THIN = re.compile(r"\\,")
_LETTER_UNITS = frozenset("mghlsLNJWVK")
_PLAIN_INSIDE = re.compile(
    r"[-+]?\d[\d,./ ]*%?(?:,? (?:and|or) [-+]?\d[\d.,/]*%?)*|\([A-Z]\)"
)  # numbers, or an option letter
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def tidy(text: str) -> str:
    """One spelling of an answer; words from \\text{...} come back between MARK and KRAM."""
    text = text.strip().replace("~~", "\\struck ")
    if "~" in text or not text.isascii():
        text = _joined(text)
    text = spelled_out(_THIN_GROUP.sub(",", text) if "\\!" in text else text)
    if any(mark in text for mark in _MARKS):
        text = _inches(text)
    text = _characters(text)
    if "\\begin" in text:
        text = _ROW_SPACE.sub(r"\\\\", text).replace("\\\\", "\\cr ")  # rows; elsewhere a line break is a space
    text = text.replace("\\%", "%").translate(_SPELLING)
    if "\\" in text:
        text = _DROPPED.sub("", text)
    text = _GROUP.sub("", text)
    if " " in text:
        text = _SPACED_GROUPS.sub(lambda m: m[1] + m[2].replace(" ", ""), text)
    if "\\" in text:
        text = _commands(text)
    elif "_" in text or "(" in text:
        text = _combinations(text)
    if "dots" in text or "..." in text:
        text = _GOES_ON.sub(lambda m: f"{m[1]}\\overline{{{m[2] or m[3]}}}", text)
    if "." in text and "(" in text:
        text = _PERIOD.sub(r"\1\\overline{\2}", text)
    text = _UNEQUAL.sub(r"\\ne ", text) if "!=" in text else text
    if italic := _ITALIC.fullmatch(text.strip()):
        text = italic.group(1).strip()
    if "mod" in text:
        text = _MODULUS.sub(lambda m: f"\\pmod {m.group(1) or m.group(2) or m.group(3)}", text)
    text = _SMALL_O.sub(r"^\\circ ", text) if "^" in text else text
    return _BLANKS.sub(" ", text).rstrip("\\ ").strip().rstrip(".,;:").strip()


def _joined(text: str) -> str:
    """Signs between two numbers in words: 10 ~ 20, 10至20, 3比5, 百分之20, 8分之3; digits under a bar as recurring ones."""
    text = _FROM_TO.sub(" to ", text)
    if text.isascii():
        return text
    text = _HUNDREDTHS.sub(r"\1%", text)
    text = _PARTS_OF.sub(r"\\frac{\2}{\1}", text)
    text = _TO_ONE.sub(":", _MINUTES.sub(r"\1分钟", _HOURS.sub(r"\1小时", text)))
    return _OVERLINED.sub(lambda m: f"\\overline{{{m.group().replace(_BAR, '')}}}", text) if _BAR in text else text


def _characters(text: str) -> str:
    """Signs beyond ASCII in one spelling, blanks as one space, mark-up around words taken off."""
    if not text.isascii():
        text = text.replace("º", "°").replace("˚", "°").replace("ℝ", "\\mathbb{R}").replace("ℤ", "\\mathbb{Z}")
        text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m.group()), text)
        text = _RAISED.sub(lambda m: "^{" + m.group().translate(_SUPER) + "}", text)
        text = _LOWERED.sub(lambda m: "_{" + m.group().translate(_SUB) + "}", text)
        text = unicodedata.normalize("NFKC", text)
    text = _BLANKS.sub(" ", _CONTROL.sub(" ", text))
    if "per " in text:
        text = _PER_SQUARED.sub(r"per \1^2", text)
    if "dots" in text or "..." in text:
        text = _AND_SO_ON.sub(r", \\ldots", text)
    return _EMPHASIS.sub(r"\1", text.strip()).replace("**", "^") if "**" in text else text.strip()


def _combinations(text: str) -> str:
    return _COMBINATIONS.sub(lambda m: f"\\binom{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text) if "C_" in text else text


def _commands(text: str) -> str:
    """LaTeX commands that mean the same in one spelling; those that only set type away."""
    text = _FONT.sub(r"\\mathrm{\1}", _THIN.sub(" ", _NUMBER_SETS.sub(r"\\mathbb{\1}", text)))
    if "color" in text:
        text = _COLOUR.sub("", text)
    if "choose" in text or "binom" in text:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", _BINOM.sub(r"\\binom", text))
    text = _combinations(text)
    if "over" in text or "vec" in text:
        text = _VECTOR.sub(lambda m: f" {m[1] or m[2]} ", _OVER_BAR.sub(r"\\frac{\1}{\2}", text))
    if "angle" in text or "array" in text:
        text = _SYSTEM.sub(r"\\begin{cases}\1\\end{cases}", _ANGLE_NAME.sub(r"\\angle \1", text))
    if "\\dot" in text:
        text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
    text = _TEXT_DASH.sub("-", text) if "{-" in text else text
    text = _FRAC.sub(r"\\frac", _SYNONYM.sub(lambda m: _SYNONYMS[m.group()], text))
    text = _TEXT.sub(_unwrap, _unboxed(_TEXT.sub(_unwrap, text)))
    text = _ROUND.sub(r"^\\circ ", _SPACE.sub(" ", text))
    return text.replace("\\degree", "^\\circ ").replace("\\colon", ":").replace("\\mp", "\\pm")


def _inches(text: str) -> str:
    """5' 6" with its marks as words; quotation marks around something stay what they are."""
    text = _PRIMES.sub(lambda m: "'" * m[1].count("prime"), text.replace("″", "''").replace("′", "'"))
    if not _OPENED.search(text):
        text = _INCHES.sub(r"\\text{''} ", text)
    return _FEET.sub(r"\\text{'} ", text)


def _unboxed(text: str) -> str:
    """What stands in boxes, without them; a box that never closes stays."""
    for _ in range(4):
        opened = _BOX.search(text)
        if opened is None:
            break
        depth, at = 1, opened.end()
        while at < len(text) and depth:
            depth += (text[at] == "{") - (text[at] == "}")
            at += 1
        if depth:
            break
        text = text[: opened.start()] + text[opened.end() : at - 1] + text[at:]
    return text


def _unwrap(match: re.Match[str]) -> str:
    inside = match.group(1).strip()
    if inside in FUNCTIONS:
        return f"\\{inside} "
    before = match.string[: match.start()].rstrip()[-1:]
    if inside == "'":
        return f" {MARK}'{KRAM} "
    if inside in _LETTER_UNITS and (before.isdigit() or before == "}"):
        return f" {MARK}{inside}{KRAM} "
    if len(inside) <= 1 or _PLAIN_INSIDE.fullmatch(inside):
        return "" if inside in (".", ",", ";", ":") else inside
    return f" {MARK}{inside}{KRAM} "


def join_thousands(text: str) -> str:
    """12,345 -> 12345, where the grouping is right; 12,34 stays two numbers."""
    return _THOUSANDS.sub(lambda m: m.group().replace(",", ""), text)


def canonical(text: str) -> str:
    """The string that is compared when nothing exact can be: no spaces, no marks, plain words in lower case."""
    apart = _DIGITS_APART.sub("&", text.replace(MARK, "").replace(KRAM, ""))  # 1 2 is not 12
    bare = _SINGLE.sub(r"\1\2", "".join(apart.split()))
    return bare.casefold() if bare.isalpha() and len(bare) > 1 else bare


_DIGITS_APART = re.compile(r"(?<=\d)\s+(?=\d)")
_SINGLE = re.compile(r"([_^])\{(\w)\}")
