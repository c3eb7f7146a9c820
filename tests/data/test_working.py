"""Golds with their working, and golds that no reply could be paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.golds import Sampler, reason
from lmm_r1.data.preparing.prepare import prepare
from lmm_r1.data.raw.sources import SOURCES, read_problems
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Problem


def wrote(folder: Path, *answers: Any, source: str = "rows", **more: Any) -> Path:
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for n, answer in enumerate(answers):
            asked = {"problem": f"q{n}?"} if source == "deepscaler" else {"id": f"r{n}", "question": f"q{n}?"}
            if source in ("problems", "openai"):
                asked = {"id": f"r{n}", "messages": [{"role": "user", "content": f"q{n}?"}]}
            file.write(json.dumps(asked | {"answer": answer} | more) + "\n")
    return path


WORKED = [
    ("He sells 4*5=<<4*5=20>>20\n#### 20", "20"),
    ("He sells 4*5=20.\nThen 1,000 more.\n####1,020 ", "1,020"),
    ("Half of it.\n\n#### \\frac{1}{2}", "\\frac{1}{2}"),
    ("4*5=20 #### $20", "$20"),
    ("So there are \\boxed{20}.", "20"),
    ("Thus $x = \\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
    ("<think>4*5=20</think><answer>20</answer>", "20"),
    ("Four times five. <answer> 20 </answer>", "20"),
]


@pytest.mark.parametrize(("written", "gold"), WORKED)
@pytest.mark.parametrize("source", ["rows", "deepscaler", "openai", "problems"])
def test_a_gold_behind_its_working_is_read(tmp_path: Path, source: str, written: str, gold: str) -> None:
    """Catches a solution kept as the answer: the right reply would be wrong, and only a copy of it paid."""
    (problem,), faults = read_problems(
        wrote(tmp_path, written, source=source), ImageStore(), VERIFIERS, reader=SOURCES[source]
    )
    assert faults == [] and problem.answer == gold
    assert VERIFIERS[problem.verifier](problem, f"<answer>{gold}</answer>").value == 1.0


def test_the_working_becomes_the_solution(tmp_path: Path) -> None:
    """Catches working that is lost though a supervised stage could imitate it."""
    path = wrote(tmp_path, *(written for written, _ in WORKED[:2]))
    problems, _ = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert [p.meta["solution"] for p in problems] == ["He sells 4*5=<<4*5=20>>20", "He sells 4*5=20.\nThen 1,000 more."]


@pytest.mark.parametrize("written", ["4*5=20\n####", "a #### 1 #### 2", "4\n#### 20\nor 30"])
def test_working_without_one_answer_is_a_fault(tmp_path: Path, written: str) -> None:
    """Catches the last of several answers, or none, being taken."""
    _, (fault,) = read_problems(wrote(tmp_path, written), ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert fault.field == "answer"


COPIES = [
    "He sells 4*5=20",
    "Multiply 4 by 5 first",
    "20; because 4*5 is 20",
    "20 or so",
    "118掳T",
    "\\text{4 of them} \\text{ OR } 5",
    "Center $=(20,10)$",
]


@pytest.mark.parametrize(
    ("gold", "verifier"), [(gold, "math") for gold in COPIES] + [(gold, "numeric") for gold in COPIES[1:]]
)
def test_a_gold_that_only_a_copy_equals_is_dropped(tmp_path: Path, gold: str, verifier: str) -> None:
    """Catches "verifies itself" by equal text: no reply that anybody would write is ever paid."""
    path = wrote(tmp_path, "7", gold, source="problems", verifier=verifier)
    _, (fault,) = read_problems(path, ImageStore(), VERIFIERS)
    assert (fault.row, fault.field) == (2, "answer")
    probes = Sampler(0).probes(VERIFIERS)
    assert reason(Problem("p", (), gold, verifier), VERIFIERS, probes) in (
        "gold does not verify itself",
        "gold does not verify itself",
    )


WORDS = ["The Eiffel Tower", "Friday", "\\text{east}", "a kitchen", "isosceles triangle"]


@pytest.mark.parametrize("gold", WORDS)
@pytest.mark.parametrize("source", ["rows", "deepscaler", "openai"])
def test_words_are_judged_as_words(tmp_path: Path, source: str, gold: str) -> None:
    """Catches words under the verifier of mathematics: "Eiffel Tower" would be wrong."""
    (problem,), faults = read_problems(
        wrote(tmp_path, gold, source=source), ImageStore(), VERIFIERS, reader=SOURCES[source]
    )
    assert (problem.verifier, faults) == ("text", [])
    said = gold.removeprefix("The ").removeprefix("\\text{").removesuffix("}").lower()
    assert VERIFIERS["text"](problem, f"<think>It is.</think><answer>{said}</answer>").value == 1.0


def test_lists_without_words_are_read(tmp_path: Path) -> None:
    """Catches a list of values that is dropped for its commas, names or commands."""
    golds = ["1, 2, 3", "x=2, y=3", "\\frac{1}{2}, \\sqrt{3}", "x<2 or x>5", "(2,5), (3,4)", "\\{1, 2\\}", "5 cm, 3 cm"]
    problems, faults = read_problems(wrote(tmp_path, *golds), ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert (len(problems), faults) == (len(golds), [])


@pytest.mark.parametrize(("gold", "reply"), [("seven", "7"), ("no solution", "\\emptyset"), ("twenty-five", "25")])
def test_words_that_mathematics_reads_stay_mathematics(tmp_path: Path, gold: str, reply: str) -> None:
    """Catches a number in words that is no longer answered by its digits."""
    (problem,), _ = read_problems(wrote(tmp_path, gold), ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert VERIFIERS[problem.verifier](problem, f"<answer>{reply}</answer>").value == 1.0


def test_what_is_kept_can_be_paid_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    """Catches rows that pay nobody and stay, and their reason being another's."""
    path = wrote(tmp_path, *(written for written, _ in WORKED), *COPIES[:2], *WORDS)
    report = prepare("rows", path, tmp_path / "out", VERIFIERS, ImageStore())
    assert report["kept"] == len(WORKED) + len(WORDS)
    assert sum(report["dropped"].values()) == 2 and "gold does not verify itself" in report["dropped"]
    first = report["first"]["gold does not verify itself"]
    assert (first["file"], first["row"], first["field"]) == ("rows.jsonl", len(WORKED) + 1, "answer")
    assert "He sells 4*5=20" in first["message"] and first["remedy"]
