"""Reading an answer: what kind of mathematical object does a text name?

A value with its unit, an assignment, an equation, an inequality, a list, set, tuple, interval, union, ratio or
matrix; what is none of these is a string (`Opaque`). Inequalities in one variable are read as intervals, so
x >= 0 and [0, \\infty) are the same object. Comparing two objects: equality.py.

Everything is one pass of bounded patterns over at most MAX_ANSWER characters. Left out: sums, integrals and
limits (strings). Units: units.py; values that words join: measures.py; sets built from others are compared in realsets.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from lmm_r1.rewards.exact import Exact, NotExact, TooBig
from lmm_r1.rewards.inequalities import COMPARISON, EVERYTHING, inequality
from lmm_r1.rewards.latex import Parsed
from lmm_r1.rewards.measures import read_compound, read_joined
from lmm_r1.rewards.objects import INTERVALS, Answer, Equation, Named, Opaque, Several
from lmm_r1.rewards.spelling import KRAM, MARK, canonical
from lmm_r1.rewards.terms import CONSTANTS, equal_values, minus
from lmm_r1.rewards.values import Value, read_value
from lmm_r1.rewards.words import denies

MAX_ITEMS = 50
MAX_NESTING = 60  # brackets within brackets

#: A name before a point, a set or a matrix: (x, y) = (2, 3), A(2, 3), S = \{1, 2\}.
_OBJECT_LABEL = re.compile(
    r"^(?:\(\s?[a-zA-Z](?:\s?,\s?[a-zA-Z]){1,3}\s?\)\s?=|[A-Z]\s?=?|[a-z]\s?=|[a-zA-Z]\s?\(\s?[a-z]\s?\)\s?=|[a-z]_\{?[a-z]\}?\s?=|\\(?:vec|mathbf)\s?\{?[a-zA-Z]\}?\s?=)\s?(?=\(\s?[^()]{1,200},|\\\{|\\begin|\[\[)"
)
_RELATION = re.compile(r"\\(?:equiv|sim|in|mod|pmod|to|cong|subset|subseteq|Rightarrow|implies|iff)(?![a-zA-Z])")
_WITHOUT = re.compile(r"\\(?:setminus|backslash|smallsetminus)(?![a-zA-Z])|(?<=[\])}R])\s?-\s?(?=\\\{)")
_EXCEPT = re.compile(
    rf"{MARK}?(?:all )?(?:the )?reals?(?: numbers?)?(?: [a-z])? (?:except|other than|excluding)(?: for)?{KRAM}?(?=\s|\d|-)\s?",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\\approx(?![a-zA-Z])")
_SYMBOL = r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w{1,8}\}?)?'{0,3}(?:\^\s?\{?-1\}?)?"
_CAPITAL = r"(?:[A-Z]{1,3}(?:_\s?(?:\{[^{}]{1,8}\}|\w))?|[a-z]_\s?(?:\{[^{}]{1,8}\}|\w))"
_LABEL = re.compile(
    rf"(?:{_SYMBOL}(?:\s?\(\s?-?[a-zA-Z0-9]{{1,4}}\s?\))?|\\(?:overline|widehat|vec)\s?\{{[a-zA-Z]{{1,4}}\}}|\|(?:[zw]|[A-Z]{{2}})\||"
    rf"\\(?:sin|cos|tan)\s?(?:[A-Z]|\\[a-z]+)|[a-z](?:\s?\+\s?[a-z]){{1,3}}|[A-Z]_\{{[^{{}}]{{1,30}}\}}|"
    rf"\\frac\s?\{{{_CAPITAL}\}}\s?\{{{_CAPITAL}\}}|{_CAPITAL}\s?/\s?{_CAPITAL}|m?\s?\\angle\s?[a-zA-Z0-9]{{1,4}}|[A-Z]{{2}}|[a-zA-Z]{{3,20}}|{MARK}[^{KRAM}]*{KRAM})"
)
_MEMBER = re.compile(rf"^\s*{_SYMBOL}\s*\\in(?![a-zA-Z])\s*")
_AND = re.compile(
    rf"{MARK}(?:,\s?)?(?:and|or){KRAM}|\s(?:and|or|und|oder|et|ou)\s|\\(?:land|lor)(?![a-zA-Z])|(?<=[)\]])(?:or|and)(?=[(\[])|[和或与與及]"
)
_LOGIC = re.compile(r"\\(?:land|lor|lnot|neg)(?![a-zA-Z])")
_RELATED = re.compile(r"[=<>]|\\(?:le|ge|ne|in)(?![a-zA-Z])")
_BETWEEN = re.compile(rf"{MARK}?\s?between\s", re.IGNORECASE)
_REMAINDER = re.compile(r"emainder|[余餘]|\d\s?[Rr]esto?e?\s?\d|\d\s?\.{6}\s?\d")
#: 1951-04-09, and capitals alone (IX, LR): neither a difference nor a product.
_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}-\d{1,2}-\d{4}|\d{1,2}/\d{1,2}/\d{2,4}|\d{4}/\d{1,2}/\d{1,2}|[A-Z]{2,}"
)
#: 10-20, 2.5 - 3.5 cm, 10%-20%
_DASHED = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s?([^\d\-+=<>]{0,20}?)\s?-\s?(\d{1,9}(?:\.\d{1,6})?)([^\d\-+=<>]{0,30})")
_NAMED_POINTS = re.compile(r"(?<![a-zA-Z])[A-Z]{1,3}(?![a-zA-Z])")  # NO is a segment, no denial
_ALTERNATIVES = re.compile(rf"{MARK}(?:,\s?)?or{KRAM}|\s(?:or|oder|ou)\s|\\lor(?![a-zA-Z])|或")
_OR = ("or", "ou", "oder", "或", "\\lor")
#: (x, y) = (1, 2): the names of a point.
#: Between solutions: "or", or a semicolon.
_SOLUTION = re.compile(rf"{MARK}(?:,\s?)?(?:or|and){KRAM}|\s(?:or|and|oder|ou)\s|\\lor(?![a-zA-Z])|或|;")
_STATED = re.compile(r"\\end\s?\{vmatrix\}\s?=")
_NAMES = re.compile(r"\(\s?([a-zA-Z](?:_\{?\d\}?)?(?:\s?,\s?[a-zA-Z](?:_\{?\d\}?)?){1,3})\s?\)\s?=\s?(?=\()")
_CLOCK = re.compile(rf"(\d{{1,2}}):(\d{{2}})(?:\s?{MARK}?\s?([ap])\.?\s?m\.?\s?{KRAM}?)?", re.IGNORECASE)
_MATRIX = re.compile(r"\\begin\s?\{(?:[bpB]?matrix|array)\}(?:\s?\{[lcr| ]*\})?(.*)\\end\s?\{\w+\}", re.DOTALL)
_CASES = re.compile(r"\\begin\s?\{(?:cases|aligned|align\*?|gathered|split)\}(.*)\\end\s?\{\w+\*?\}", re.DOTALL)
_VARIABLE = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])")
_IF = re.compile(r"^(?:if|when|for|where)\s")
_ABSOLUTE = re.compile(r"\|([^|<>=]{1,60})\|\s?(<=|>=|<|>|\\(?:le|ge)(?![a-zA-Z]))\s?([^|<>=]{1,60})")
_ONE_NAME = rf"(?:\\(?:sin|cos|tan|angle|overline|triangle)\s?\{{?\s?)?{MARK}?[a-zA-Z]{{1,12}}\}}?(?:_\s?(?:\{{[^{{}}=:]{{1,20}}\}}|\w))?(?:\^\s?\{{?\d\}}?)?{KRAM}?"
_RATIO_NAME = re.compile(rf"{_ONE_NAME}(?:\s?:\s?{_ONE_NAME}){{1,4}}")
#: An expression that is named, not read: what follows its equals sign is what it comes to.
_OPERATOR = re.compile(
    r"\\(?:bmod|mod|lim|sum|prod|int|det|gcd|lcm|max|min|operatorname)(?![a-zA-Z])|\\begin\s?\{vmatrix\}"
)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "\\le": "\\ge", "\\ge": "\\le"}
_BUILDER = re.compile(rf"^\s*{_SYMBOL}\s*(?:\\in\s*\\mathbb\s?\{{?R\}}?\s*)?[|:]")
_EMPTY = frozenset(
    ("\\emptyset", "emptyset", "\\{\\}", "nosolution", "nosolutions", "norealsolution", "norealsolutions")
)
_REALS = frozenset(("\\mathbb{R}", "\\mathbbR", "\\R", "allrealnumbers", "allreals"))


_NOTHING = Several("set", ())


def read(text: str) -> Answer:
    """Read a tidy answer. Raises TooBig only."""
    if nesting(text) > MAX_NESTING:
        raise TooBig("brackets are nested too deeply")
    return _read(text)


def _read(text: str) -> Answer:
    text = text.strip()
    if (compound := read_compound(text)) is not None:
        return compound
    if (_REMAINDER.search(text) or _BETWEEN.match(text)) and (divided := _divided(text)) is not None:
        return divided
    if named := _NAMES.match(text):
        names = [name.strip() for name in named.group(1).split(",")]
        return _with_names(names, _read(text[named.end() :]))
    label = _OBJECT_LABEL.match(text)
    if label and (
        text[label.end()] != "(" or len(_split(text[label.end() :], ",")) == 1
    ):  # else several points, each with its own label
        found = _read(text[label.end() :])
        if isinstance(found, Several) and found.kind == "()":
            return replace(found, label=label.group().strip("= "))
        return found
    if "\\begin" in text and not _STATED.search(text):
        return _environment(text)
    if text.startswith("[[") and text.endswith("]]") and (nested := _nested(text)) is not None:
        return nested
    text = _MEMBER.sub("", text)
    bare = canonical(text)
    if bare.casefold() in _EMPTY:
        return _NOTHING
    if bare in _REALS:
        return EVERYTHING
    if (built := _built_set(text)) is not None:
        return built
    if text.startswith("\\{") and text.endswith("\\}") and "\\{" not in text[2:]:
        builder = _BUILDER.match(text[2:-2])
        if builder:
            return _read(text[2 + builder.end() : -2])
        return Several("set", tuple(_flat(_read(p) for p in _split(text[2:-2], ","))))
    if text[:1] == "{" and _closes_at_end(text):
        if builder := _BUILDER.match(text[1:-1]):
            return _read(text[1 + builder.end() : -1])
        return _read(text[1:-1])
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes_at_end(text):
        parts = _split(text[1:-1], ";" if ";" in text else ",")
        if len(parts) > 1:
            return Several(text[0] + text[-1], tuple(_read(p) for p in parts))
    if (pairs := _solutions(text)) is not None:
        return pairs
    if _LOGIC.search(text) and not _RELATED.search(text):
        return Opaque(canonical(text))  # p \\land q is a statement
    parts = [p for p in _split(_AND.sub(",", text).replace(";", ","), ",") if p.strip()]
    if len(parts) > 1:
        items = tuple(_flat(_read(p) for p in parts))
        first = items[0]
        if isinstance(first, Several) and first.kind == "ne":  # x != 1, 2 and x != 1, x != 2
            excluded = [i.items[0] if isinstance(i, Several) and i.kind == "ne" else i for i in items]
            return Several("ne", tuple(excluded))
        if isinstance(first, Named) and all(isinstance(i, Value) for i in items[1:]):  # x = 1, 2
            items = (first, *(Named(first.name, i) for i in items[1:] if isinstance(i, Value)))
        if _NOTHING in items:
            return Opaque(canonical(text))  # all of it, or nothing
        if not _ALTERNATIVES.search(text):
            return Several("list", items)
        told = {i.name.partition("_")[0] for i in items if isinstance(i, Named)}
        return Several("or" if len(told) == len(items) else "set", items)  # a = 2 or b = 3 does not say both
    text = parts[0].strip() if parts else text
    if "\\pm" in text and text.count("\\pm") == 1:
        before, _, after = text.partition("\\pm")
        return Several("list", (_item(f"{before}+{after}"), _item(f"{before}-{after}")))
    return _item(text)


def _divided(text: str) -> Several | None:
    """12, remainder 5."""
    try:
        return read_joined(text)
    except NotExact:
        return None


def _with_names(names: list[str], points: Answer) -> Answer:
    """(x, y) = (1, 2), (3, 4): every point with its names; what is no point of so many numbers stays without."""
    if isinstance(points, Several) and points.kind == "list":
        return Several("list", tuple(_with_names(names, item) for item in points.items))
    if not isinstance(points, Several) or points.kind != "()" or len(points.items) != len(names):
        return points
    values = [item for item in points.items if isinstance(item, Value)]
    if len(values) != len(names):
        return points
    return Several("()", tuple(Named(name, value) for name, value in zip(names, values, strict=True)))


def _solutions(text: str) -> Several | None:
    """x = 1, y = 2 or x = 3, y = 4: a list of points with names."""
    if text.count("=") < 4:
        return None
    groups = [g for g in _SOLUTION.split(text) if g.strip(" ,")]
    if not 2 <= len(groups) <= MAX_ITEMS:
        return None
    points: list[Answer] = []
    first: set[str] = set()
    for group in groups:
        items = tuple(_item(part) for part in _split(_AND.sub(",", group), ",") if part.strip())
        names = [item.name for item in items if isinstance(item, Named)]
        if len(items) < 2 or len(set(names)) != len(items) or (points and set(names) != first):
            return None
        first = set(names)
        points.append(Several("()", items))
    return Several("list", tuple(points))


def _nested(text: str) -> Several | None:
    """[[1, 2], [3, 4]]: the rows of a matrix, when all are equally long."""
    rows = [part.strip() for part in _split(text[1:-1], ",")]
    if not all(row[:1] == "[" and row[-1:] == "]" and _closes_at_end(row) for row in rows):
        return None
    cells = [tuple(_item(cell.strip()) for cell in _split(row[1:-1], ",")) for row in rows]
    if len({len(row) for row in cells}) != 1 or sum(map(len, cells)) > MAX_ITEMS:
        return None
    return Several("matrix", tuple(Several("row", row) for row in cells))


def _built_set(text: str) -> Several | None:
    """A set written as others put together; the signs bind as they are tried here, the weakest first."""
    excepted = _EXCEPT.match(text)
    if excepted:
        return Several("minus", (EVERYTHING, Several("set", tuple(_flat([_read(text[excepted.end() :])])))))
    parts = _split(_WITHOUT.sub("\\\\setminus", text), "\\setminus")
    if len(parts) == 2 and all(part.strip() for part in parts):
        return Several("minus", tuple(_read(p) for p in parts))
    for sign, kind in (("\\cup", "union"), ("\\cap", "intersection")):
        parts = _split(text, sign)
        if len(parts) > 1:
            return Several(kind, tuple(_read(p) for p in parts))
    joined = {"or" if any(w in word for w in _OR) else "and" for word in _AND.findall(text)}
    if len(joined) == 1 and COMPARISON.search(text):  # x > 2 and x < 5
        items = tuple(_as_point(_read(part)) for part in _AND.split(text))
        if _NOTHING not in items and all(isinstance(item, Several) and item.kind in _PIECES for item in items):
            return Several("union" if "or" in joined else "intersection", items)
    return None


_PIECES = (*INTERVALS, "ne", "set", "union", "intersection")


def _as_point(item: Answer) -> Answer:
    """x = 1 beside x < 0 is the point 1."""
    single = isinstance(item, Named) and not item.value.parsed.value.symbols - CONSTANTS
    return Several("set", (item.value,)) if isinstance(item, Named) and single else item


def _flat(items: Iterable[Answer]) -> Iterator[Answer]:
    """Items of a list; those of a plus-minus inside it one by one."""
    for item in items:
        if isinstance(item, Several) and item.kind == "list":
            yield from item.items
        else:
            yield item


def nesting(text: str) -> int:
    """How deep brackets stand within brackets."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _environment(text: str) -> Answer:
    """A matrix by its rows, a system as a list; a determinant or anything else stays a string."""
    if text[:1] in ("[", "(") and text[-1:] in ("]", ")"):
        text = text[1:-1].strip()  # \left[ \begin{array}
    matrix, cases = _MATRIX.fullmatch(text), _CASES.fullmatch(text)
    if matrix and "\\begin" not in matrix.group(1):
        rows = [row for row in matrix.group(1).split("\\cr ") if row.strip()]
        cells = [tuple(_item(cell.strip()) for cell in row.split("&")) for row in rows]
        if sum(map(len, cells)) > MAX_ITEMS:
            raise TooBig("a matrix is too large")
        return Several("matrix", tuple(Several("row", row) for row in cells))
    if cases and "\\begin" not in cases.group(1):
        written = [row.strip() for row in cases.group(1).split("\\cr ") if row.strip()]
        if len(written) > MAX_ITEMS:
            raise TooBig("a system is too large")
        if "{cases}" in text and all(row.count("&") == 1 and not row.startswith("&") for row in written):
            return Several("cases", tuple(_case(row) for row in written))
        rows = [row.replace("&", "").strip() for row in written]
        if len(rows) == 1 or all(row.startswith("=") for row in rows[1:]):
            return _item(" ".join(rows))  # one statement over several lines
        return Several("list", tuple(_item(row.strip().rstrip(",")) for row in rows))
    return Opaque(canonical(text))


