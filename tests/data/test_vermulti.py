"""VerMulti from MathV360K: the paper's steps on rows in the published layout."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.prepare import Options, prepare
from lmm_r1.data.preparing.vermulti import (
    CATEGORIES,
    CONSTRUCTIONS,
    TABLE_A4,
    TABLE_A5,
    is_geometry,
    with_shuffled_choices,
)
from lmm_r1.data.raw.fields import with_options
from lmm_r1.data.raw.mathv360k import mathv360k
from lmm_r1.data.raw.sources import read_problems
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Image, Message, Problem, Text


def row(n: int, source: str, question: str, answer: str, *choices: str) -> dict[str, Any]:
    hint = "Hint: Please answer the question and provide the final answer at the end."
    said = f"<image>\n{hint}\nQuestion: {question} ({n})"
    if choices:
        said += "\nChoices:\n" + "\n".join(f"({chr(65 + k)}) {c}" for k, c in enumerate(choices))
    turns = [{"from": "human", "value": said}, {"from": "gpt", "value": f"The answer is {answer}"}]
    return {"id": f"identity_{n}", "image": f"{source}/images/{n % 3}.png", "conversations": turns}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rows = [
        row(0, "TabMWP", "How much?", "123"),
        row(1, "IconQA", "How many?", "4.11"),
        row(2, "ScienceQA", "Which?", "B", "iron", "wood"),
        row(3, "Geometry3K", "Find x.", "A", "1", "2", "3"),
        row(4, "UniGeo", "Find y.", "12"),
        row(5, "TQA", "How many sides has a triangle?", "C", "1", "2", "3"),
        row(6, "TQA", "Which planet is red?", "A", "Mars", "Venus"),
        row(7, "IconQA", "Which shape is a triangle?", "A", "this", "that"),
        row(8, "DocVQA", "Who wrote it?", "John Smith"),
        row(9, "A-OKVQA", "What is he doing?", "The man rides a horse"),
        row(10, "ChartQA", "What share?", "12 to 14"),
        row(11, "GEOS", "Find z.", "5 cm"),
    ]
    for source in {r["image"].split("/")[0] for r in rows}:
        (tmp_path / source / "images").mkdir(parents=True)
        for k in range(3):
            Pil.fromarray(np.full((30, 40, 3), 40 * k, np.uint8)).save(tmp_path / source / "images" / f"{k}.png")
    path = tmp_path / "train_samples_all_tuning.json"
    path.write_text(json.dumps(rows))
    return path


def test_plain_numbers_and_letters_are_kept(raw: Path) -> None:
    """Catches words, units and ranges that slip in, or a kind of verifiable answer that is lost."""
    out = raw.parent / "out"
    report = prepare("vermulti", raw, out, VERIFIERS, ImageStore())
    problems, _ = read_problems(out / "problems.jsonl", ImageStore(), VERIFIERS, strict=True)
    assert [p.id for p in problems] == [f"mathv360k-{n}" for n in range(1, 9)]
    assert sum(report["dropped"].values()) == 4
    assert report["dropped"]["no number or letter"] >= 2
    assert {p.source: p.meta["category"] for p in problems} == {
        "TabMWP": "math", "IconQA": "math", "ScienceQA": "science", "Geometry3K": "math", "UniGeo": "math", "TQA": "science",
    }  # fmt: skip
    assert report["by_category"] == {"math": 5, "science": 3}
    assert {p.domain for p in problems} == {"geometry", "perception"}
    assert report["paper"]["table"] == "A4"
    assert report["paper"]["sources"]["IconQA"] == {"kept": 2, "usable": 2, "paper": 7166}
    assert report["paper"]["total"] == {"kept": 8, "usable": 8, "paper": 65118}


def test_geometry_is_chosen_by_source_and_by_words(raw: Path) -> None:
    """Catches icons of triangles in VerMulti-Geo, or the geometry of TQA missing."""
    out = raw.parent / "out"
    report = prepare("vermulti-geo", raw, out, VERIFIERS, ImageStore())
    problems, _ = read_problems(out / "problems.jsonl", ImageStore(), VERIFIERS, strict=True)
    assert [(p.source, p.domain) for p in problems] == [(s, "geometry") for s in ("Geometry3K", "UniGeo", "TQA")]
    assert report["dropped"]["no geometry"] >= 6
    assert report["paper"]["total"]["paper"] == 16810


def test_the_draw_is_a_function_of_seed_and_ids(raw: Path) -> None:
    """Catches a sample that depends on anything but the rows and the seed, or that is not counted."""
    kept = []
    for k, seed in enumerate((0, 0, 1, 2)):
        out = raw.parent / f"out{k}"
        report = prepare("vermulti", raw, out, VERIFIERS, ImageStore(), Options(seed=seed, sample=4))
        assert report["kept"] == 4
        assert report["dropped"]["not sampled"] == 4
        assert report["paper"]["total"] == {"kept": 4, "usable": 8, "paper": 65118}
        kept.append([json.loads(line)["id"] for line in (out / "problems.jsonl").read_text().splitlines()])
    assert kept[0] == kept[1]
    assert len({tuple(ids) for ids in kept}) > 1
    assert prepare("vermulti", raw, raw.parent / "all", VERIFIERS, ImageStore(), Options(sample=0))["kept"] == 8


def test_shuffled_options_keep_their_meaning(raw: Path) -> None:
    """Catches a letter that no longer names its text, or a text that shows another order than the options."""
    before = mathv360k(row(1, "TQA", "Which?", "C", "a1", "b2", "c3", "d4"), 1, lambda path: Image("0" * 64, 30, 30))
    orders = set()
    for seed in range(30):
        after = with_shuffled_choices(before, seed)
        assert after == with_shuffled_choices(before, seed)
        assert after.choices is not None and before.choices is not None
        assert sorted(after.choices) == sorted(before.choices)
        assert after.choices[ord(after.answer) - 65] == "c3"
        (text,) = [p.text for p in after.messages[-1].content if isinstance(p, Text)]
        assert text.endswith(with_options("", after.choices))
        assert text.startswith("Which? (1)\nA. ")
        assert after.images == before.images
        orders.add(after.choices)
    assert len(orders) > 10
    report = prepare("vermulti", raw, raw.parent / "o", VERIFIERS, ImageStore(), Options(shuffle_choices=True))
    assert report["kept"] == 8, "shuffled golds still verify themselves"


def test_what_cannot_be_shuffled_stays() -> None:
    """Catches options moved in the list while the text, which is laid out otherwise, keeps the old order."""
    text = "Which? (A) x (B) y"
    for answer, choices in (("A", ("x", "y")), ("x", ("x", "y")), ("C", ("x", "y")), ("7", None)):
        problem = Problem("p", (Message("user", (Text(text),)),), answer, "choice", choices=choices)
        assert with_shuffled_choices(problem, 3) == problem


def test_the_tables_are_the_paper_s() -> None:
    """Catches a mistyped count, and a source without a category."""
    assert sum(TABLE_A4.values()) == 65_118
    assert sum(TABLE_A5.values()) == 16_810
    assert set(TABLE_A4) <= set(CATEGORIES)
    assert set(CATEGORIES.values()) == {"vqa", "document", "math", "science"}
    assert CONSTRUCTIONS["vermulti"].sample == 65_000


@pytest.mark.parametrize(
    ("source", "question", "geometric"),
    [
        ("GEOS", "Find it.", True),
        ("TQA", "What is the radius of the wheel?", True),
        ("TQA", "Which part of the cell is green?", False),
        ("CLEVR-Math", "Take away the big spheres. How many are left?", False),
    ],
)
def test_geometry_by_words(source: str, question: str, geometric: bool) -> None:
    """Catches the words of geometry applied to sources that the paper's table does not list."""
    assert is_geometry(Problem("p", (Message("user", (Text(question),)),), "1", source=source)) is geometric


def test_rows_in_another_order_give_the_same_choice(raw: Path) -> None:
    """Catches a draw by position: the reader names rows by number, so only the rows' own ids may decide."""
    rows = [{"id": f"r{n}", "question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(50)]
    kept = []
    for k in range(2):
        path = raw.parent / f"rows{k}.jsonl"
        random.Random(k).shuffle(rows)
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        prepare("rows", path, raw.parent / f"s{k}", VERIFIERS, ImageStore(), Options(sample=10))
        lines = (raw.parent / f"s{k}" / "problems.jsonl").read_text().splitlines()
        kept.append({json.loads(line)["id"] for line in lines})
    assert kept[0] == kept[1] and len(kept[0]) == 10
