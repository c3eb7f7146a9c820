"""Text reasoning problems of the micro task: five families, two to four steps each, exact answers.

Operands stay below 16 and products inside the times table, so that a model of 1.5 million parameters can
know the skill after minutes of training; harder levels may follow.
"""

from __future__ import annotations

import numpy as np

from lmm_r1.data.synthetic.items import Item, Maker, add, div, mul, number, pick, sub


def arithmetic(rng: np.random.Generator) -> Item:
    """Two operations on three numbers."""
    kind = number(rng, 0, 3)
    if kind == 0:
        a, b, c = number(rng, 2, 15), number(rng, 2, 15), number(rng, 2, 15)
        text, steps, value = f"{a} + {b} + {c}", (add(a, b), add(a + b, c)), a + b + c
        check = sub(value, c)
    elif kind == 1:
        a, b = number(rng, 2, 15), number(rng, 2, 15)
        c = number(rng, 1, min(15, a + b - 1))
        text, steps, value = f"{a} + {b} - {c}", (add(a, b), sub(a + b, c)), a + b - c
        check = add(value, c)
    elif kind == 2:
        a, b, c = number(rng, 2, 6), number(rng, 2, 9), number(rng, 2, 15)
        text, steps, value = f"{a} * {b} + {c}", (mul(a, b), add(a * b, c)), a * b + c
        check = sub(value, c)
    else:
        a, b = number(rng, 2, 6), number(rng, 2, 9)
        c = number(rng, 1, min(15, a * b - 1))
        text, steps, value = f"{a} * {b} - {c}", (mul(a, b), sub(a * b, c)), a * b - c
        check = add(value, c)
    question = pick(rng, ("Compute {}.", "What is {}?", "Find the value of {}.")).format(text)
    return Item("arithmetic", question, str(value), steps, check, f"arithmetic:{text}")


def equation(rng: np.random.Generator) -> Item:
    """A linear equation in x with a whole solution."""
    a, x = number(rng, 2, 6), number(rng, 2, 9)
    if number(rng, 0, 1):
        b = number(rng, 1, 15)
        c = a * x + b
        text, steps = f"{a}x + {b} = {c}", (sub(c, b), div(a * x, a))
    else:
        b = number(rng, 1, min(15, a * x - 1))
        c = a * x - b
        text, steps = f"{a}x - {b} = {c}", (add(c, b), div(a * x, a))
    question = pick(rng, ("Solve for x: {}.", "Find x if {}.", "{}. What is x?")).format(text)
    return Item("equation", question, str(x), steps, mul(a, x), f"equation:{text}")


def comparison(rng: np.random.Generator) -> Item:
    """Which of four sums or differences is the largest or smallest: an option letter."""
    values: list[int] = []
    texts: list[str] = []
    steps: list[str] = []
    while len(values) < 4:
        a, b = number(rng, 2, 15), number(rng, 2, 15)
        plus = bool(number(rng, 0, 1)) or b >= a
        value = a + b if plus else a - b
        if value not in values:
            values.append(value)
            texts.append(f"{a}+{b}" if plus else f"{a}-{b}")
            steps.append(add(a, b) if plus else sub(a, b))
    largest = bool(number(rng, 0, 1))
    best = max(values) if largest else min(values)
    letter = "ABCD"[values.index(best)]
    options = " ".join(f"{name}) {text}" for name, text in zip("ABCD", texts, strict=True))
    word = "largest" if largest else "smallest"
    question = pick(rng, ("Which is {}? {}", "Which option has the {} value? {}")).format(word, options)
    told = (*(f"{name} {step}" for name, step in zip("ABCD", steps, strict=True)), f"{word} {best} is {letter}")
    key = f"comparison:{word}:{sorted(texts)}"
    return Item(
        "comparison", question, letter, told, f"{best} is {letter}", key, verifier="choice", choices=tuple(texts)
    )