def _case(row: str) -> Several:
    """value & condition of a function by cases; "otherwise" is the condition that always holds."""
    value, _, condition = row.partition("&")
    condition = _IF.sub("", condition.replace(MARK, " ").replace(KRAM, " ").strip().rstrip(".,;"))
    variables = "".join(sorted(set(_VARIABLE.findall(condition))))
    return Several("row", (_item(value.strip().rstrip(",;")), _item(condition.strip()), Opaque(variables)))


def _split(text: str, separator: str) -> list[str]:
    """Split where no bracket is open. Half-open intervals count as one bracket."""
    parts, depth, last, at = [], 0, 0, 0
    while at < len(text):
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, at):
            parts.append(text[last:at])
            at += len(separator)
            last = at
            continue
        at += 1
    parts.append(text[last:])
    if len(parts) > MAX_ITEMS:
        raise TooBig("a list is too long")
    return parts


def _closes_at_end(text: str) -> bool:
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return at == len(text) - 1
    return False


def _item(text: str) -> Answer:
    """One answer without commas: a value, name = value, an equation, an inequality, a ratio, or a string."""
    opaque = Opaque(canonical(text))
    stated = _OPERATOR.search(text) and text.count("=") and text[text.rfind("=") + 1 :].strip()
    if stated and not denies(text):
        try:
            return Named(canonical(text[: text.rfind("=")]), read_value(stated))
        except NotExact:
            return opaque
    if _RELATION.search(text) or _DATE.fullmatch(text):
        return opaque
    if "-" in text and (dashed := _DASHED.fullmatch(text)) and (ranged := _dashed(*dashed.groups())) is not None:
        return ranged
    try:
        if absolute := _ABSOLUTE.fullmatch(text):
            return _bounded_size(*absolute.groups())
        if COMPARISON.search(text):
            return opaque if "=" in text.replace("<=", "").replace(">=", "") else inequality(text) or opaque
        if (about := _approximated(text)) is not None:
            return about
        nearly = _ABOUT.search(text) is not None
        text = _ABOUT.sub("=", text).strip().removeprefix("=")
        name, _, told = text.partition("=")
        if _RATIO_NAME.fullmatch(name.strip()):  # AB:BC = 10:3
            return _named_ratio(name, told.strip())
        if ":" in text:
            return _ratio(text)
        sides = [side.strip() for side in text.split("=")]
        if len(sides) == 1:
            return _one_value(text)
        if len(sides) > 4 or not all(sides):
            return opaque
        if len(sides) == 2 and not _LABEL.fullmatch(sides[0]) and _LABEL.fullmatch(sides[1]):
            sides.reverse()  # 3 = x
        if _LABEL.fullmatch(sides[0]):
            named = next((k for k, side in enumerate(sides) if not _LABEL.fullmatch(side)), len(sides) - 1)
            values = [_side(side) for side in sides[named:]]  # x = y = 2 names 2
            same = all(equal_values(v.parsed.value, values[-1].parsed.value) for v in values)
            own = sides[0] in values[-1].parsed.value.symbols  # x = x names nothing
            if denies(_NAMED_POINTS.sub("", sides[0])) or own or not same:
                return opaque
            if nearly and ("+" in sides[0] or values[-1].parsed.value.symbols - CONSTANTS):
                return opaque  # y is nearly 2x: another relation than y = 2x
            return Named(canonical(sides[0]), values[-1])
        values = [read_value(side) for side in sides]
        if all(v.parsed.value.symbols <= CONSTANTS for v in values):
            # 5+2 = 7 answers 7, 5 = 4 nothing
            same = all(equal_values(v.parsed.value, values[-1].parsed.value) for v in values)
            return values[-1] if same and len(set(sides)) == len(sides) else opaque
        if len(sides) > 2 or nearly:
            return opaque
        difference = minus(values[0].parsed.value, values[1].parsed.value)
        return Equation(difference) if difference.symbols - CONSTANTS else opaque
    except NotExact:
        return opaque


