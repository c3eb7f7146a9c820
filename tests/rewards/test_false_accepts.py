"""The verifier pays no wrong answer that the search makes, and the search would see it if it did."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lmm_r1.data.synthetic.items import draw
from lmm_r1.data.synthetic.problems import DOMAINS
from lmm_r1.rewards import VERIFIERS
from tests.rewards.false_accepts import crosses, reading
from tests.rewards.false_accepts.cases import Case, Gold, plain_number, whole_number
from tests.rewards.false_accepts.numbers import spelled
from tests.rewards.false_accepts.search import generate, search
from tests.rewards.pairs import CHOICES, PAIRS

ROOT = Path(__file__).resolve().parents[2]
PAIRS_TRIED = 5000

#: Golds in the shapes that public sets have.
SHAPES = r"""0 | 1 | 055 | 7 | 12 | 36 | 84 | 120 | 144 | 1024 | 18000 | -3 | -27 | 0.5 | 2.5 | 31.4 | 367.57 | .375 | 3/4 | \frac{3}{4} | -\frac{7}{9} | \frac{1}{3} | \dfrac{22}{7} | \frac23 | 1\frac{4}{5}
    | 4\sqrt{3} | \frac{5\sqrt{2}}{3} | 12\pi | \frac{\pi}{8} | 9\pi - 18 | 45^\circ | 72^{\circ} | 18\% | 62.5% | \$42 | 12 \mathrm{~cm}^{2} | 10\text{ inches} | 6 m | 250 \text{ cm}^3 | (2, -5) | (1, 3, 7)
    | \left( \frac{3}{8}, \frac{5}{8} \right) | [0, 4) | (-\infty, 3] | (-1, 2) \cup [5, \infty) | x > 5 | -2 \le x < 7 | 3, -8 | 2, 3, 11 | \{1, 4, 9\} | x^2 - 5x + 6 | 3x^2y - 2y | (x-1)(x+4) | 2n^2 + 1
    | y = 3x - 8 | x^2 + y^2 = 49 | x = 4 | \begin{pmatrix} 1 \\ -4 \end{pmatrix} | \begin{pmatrix} 2 & 7 \\ 5 & 3 \end{pmatrix} | 2 - 9i | 3:8 | 1101_2 | 45_7 | 2^{20} - 3 | \binom{9}{4} | 7! | \ln 5 | \log_2 7
    | \text{Tuesday} | \frac{n(n+1)}{2} | \frac{x+3}{x-2} | e^{3} | 8, -8 | \sqrt{29} - 2 | 1 + \sqrt{6} | $\frac{12}{35}$ | $n^{2}-n+4$ | 1,250 | 10\sqrt{7}+6 | \frac{41}{90} | a+2b | 1 \pm \sqrt{5} | Area $=48.5 \mathrm{~m}^{2}$"""


@cache
def golds() -> list[Gold]:
    """Golds in the repository: the pairs, the made problems, the shapes above."""
    found = [Gold(gold) for same, different in PAIRS.values() for gold, _ in (*same, *different)]
    lines = (Path(__file__).parent / "more_pairs.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        if row.get("verifier", "math") == "math" and not row.get("choices") and "..." not in row["gold"]:
            found.append(Gold(row["gold"]))
    found += [Gold(gold, "choice", options or None) for options, gold, _, _ in CHOICES]
    found += [Gold(" ".join(part.split())) for part in SHAPES.split(" | ")] + [Gold(str(n)) for n in range(2, 98, 3)]
    for makers in DOMAINS.values():
        for maker in makers.values():
            item = draw(maker, "train", 0, 0, "search")
            found.append(Gold(item.answer, item.verifier, item.choices))
    return found


@cache
def cases() -> list[Case]:
    """The seeded slice."""
    return generate(golds(), PAIRS_TRIED, seed=7)


def pays(case: Case) -> bool:
    """Whether the project's verifier pays anything."""
    return VERIFIERS[case.verifier](case.problem(), case.reply).value > 0


