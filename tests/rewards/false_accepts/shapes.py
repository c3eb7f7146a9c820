r"""Mutations of a gold's own signs: digits, signs, operators, brackets, orders, items, letters.

A mutated text is kept only if `reading.surely_differ` reads both and finds them different.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from tests.rewards.false_accepts.cases import Case, Gold, plain_number, stripped
from tests.rewards.false_accepts.reading import bracketed, formulas_differ, split_top, surely_differ

_TAKEN = 4  # mutated texts of one kind for one gold
_DIGIT = re.compile(r"[0-9]")
_RUN = re.compile(r"[0-9]+")
_SIGN = re.compile(r"(?<=[\d)}a-zA-Z ])[+-]|^-|(?<=[(\[,{])-")
_WORD = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{2}|\\(?:text|mathrm|rm|mbox)")
_UNIT = re.compile(
    r"\d\s*[a-zA-Z](?:\s?/\s?[a-zA-Z])?$"
)  # a letter behind a number may be a unit, which may be left out
_OPERATORS = (
    (r"\sqrt{", "{"), ("+", "-"), ("-", "+"), ("+", r"\cdot "), ("^", ""), (r"\frac", ""), ("/", "+"), ("/", "*"), ("*", "+"), (r"\pi", "3"),
    (r"\pi", ""), (r"\cdot", "+"), (r"\times", "+"), (r"\sqrt", r"\sqrt[3]"), ("^2", "^3"), ("^{2}", "^{3}"), ("i", ""), (r"\sin", r"\cos"),
    (r"\ln", r"\sin"), (r"\log", r"\cos"), ("!", ""), (r"\pi", "e"), ("^", "+"), ("^", "*"), (r"\binom", r"\frac"), ("sqrt", "pi"),
    (r"\frac", r"\binom"),
)  # fmt: skip
_RELATIONS = (
    (r"\le ", "<"), (r"\leq", "<"), (r"\ge ", ">"), (r"\geq", ">"), (r"\le ", r"\ge "), (r"\leq", r"\geq"), (r"\ge ", r"\le "), (r"\geq", r"\leq"),
    ("<", ">"), (">", "<"), ("<", r"\le "), (">", r"\ge "), ("<", "="), (">", "="), (r"\cup", r"\cap"), (r"\neq", "="), (r"\ne ", "="),
)  # fmt: skip


def _kept(kind: str, gold: Gold, found: Iterator[str], rng: Random, taken: int = _TAKEN) -> Iterator[Case]:
    text = stripped(gold.text)
    if gold.verifier != "math":
        return
    texts = [t for t in dict.fromkeys(found) if t != text]
    rng.shuffle(texts)
    count = 0
    for other in texts[: 3 * taken]:
        a, b = plain_number(text), plain_number(other)
        if a != b if a is not None and b is not None else surely_differ(text, other):
            count += 1
            yield Case(kind, gold.text, other)
        if count == taken:
            return


def _put(text: str, at: int, end: int, new: str) -> str:
    return text[:at] + new + text[end:]


def digits(gold: Gold, rng: Random) -> Iterator[Case]:
    """One digit changed, dropped, doubled, or moved."""
    text = stripped(gold.text)

    def found() -> Iterator[str]:
        for match in _DIGIT.finditer(text):
            at = match.start()
            yield _put(text, at, at + 1, str((int(match[0]) + rng.randint(1, 9)) % 10))
            yield _put(text, at, at + 1, match[0] * 2)
            if _DIGIT.match(text, at + 1):
                yield _put(text, at, at + 2, text[at + 1] + match[0])
                yield _put(text, at, at + 1, "")
        for match in _RUN.finditer(text):
            yield _put(text, match.end(), match.end(), "0")
            yield _put(text, *match.span(), str(int(match[0]) + 1))
            yield _put(text, *match.span(), str(max(0, int(match[0]) - 1)))
            if len(match[0]) > 1:
                yield _put(text, *match.span(), match[0][:-1] + "." + match[0][-1])
                yield _put(text, *match.span(), match[0][::-1])

    return _kept("digits", gold, found(), rng, 8)


def swapped_numbers(gold: Gold, rng: Random) -> Iterator[Case]:
    """Two numbers of the gold change places."""
    text = stripped(gold.text)
    runs = list(_RUN.finditer(text))[:12]
    found = (
        text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]
        for k, a in enumerate(runs)
        for b in runs[k + 1 :]
    )
    return _kept("swapped numbers", gold, found, rng)


def signs(gold: Gold, rng: Random) -> Iterator[Case]:
    """One sign turned, or the whole negated."""
    text = stripped(gold.text)

    def found() -> Iterator[str]:
        for match in _SIGN.finditer(text):
            alone = match.start() == 0 or text[match.start() - 1] in "([,{"
            yield _put(text, *match.span(), "" if alone else "-" if match[0] == "+" else "+")
        for match in _RUN.finditer(text):
            yield _put(text, match.start(), match.start(), "-")
        if "=" not in text and "," not in text:
            yield f"-({text})"
            yield f"-{text}"

    return _kept("signs", gold, found(), rng)


def operators(gold: Gold, rng: Random) -> Iterator[Case]:
    """One operator, function or constant replaced."""
    text = stripped(gold.text)
    found = (_put(text, at, at + len(old), new) for old, new in _OPERATORS for at in _places(text, old))
    return _kept("operators", gold, found, rng)


def _places(text: str, part: str) -> list[int]:
    return [at for at in range(len(text)) if text.startswith(part, at)]


def relations(gold: Gold, rng: Random) -> Iterator[Case]:
    """An inequality turned, made strict or not strict, or made an equation; a union made an intersection."""
    text = stripped(gold.text)
    if not re.search(r"\\[lg]eq?(?![a-z])|[<>]|\\cup|\\neq?(?![a-z])", text) or (
        "," in text.replace("\\,", "") and "\\cup" not in text
    ):
        return
    found = [_put(text, at, at + len(old), new) for old, new in _RELATIONS for at in _places(text, old)]
    sides = [side.strip() for side in text.split("\\cup")]
    if len(sides) > 1 and (len(set(sides)) < len(sides) or not all(bracketed(side) for side in sides)):
        return
    for other in rng.sample(found, min(len(found), _TAKEN)):
        yield Case("relations", gold.text, other)


def brackets(gold: Gold, rng: Random) -> Iterator[Case]:
    """Open ends closed and closed ones opened, a pair made a set; brackets of a formula left out."""
    text = stripped(gold.text)
    held = bracketed(text)
    if held and "," in held[1]:
        items = split_top(held[1])
        kinds = [("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("\\{", "\\}")]
        infinite = any("infty" in item for item in items)
        if len(items) != 2 or infinite or not formulas_differ(items[0], items[1]):
            return
        for opened, closed in kinds:
            if (opened, closed) != (held[0], held[2]):
                yield Case("brackets", gold.text, f"{opened}{held[1]}{closed}")
        return
    found = [_put(text, at, at + 1, "") for at in _places(text, "(")]
    pairs = (other.replace(")", "", 1) for other in found)
    yield from _kept("brackets", gold, pairs, rng)


def orders(gold: Gold, rng: Random) -> Iterator[Case]:
    """A tuple, an interval or the rows of a matrix in another order."""
    text = stripped(gold.text)
    held = bracketed(text)
    if held and held[0] != "\\{":
        items = split_top(held[1])
        if 2 <= len(items) <= 8:
            turned = [items[::-1], items[1:] + items[:1], [items[1], items[0], *items[2:]]]
            yield from _kept("orders", gold, (f"{held[0]}{', '.join(t)}{held[2]}" for t in turned), rng)
    rows = re.fullmatch(r"\\begin\{([pb])matrix\}(.*)\\end\{[pb]matrix\}", text, re.DOTALL)
    if rows and len(lines := [line.strip() for line in re.split(r"\\\\(?:\[[^\]]*\])?", rows[2]) if line.strip()]) > 1:
        cells = [[c.strip() for c in line.split("&")] for line in lines]
        turned_cells = cells[::-1]
        if any(
            formulas_differ(a, b) for p, q in zip(cells, turned_cells, strict=True) for a, b in zip(p, q, strict=False)
        ):
            inner = " \\\\ ".join(" & ".join(line) for line in turned_cells)
            yield Case("orders", gold.text, f"\\begin{{{rows[1]}matrix}} {inner} \\end{{{rows[1]}matrix}}")
        if len(cells) == len(cells[0]) > 1 and any(
            formulas_differ(cells[i][j], cells[j][i])
            for i in range(len(cells))
            for j in range(i)
            if len(cells[i]) > j and len(cells[j]) > i
        ):
            inner = " \\\\ ".join(" & ".join(line[k] for line in cells) for k in range(len(cells)))
            yield Case("orders", gold.text, f"\\begin{{{rows[1]}matrix}} {inner} \\end{{{rows[1]}matrix}}")


def items(gold: Gold, rng: Random) -> Iterator[Case]:
    """An item of a list, a set or a tuple left out, added, or another one in its place."""
    text = stripped(gold.text)
    held = bracketed(text)
    opened, inside, closed = held or ("", text, "")
    parts = split_top(inside)
    if not 2 <= len(parts) <= 12 or (not held and "(" in text and not all(bracketed(p) for p in parts)):
        return
    pool = [*parts, "7919"]

    def found() -> Iterator[str]:
        for k in range(len(parts)):
            yield ", ".join(parts[:k] + parts[k + 1 :])
            yield ", ".join([*parts[:k], "7919", *parts[k + 1 :]])
            yield ", ".join([*parts[:k], parts[k - 1], *parts[k + 1 :]])
        yield ", ".join(pool)

    yield from _kept("items", gold, (f"{opened}{other}{closed}" for other in found()), rng)


def letters(gold: Gold, rng: Random) -> Iterator[Case]:
    """One letter of a formula replaced by another, or a capital."""
    text = stripped(gold.text)
    if "=" in text or bracketed(text) or _WORD.search(text) or _UNIT.search(text):
        return
    names = sorted(set(re.findall(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", text)) - set("eiCKc"))
    if "\\pi" in text or "circ" in text:
        names = [name for name in names if name not in "kmn"]  # the whole number of a family may have any name
    found = (
        re.sub(rf"(?<![a-zA-Z\\]){name}(?![a-zA-Z])", new, text)
        for name in names
        for new in ("z" if name != "z" else "w", name.swapcase(), "3", "")
    )
    yield from _kept("letters", gold, found, rng)


MUTATIONS = {
    "digits": digits, "swapped numbers": swapped_numbers, "signs": signs, "operators": operators, "relations": relations, "brackets": brackets,
    "orders": orders, "items": items, "letters": letters,
}  # fmt: skip