def _dashed(first: str, own: str, second: str, unit: str) -> Several | None:
    """10-20: a range, when the first is the smaller one and what stands behind the numbers is a unit."""
    if float(first) >= float(second):
        return None
    try:
        start, end = read_value(first + (own or unit)), read_value(second + unit)
    except NotExact:
        return None  # 2^{-99}
    if any(text.strip() and not (side.unit or side.percent) for text, side in ((unit, end), (own, start))):
        return None
    return Several("range", (start, end))


def _side(text: str) -> Value:
    """A side of an equation: two letters alone are a product there (F = am)."""
    if len(text) == 2 and text.isalpha():
        text = " ".join(text)
    return read_compound(text) or read_value(text)


def _one_value(text: str) -> Answer:
    """A value, or values that words join."""
    try:
        return read_value(text)
    except NotExact:
        joined = read_joined(text)
        if joined is None:
            raise
        return joined


def _named_ratio(name: str, told: str) -> Answer:
    """a : b = 2 : 3, every part with its name; beside a number the name of the whole."""
    names = [part.strip(f" {MARK}{KRAM}") for part in name.split(":")]
    ratio = _ratio(told) if ":" in told else _one_value(told)
    if isinstance(ratio, Value) and "clock" in ratio.parsed.value.symbols:
        ratio = Several("ratio", tuple(read_value(part) for part in told.split(":")))
    if isinstance(ratio, Value):
        return Named(":".join(names), ratio)
    values = [item for item in ratio.items if isinstance(item, Value)] if isinstance(ratio, Several) else []
    if len(values) != len(names) or not isinstance(ratio, Several):
        raise NotExact("a ratio whose parts are not those that are named")
    return Several("ratio", tuple(Named(n, v) for n, v in zip(names, values, strict=True)))


