"""The search for false accepts: wrong answers made from golds, by mutations that know why their result is wrong.

    cases.py     what a case is, and a plain reading of numbers
    words.py     denials, hedges, second values, ranges, multipliers, in several languages
    shapes.py    digits, signs, operators, brackets, orders, items, letters of the gold itself
    dressed.py   golds made of two numbers: measures, assignments, ratios, units, money, marks, bases, roundings
    others.py    the verifiers choice, numeric, text and boxes
    crosses.py   the gold of another row as the answer
    reading.py   the second opinion: a tiny grammar, evaluated by mpmath

The verifier under test is never asked while cases are made.
"""
