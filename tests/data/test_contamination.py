"""Contamination: real repeats are found, boilerplate and another figure are not, and the order of files is nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageDraw

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.against import questions_of, read_evaluation
from lmm_r1.data.preparing.contamination import (
    NEAR_BITS,
    Index,
    Question,
    distances,
    image_twins,
    picture_hash,
    stem,
    words,
)
from lmm_r1.data.preparing.prepare import prepare
from lmm_r1.errors import DataError, RecipeError
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Message, Problem, Text

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
NONE = np.zeros((0, 16), np.uint64)
LONG = "Janet has nine ducks that lay sixteen eggs per day and she eats three for breakfast every single morning"


def real(name: str) -> Path:
    path = DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def found(evaluation: str, training: str, shown: tuple[np.ndarray, np.ndarray] = (NONE, NONE)) -> str:
    """What becomes of a training row: "", "exact", "near", "sibling" or "other picture"."""
    (result,) = Index([Question("f", "1", evaluation, shown[0])]).look_up([(training, shown[1])])
    if result.matches:
        return "exact" if result.matches[0].exact else "near"
    return "sibling" if result.siblings else "other picture" if result.other_picture else ""


def figure(seed: int, *, dot: bool = False, side: int = 200) -> np.ndarray:
    rng = random.Random(seed)
    picture = Pil.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        pen.line([rng.randrange(side) for _ in range(4)], fill="black", width=3)
    if dot:
        pen.ellipse((90, 90, 94, 94), fill="red")
    return np.asarray(picture)


def hashes(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([picture_hash(picture) for picture in pictures])


def test_words() -> None:
    """Catches spellings that hide a repeat: case, marks, LaTeX, full width, ligatures."""
    assert words("Find $\\frac{a}{b_1}$, ＡＢ ﬁnally!") == ["find", "frac", "a", "b", "1", "ab", "finally"]


@pytest.mark.parametrize(
    ("evaluation", "training", "expected"),
    [
        (LONG, LONG.upper() + "!?", "exact"),
        (LONG, "Here is a riddle. " + LONG + ". How many are left?", "near"),
        (LONG, " ".join(LONG.split()[:14]), "near"),  # 7 of 12 runs
        (LONG, " ".join(LONG.split()[:12]), ""),  # 5 of 12
        (LONG, " ".join(reversed(LONG.split())), ""),
        ("What is 2 + 2?", "what is 2+2", "exact"),
        ("What is 2 + 2?", "What is 2 + 2 + 2?", ""),  # short ones whole
        ("What is 2 + 2?", "Tell me: what is 2 + 2? I forgot.", ""),
        ("one two three four five six seven", "so one two three four five six seven eight", ""),
        ("one two three four five six seven eight", "so one two three four five six seven eight", "near"),
        ("", "", ""),
        ("?!", "...", ""),
    ],
)
def test_texts(evaluation: str, training: str, expected: str) -> None:
    """Catches a threshold or a limit that is off by one, and short questions found inside of others."""
    assert found(evaluation, training) == expected


def test_boilerplate_is_no_repeat() -> None:
    """Catches the shared-8-gram rule, which flags a seventh of DeepScaleR for this sentence."""
    tail = "where m and n are relatively prime positive integers. Find m+n."
    a = f"The probability that a random walk of six steps on a cube ends at its start is m/n {tail}"
    b = f"Two circles of radius five and seven touch each other, and the length of their common tangent is m/n {tail}"
    assert found(a, b) == ""


def test_a_picture_must_be_near_as_well() -> None:
    """Catches "Find x." taken for a repeat whatever the diagram, and a real repeat missed for a dot of ink."""
    one, two = hashes(figure(1)), hashes(figure(2))
    again = hashes(figure(1, dot=True, side=200))
    assert 0 < int(distances(one, again)[0, 0]) <= NEAR_BITS < int(distances(one, two)[0, 0])
    assert found("Find x.", "find X", (one, again)) == "exact"
    assert found("Find m of A B C.", "Find m of ABC.", (one, one)) == "near"  # spaces between letters
    assert found("Find x.", "Find x.", (one, two)) == "other picture"
    assert found("Find x.", "Find y.", (one, one)) == ""
    assert found(LONG + " Find x.", LONG + " Find y.", (one, one)) == "sibling"
    assert found(LONG, LONG, (one, two)) == "other picture"


def test_one_of_the_two_without_pictures() -> None:
    """Catches "Find x." of a text file flagging every diagram, and a long text that is missed for its missing picture."""
    one = hashes(figure(1))
    assert found("Find x.", "Find x.", (NONE, one)) == ""
    assert found(LONG, LONG, (NONE, one)) == "exact"
    assert found(LONG, LONG, (one, NONE)) == "exact"


def test_options_are_not_part_of_the_question() -> None:
    """Catches a repeat that hides behind its options, or one that only has options in common."""
    text = LONG + "\nChoices:\nA. one of them\nB. two of them\nC. three of them all together"
    problem = Problem("p", (Message("user", (Text(text),)),), "A", "choice")
    assert stem(problem) == LONG
    assert stem(Problem("p", (Message("user", (Text(LONG),)),), "1")) == LONG


def test_twins_are_counted_from_both_sides() -> None:
    """Catches training pictures counted for evaluation questions, or exact ones left out of the near."""
    questions = [Question("f", str(n), "q", hashes(figure(n))) for n in (1, 1, 2)]
    training = hashes(figure(1), figure(1, dot=True), figure(3))
    twins = image_twins(questions, training, np.array([4, 2, 1]))
    assert twins["exact"] == {"questions": 2, "pictures": 1, "rows": 4}
    assert twins["near"] == {"questions": 2, "pictures": 2, "rows": 6}
    assert image_twins([], NONE, np.zeros(0, np.int64))["near"]["questions"] == 0


def test_evaluation_files_of_any_kind(tmp_path: Path) -> None:
    """Catches a file that is read as another kind, and questions lost since their answers are missing."""
    kinds = {
        "rows": {"id": "1", "question": LONG, "choices": None, "answer": "1", "image": None, "source": "s"},
        "hidden": {"question": LONG, "answer": None},
        "deepscaler": {"problem": LONG, "answer": ""},
        "mine": {"id": "1", "messages": [{"role": "user", "content": LONG}], "answer": "1", "verifier": "math"},
        "talk": {"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "x"}]},
    }
    for name, row in kinds.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row) + "\n{broken\n" + json.dumps({"other": 1}) + "\n")
        file = read_evaluation(path, ImageStore())
        assert [q.text for q in file.questions] == [LONG], name
        assert file.unread == 2
    assert len(read_evaluation(f"deepscaler:{tmp_path / 'deepscaler.jsonl'}", ImageStore()).questions) == 1
    with pytest.raises(RecipeError, match="no data source"):
        read_evaluation(f"nosuch:{tmp_path / 'rows.jsonl'}", ImageStore())
    (tmp_path / "empty.jsonl").write_text("")
    for bad in ("empty.jsonl", "none.jsonl"):
        with pytest.raises(DataError):
            read_evaluation(tmp_path / bad, ImageStore())


def test_the_order_of_evaluation_files_is_nothing(tmp_path: Path) -> None:
    """Catches a report that changes when the same files are named in another order."""
    rows = [
        {"id": str(n), "question": f"{LONG} {n}" if n < 30 else f"What is {n}?", "answer": str(n)} for n in range(40)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [(f"f{n % 3}", f"{LONG} {n}") for n in (3, 3, 5, 9, 14)]
    problems = [(f, Problem(f"e{n}", (Message("user", (Text(t),)),), "1")) for n, (f, t) in enumerate(said)]
    reports = []
    for order in (1, -1):
        files = [questions_of(f, [p for g, p in problems[::order] if g == f], ImageStore()) for f in ("f0", "f1", "f2")]
        reports.append(prepare("rows", path, tmp_path / f"o{order}", VERIFIERS, ImageStore(), against=files[::order]))
    assert reports[0] == reports[1]
    assert reports[0]["dropped"]["contaminated"] == 30


def test_deepscaler_against_math500(tmp_path: Path) -> None:
    """Catches boilerplate flagged among 2,000 real rows, or one of the 11 repeats (6 word for word) missed."""
    files = [read_evaluation(real("math500"), ImageStore())]
    report = prepare("rows", real("deepscaler_2000"), tmp_path / "o", VERIFIERS, ImageStore(), against=files)
    assert report["dropped"]["contaminated"] == 11
    assert report["against"][0]["word_for_word"] == 6
    assert report["kept"] + sum(report["dropped"].values()) == 2000


def test_geometry3k_against_its_test_set(tmp_path: Path) -> None:
    """Catches picture twins that are missed or dropped, and other questions about the same figure taken for repeats."""
    train, test = real("geometry3k_train"), real("geometry3k_test")
    if not (DATA / "images").is_dir():
        pytest.skip("the pictures are not here")
    files = [read_evaluation(test, ImageStore())]
    report = prepare("rows", train, tmp_path / "o", VERIFIERS, ImageStore(), against=files)
    assert report["image_twins"]["exact"]["questions"] == 139
    assert report["image_twins"]["near"]["questions"] == 253
    # Both true: one with an identical picture, one 39 bits away; same question, same answer.
    repeats = report["examples"]["contaminated"]
    assert report["dropped"]["contaminated"] == len(repeats) == 2
    assert {example["answer"] for example in repeats} == {"72", "16"}
    assert report["image_twins"]["sibling_rows"] > 20