def test_no_wrong_answer_is_paid() -> None:
    """Catches a reader that takes for equal what is not: words for a product, a denial for its opposite, a unit for none."""
    found = search(cases(), pays)
    assert found.tried.total() >= PAIRS_TRIED * 0.98
    wrong = [f"{case.kind}: {case.gold!r} pays {case.reply!r} ({case.verifier})" for case in found.wrong]
    assert not wrong, "\n".join(wrong)


def test_the_slice_is_the_same_every_time() -> None:
    """Catches a search whose findings cannot be repeated."""
    assert generate(golds(), 400, seed=3) == generate(golds()[::-1], 400, seed=3)
    assert generate(golds(), 400, seed=3) != generate(golds(), 400, seed=4)


def test_no_case_is_equal_by_its_own_numbers() -> None:
    """Catches a mutation that makes the same answer: swapped equal numbers, minus zero, a moved zero."""
    for case in cases():
        gold, answer = plain_number(case.gold), plain_number(case.answer)
        if case.verifier == "math" and gold is not None and answer is not None:
            assert gold != answer, case
        assert "".join(case.gold.split()) != "".join(case.answer.split()) or case.kind == "units outside the box", case


def test_no_case_is_a_right_answer_of_another_list() -> None:
    """Catches a mutation that makes what the project's other lists call right."""
    right = {(gold, answer) for same, _ in PAIRS.values() for gold, answer in same}
    rows = map(json.loads, (Path(__file__).parent / "more_pairs.jsonl").read_text("utf-8").splitlines())
    right |= {(row["gold"], row["prediction"]) for row in rows if row["expected"]}
    assert not [case for case in cases() if (case.gold, case.answer) in right or (case.gold, case.reply) in right]


def _numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]


def _first(text: str) -> float:
    return next(iter(_numbers(re.sub(r"\\(?:overline|dot)\{|[({]", "", text))), math.nan)


def _holds(case: Case) -> bool:
    return case.gold.strip("$ ").casefold() in case.answer.casefold()


def _same_numbers(case: Case) -> bool:
    return sorted(_numbers(case.gold)) == sorted(_numbers(case.answer)) != []


def _same_letters(case: Case) -> bool:
    return sorted(case.gold.casefold()) == sorted(case.answer.casefold())


def _product(case: Case) -> bool:
    return math.prod(_numbers(case.gold)) == math.prod(_numbers(case.answer)) and bool(_numbers(case.gold))


def _near(case: Case) -> bool:
    value = plain_number(case.gold)
    wanted = float(value) if value is not None else _first(case.gold)
    return abs(_first(case.answer) - wanted) <= 0.2 * abs(wanted) + 0.1


def _shares(case: Case) -> bool:
    return bool(set(re.findall(r"\w+", case.gold)) & set(re.findall(r"\w+", case.answer)))


def _in_words(case: Case) -> bool:
    return (whole_number(case.gold) or 99) < 99 and spelled(int(case.gold)) in case.answer