def sequence(rng: np.random.Generator) -> Item:
    """The next, or the next but one, term of an arithmetic sequence."""
    start, step = number(rng, 1, 40), number(rng, 2, 9)
    down = bool(number(rng, 0, 1)) and start > 5 * step
    sign = -1 if down else 1
    terms = [start + sign * step * k for k in range(6)]
    shown = ", ".join(map(str, terms[:4]))
    move = sub if down else add
    steps: tuple[str, ...]
    first = sub(terms[0], terms[1]) if down else sub(terms[1], terms[0])
    if number(rng, 0, 1):
        question = f"What comes next: {shown}?"
        steps, value = (first, move(terms[3], step)), terms[4]
    else:
        question = f"What is the sixth term: {shown}?"
        steps, value = (first, move(terms[3], step), move(terms[4], step)), terms[5]
    check = (add if down else sub)(value, step)
    return Item("sequence", question, str(value), steps, check, f"sequence:{start}:{sign * step}")


_NAMES = ("Ann", "Ben", "Eva", "Tom", "Mia", "Leo")
_THINGS = ("apples", "books", "coins", "pens", "cards")


def word_problem(rng: np.random.Generator) -> Item:
    """A short story with two operations."""
    name, thing = pick(rng, _NAMES), pick(rng, _THINGS)
    kind = number(rng, 0, 3)
    if kind == 0:
        a, b = number(rng, 2, 15), number(rng, 2, 15)
        c = number(rng, 1, min(15, a + b - 1))
        question = f"{name} has {a} {thing}, gets {b} more and gives away {c}. How many {thing} are left?"
        steps, value, check = (add(a, b), sub(a + b, c)), a + b - c, add(a + b - c, c)
    elif kind == 1:
        a, b, c = number(rng, 2, 6), number(rng, 2, 9), number(rng, 2, 15)
        question = f"{name} fills {a} bags with {b} {thing} each and has {c} more. How many {thing} in all?"
        steps, value, check = (mul(a, b), add(a * b, c)), a * b + c, sub(a * b + c, c)
    elif kind == 2:
        a, b = number(rng, 2, 6), number(rng, 2, 9)
        c = number(rng, a * b + 1, a * b + 15)
        question = f"{name} has {c} coins and buys {a} pens for {b} coins each. How many coins are left?"
        steps, value, check = (mul(a, b), sub(c, a * b)), c - a * b, add(c - a * b, a * b)
    else:
        a, b = number(rng, 4, 15), number(rng, 2, 15)
        question = f"{name} is {a} years old and a friend is {b} years older. How old are they together?"
        steps, value, check = (add(a, b), add(a, a + b)), 2 * a + b, sub(2 * a + b, a)
        c = 0
    return Item("word_problem", question, str(value), steps, check, f"word_problem:{kind}:{a}:{b}:{c}")


_WORDS = ("TEA", "PIE", "JAM", "HAM", "EGG", "FIG", "OIL", "NUT", "A", "B", "C", "K", "L", "M", "red", "green", "blue")
_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")


def recall(rng: np.random.Generator) -> Item:
    """Base model only: the numbers that stand after named words, or how often each of two words occurs.

    Dense practice in continuing what was written before, which every solution of a picture with names needs.
    """
    if number(rng, 0, 1):
        words = [str(w) for w in rng.permutation(_WORDS)[: number(rng, 3, 5)]]
        values = [number(rng, 1, 20) for _ in words]
        asked = [int(k) for k in rng.permutation(len(words))[: number(rng, 2, 3)]]
        listed = ", ".join(f"{word} {value}" for word, value in zip(words, values, strict=True))
        question = f"{listed}. Find {', '.join(words[k] for k in asked)}."
        found = ", ".join(f"{words[k]} {values[k]}" for k in asked)
        return Item("recall", question, found, ("recall",), found, f"recall:{question}", verifier="text")
    kinds = [str(w) for w in rng.permutation(_COLOURS)[:2]]
    drawn = [kinds[number(rng, 0, 1)] for _ in range(number(rng, 3, 8))]
    counted = ", ".join(f"{word} {drawn[: k + 1].count(word)}" for k, word in enumerate(drawn))
    totals = ", ".join(f"{word} {drawn.count(word)}" for word in kinds if word in drawn)
    question = f"Count {', '.join(drawn)}: {', '.join(word for word in kinds if word in drawn)}."
    return Item("recall", question, totals, (counted,), totals, f"recall:{question}", verifier="text")


TEXT_FAMILIES: dict[str, Maker] = {
    "arithmetic": arithmetic,
    "equation": equation,
    "comparison": comparison,
    "sequence": sequence,
    "word_problem": word_problem,
}