def _approximated(text: str) -> Answer | None:
    r"""6\sqrt{3} \approx 10.39: the exact side, when the decimal is its rounding or its beginning; else nothing."""
    sign = _ABOUT.search(text)
    if sign is None or not text[: sign.start()].strip():
        return None
    answer, rounded = _item(text[: sign.start()].strip()), read_value(text[sign.end() :].strip())
    value = answer.value if isinstance(answer, Named) else answer
    digits = rounded.parsed.decimals
    if not isinstance(value, Value) or digits is None:
        return None
    x, y = value.parsed.value.approximate(), rounded.parsed.value.approximate()
    if x is None or y is None:
        return Opaque(canonical(text))
    off = abs(x - y) * 10.0**digits
    near = off <= 0.5 + 1e-9 or (off < 1.0 + 1e-9 and abs(y) <= abs(x))  # its rounding, or its beginning
    return answer if near else Opaque(canonical(text))


def _bounded_size(inside: str, sign: str, bound: str) -> Answer:
    """|u| < c and |u| > c as sets."""
    kind = "intersection" if sign in ("<", "<=", "\\le") else "union"
    return Several(kind, (_item(f"{inside}{sign} {bound}"), _item(f"{inside}{_FLIPPED[sign]} -({bound})")))


def _ratio(text: str) -> Answer:
    """3:2, or a time of the day when two digits stand behind the colon (math.py takes 1:20 for a ratio beside 1/20)."""
    clock = _CLOCK.fullmatch(text.strip())
    if clock and int(clock.group(1)) < 25 and int(clock.group(2)) < 60:
        minutes = Exact.number(60 * int(clock.group(1)) + int(clock.group(2))) * Exact.symbol("clock")
        return Value(Parsed(minutes, None, False), f"{clock.group(3).lower()}m" if clock.group(3) else "")
    parts = [read_value(part) for part in text.split(":")]
    if len(parts) > 10 or any(part.unit or part.percent for part in parts):
        raise NotExact("no ratio")
    return Several("ratio", tuple(parts))