WORDS = {"denial", "hedge", "alternative", "range", "appended value", "multiplied", "inside a name", "no value"}
LANGUAGES = {f"language, {kind}" for kind in ("denial", "hedge", "alternative", "range", "multiplied")}
NUMERIC = {f"numeric, {kind}" for kind in (*WORDS, *LANGUAGES)}
CHOICE = {"choice, denial", "choice, other or both"} | {
    f"choice, {kind}, without options" for kind in ("denial", "other or both")
}
#: A verifier that is too kind in one way, and the mutations that must find it out.
LAX: dict[str, tuple[Callable[[Case], bool], set[str]]] = {
    "a reply that holds the gold": (
        _holds,
        {*WORDS, *LANGUAGES, *NUMERIC, *CHOICE, "powers and functions", "choice, texts", "beside the box", "bases", "text, words", "text, yes or no", "notation", "boxes", "words around a measure"},
    ),
    "the same numbers in any order": (
        _same_numbers,
        {"swapped numbers", "orders", "brackets", "signs", "operators", "letters", "relations", "compound measures", "joined numbers", "assignments",
         "sizes, dates, counts", "ratios, times, pairs", "units", "units outside the box", "money", "marks", "numeric, units", "boxes",
         "bounds", "conversions", "dates and labels"},
    ),
    "the same letters in any order": (_same_letters, {"words and names"}),
    "the same product of all numbers": (_product, {"compound measures", "joined numbers", "sizes, dates, counts", "assignments"}),
    "a number that is near": (
        _near,
        {"digits", "roundings", "repeating decimals", "numeric, beyond the last digit", "numeric, beyond the tolerance", "crosses", "notation"},
    ),
    "a word or a number in common": (_shares, {"items", "crosses", "digits", "operators", "choice, texts", "items in words"}),
    "the gold in words": (_in_words, {"in words"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAX)
def test_the_search_finds_a_verifier_that_pays_too_much(name: str) -> None:
    """Catches a mutation that has gone blind: each kind finds the fault that it is there for."""
    lax, kinds = LAX[name]
    found = search(cases(), lax).by_kind()
    assert not {kind for kind in kinds if not found[kind]}


def test_every_kind_of_mutation_has_a_verifier_that_it_finds_out() -> None:
    """Catches a new mutation that nobody has seen at work."""
    assert {case.kind for case in cases()} == set().union(*(kinds for _, kinds in LAX.values()))


AGREE = [("0.5", "\\frac12"), ("30^\\circ", "\\frac{\\pi}{6}"), ("50\\%", "0.5"), ("x=5", "5"), ("2,3", "3,2"), ("4\\sqrt{2}", "\\sqrt{32}"), ("12 cm", "12"),
         ("y=2x+1", "2x-y+1=0"), ("(1,2)", "1,2"), ("2516_8", "2516"), ("\\text{(E)}", "\\text{E}"), ("1,000", "1000"), ("0.333", "\\frac13"), ("(x+1)^2", "x^2+2x+1")]  # fmt: skip
DIFFER = [("0.5", "\\frac13"), ("30^\\circ", "\\frac{\\pi}{3}"), ("12 cm", "12 m"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("2516", "2516_8"), ("x+1", "x-1"), ("0.05", "\\frac{1}{19}"),
          ("y=2x+1", "y=2x-1"), ("2,3", "2,3,3"), ("5", "7"), ("2^{100}", "2^{100}+1"), ("45^\\circ", "45'"), ("\\text{Monday}", "\\text{Friday}")]  # fmt: skip


def test_the_second_opinion() -> None:
    """Catches a second reading that would wave a wrong cross through, or that cries at the policy of the verifier."""
    assert not [pair for pair in AGREE if not crosses.may_be_equal(*pair)]
    assert not [pair for pair in DIFFER if crosses.may_be_equal(*pair)]


def test_the_second_reading_gives_no_opinion_on_what_it_cannot_read() -> None:
    """Catches a mutation that is called different because neither text was understood."""
    for text in ("", "__import__('os')", "two", "x +", "\\frac{1}{0}", "1 2 )", "\\foo 3", "(" * 90):
        assert reading.values(text) is None
        assert not reading.surely_differ(text, "3")
    assert reading.surely_differ("x^2", "x^3") and not reading.surely_differ("x \\cdot x", "x^2")
    assert reading.surely_differ("(1, 2)", "(2, 1)") and not reading.surely_differ("1, 2", "2, 1")
    assert not reading.surely_differ("2x = 6y", "x = 3y")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.false_accepts", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_counts_and_says_by_its_exit_code(tmp_path: Path) -> None:
    """Catches a search that says nothing, or success, where there is no data."""
    missing = run("--data", str(tmp_path / "absent"))
    assert missing.returncode == 2 and "absent" in missing.stderr and "--data" in missing.stderr
    rows = [
        {"answer": "84"},
        {"answer": "#### 36"},
        {"answer": "\\frac{3}{8}"},
        {"answer": "B", "choices": ["1", "2"]},
        {"answer": "(2, 5)"},
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run("--data", str(tmp_path), "--pairs", "300", "--workers", "1")
    count = re.search(r"pairs tried (\d+), paid wrongly (\d+)", found.stdout)
    assert count is not None, found.stderr
    assert int(count[1]) > 150
    assert found.returncode == (1 if int(count[2]) else 0)
