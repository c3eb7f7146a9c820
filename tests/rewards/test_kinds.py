"""Kinds of fault, each held from both sides (kinds.py), and the cases of other people when they are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmm_r1 import verify
from tests.rewards.kinds import BOXED, CHOICE, NUMERIC, ODD, RIGHT, TAGS, TEXT, WRONG, Row

FOUND = Path(__file__).resolve().parents[3] / "shared" / "verifier_cases"


def mistakes(rows: list[Row], kind: str = "math") -> list[tuple[str, str, str]]:
    """(what went wrong, gold, answer) of every row that is not decided as written."""
    found = []
    for gold, same, different in rows:
        for answer in same:
            if verify(gold, f"<answer>{answer}</answer>", kind).value != 1.0:
                found.append(("refused", gold, answer))
        for answer in different:
            if verify(gold, f"<answer>{answer}</answer>", kind).value == 1.0:
                found.append(("paid", gold, answer))
    return found


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_what_is_no_equal_is_not_paid(kind: str) -> None:
    """Catches words, units, names and marks between numbers that are dropped or multiplied."""
    assert mistakes(WRONG[kind]) == []


@pytest.mark.parametrize("kind", sorted(RIGHT))
def test_an_equal_is_paid(kind: str) -> None:
    """Catches a way to write an answer that is taken for another answer."""
    assert mistakes(RIGHT[kind]) == []


@pytest.mark.parametrize(("gold", "reply", "pays"), [*BOXED, *TAGS])
def test_what_stands_around_a_box_and_a_tag(gold: str, reply: str, pays: bool) -> None:
    """Catches a unit behind a box that is not read, and a tag in prose that makes an answer ambiguous."""
    assert (verify(gold, reply).value == 1.0) is pays


@pytest.mark.parametrize(("choices", "gold", "same", "different"), CHOICE)
def test_letters_in_sentences(choices: tuple[str, ...], gold: str, same: list[str], different: list[str]) -> None:
    """Catches a denied or doubted letter that pays, and a plain one that does not."""
    assert [a for a in same if verify(gold, f"<answer>{a}</answer>", "choice", choices).value != 1.0] == []
    assert [a for a in different if verify(gold, f"<answer>{a}</answer>", "choice", choices).value == 1.0] == []


def test_the_other_verifiers() -> None:
    """Catches sentences that kind numeric does not read, and formulas and reasons that kind text does not."""
    assert mistakes(NUMERIC, "numeric") == []
    assert mistakes(TEXT, "text") == []


def test_nothing_unread_equals_anything_but_itself() -> None:
    """Catches a text that no rule reads and that is equal to another one with the same letters and numbers."""
    unread = [
        "3 blah 4",
        "4 blah 3",
        "2 blah 6",
        "6 foo 2",
        "blah 3 4",
        "3 4 blah",
        "1 zz 12",
        "12 zz 1",
        "a 3 b 4",
        "b 4 a 3",
        "3 qu 4",
        "4 qu 3",
    ]
    for gold in unread:
        assert verify(gold, f"<answer>{gold}</answer>").value == 1.0, gold
        assert not [a for a in unread if a != gold and verify(gold, f"<answer>{a}</answer>").value == 1.0], gold


@pytest.mark.parametrize("text", ODD)
def test_nothing_raises(text: str) -> None:
    """Catches an exception that leaves the reader: a verdict never raises, whatever stands on which side."""
    for kind in ("math", "choice", "numeric", "text"):
        for gold, answer in ((text, "5"), ("5", text), (text, text), ("5 ft 2 in", text), ("A", text)):
            assert verify(gold, f"<answer>{answer}</answer>", kind).value in (0.0, 1.0)


@pytest.mark.parametrize("file", ["found_2.jsonl", "peer_suites.jsonl"])
def test_cases_of_others(file: str) -> None:
    """Catches a wrong answer that is paid on cases that this project did not write; a few right ones may be refused."""
    path = FOUND / file
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if not row.get("disputed") and row.get("suite") != "latex2sympy2_ext"]
    paid = [
        verify(row["gold"], row["prediction"], row.get("verifier", "math"), row.get("choices")).value == 1.0
        for row in rows
    ]
    assert [row for row, pays in zip(rows, paid, strict=True) if pays and not row["expected"]] == []
    refused = [row for row, pays in zip(rows, paid, strict=True) if row["expected"] and not pays]
    assert len(refused) <= 12, refused
