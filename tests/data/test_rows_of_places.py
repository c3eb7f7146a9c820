"""Rows that ask for places: golds that lie outside of their picture, and pictures that preparing shrinks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.fingerprint import row_hash
from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.budget import Budget
from lmm_r1.data.preparing.prepare import Options, prepare
from lmm_r1.data.raw.sources import SOURCES, read_problems
from lmm_r1.rewards import VERIFIERS


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", text)]


def rows_file(folder: Path, *rows: dict[str, Any]) -> Path:
    for name, size in (("square.png", (840, 840)), ("wide.png", (1200, 500)), ("small.png", (60, 40))):
        Pil.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / name)
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for n, row in enumerate(rows):
            images = row.pop("pictures", ["square.png"])
            content = [{"type": "image", "image": name} for name in images]
            content.append({"type": "text", "text": f"Give the bounding box of object {n}."})
            base = {"id": f"b{n}", "messages": [{"role": "user", "content": content}], "verifier": "boxes"}
            file.write(json.dumps({**base, **row}) + "\n")
    return path


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ({"answer": "[200, 200, 900, 600]"}, "answer", "outside its picture of 840 x 840 pixels: [200, 200, 900, 600]"),
        ({"answer": "[-1, 0, 20, 20]"}, "answer", "outside its picture"),
        ({"answer": "(100, 841)", "meta": {"radius": 9}}, "answer", "outside its picture"),
        ({"answer": "[0, 0, 600, 600]", "pictures": ["wide.png"]}, "answer", "of 1200 x 500 pixels"),
        ({"answer": "[0, 0, 50, 41]", "pictures": ["small.png"]}, "answer", "of 60 x 40 pixels"),
        ({"answer": "[0.1, 0.2, 0.5, 0.6]"}, "answer", "inside the first pixel"),
        ({"answer": "[1, 2, 3, 4]", "meta": {"coordinates": "0-1"}}, "answer", "outside its picture of 1 x 1"),
        ({"answer": "[0, 0, 3, 1001]", "meta": {"coordinates": "0-1000"}}, "answer", "of 1000 x 1000"),
        ({"answer": "[0, 0, 3, 4]", "meta": {"coordinates": "cm"}}, "meta.coordinates", "pixels, 0-1, 0-1000"),
        ({"answer": "(3, 4)", "meta": {"radius": "near"}}, "meta.radius", "a number of at least 0"),
        ({"answer": "[0, 0, 30, 30]", "pictures": []}, "answer", "the row has no picture"),
        ({"answer": "[0, 0, 30, 30]", "pictures": ["square.png", "wide.png"]}, "meta.image", "which of the 2 pictures"),
        ({"answer": "[0, 0, 30, 30]", "pictures": ["square.png", "wide.png"], "meta": {"image": 0}}, "meta.image", "from 1 to 2"),
        ({"answer": "[0, 0, 30, 30]", "pictures": ["square.png", "wide.png"], "meta": {"image": 3}}, "meta.image", "from 1 to 2"),
        ({"answer": [0, 0, 30]}, "answer", "two or four numbers"),
        ({"answer": "[[0, 0, 9, 9], [20, 20, 30, 30]]"}, "answer", "is no box"),
        ({"answer": "[200, 200, 100, 50]"}, "answer", "is no box"),
        ({"answer": "upper left"}, "answer", "is no box"),
    ],
)  # fmt: skip
def test_a_place_outside_its_picture_is_a_fault_of_its_row(
    tmp_path: Path, row: dict[str, Any], field: str, says: str
) -> None:
    """Catches a gold that cannot be right being trained on, and one of which nobody knows in what it is measured."""
    path = rows_file(tmp_path, {"answer": "[10, 10, 50, 40]"}, row, {"answer": [10, 10, 50, 40]})
    problems, (fault,) = read_problems(path, ImageStore(), VERIFIERS)
    assert [p.answer for p in problems] == ["[10, 10, 50, 40]"] * 2
    assert (fault.file, fault.row, fault.field) == (str(path), 2, field) and says in fault.message


@pytest.mark.parametrize("room", [200, 90])
def test_preparing_scales_the_golds_of_pictures_that_it_shrinks(tmp_path: Path, room: int) -> None:
    """Catches a picture made smaller by --max-tokens whose gold box, point and radius keep the old pixels."""
    path = rows_file(
        tmp_path,
        {"answer": "[200, 200, 600, 600]"},
        {"answer": "(600, 250)", "meta": {"radius": 30}, "pictures": ["wide.png"]},
        {"answer": "[0.25, 0.25, 0.5, 0.5]", "meta": {"coordinates": "0-1"}},
        {"answer": "[10, 10, 30, 30]", "pictures": ["small.png"]},
        {"answer": "[200, 200, 900, 600]"},
        {"answer": "[200, 200, 600, 900]"},
    )
    report = prepare("problems", path, tmp_path / "out", VERIFIERS, ImageStore(), Options(budget=Budget(room)))
    assert report["dropped"] == {"gold outside its picture": 2} and report["kept"] == 4
    first = report["first"]["gold outside its picture"]
    assert (first["file"], first["row"], first["field"]) == ("rows.jsonl", 5, "answer") and first["remedy"]
    box, point, share, small = read_problems(tmp_path / "out/problems.jsonl", ImageStore(), VERIFIERS, strict=True)[0]
    side = box.images[0].width
    assert side < 840 and side == box.images[0].height
    assert numbers(box.answer) == pytest.approx([v * side / 840 for v in (200, 200, 600, 600)], abs=1e-3)
    wide = point.images[0]
    assert wide.width < 1200
    assert numbers(point.answer) == pytest.approx([wide.width / 2, wide.height / 2], abs=1e-3)
    assert point.meta["radius"] == pytest.approx([30 * wide.width / 1200, 30 * wide.height / 500], abs=1e-3)
    assert (share.answer, small.answer) == ("[0.25, 0.25, 0.5, 0.5]", "[10, 10, 30, 30]")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Where is it?", "answer": "[20, 10, 40, 30]", "verifier": "boxes"},
        {"question": "Where is it?", "answer": [20, 10, 40, 30], "verifier": "boxes", "meta": {"iou": 0.7}},
        {"question": "Give the bounding box of the square.", "answer": "(20, 10), (40, 30)"},
        {"question": "Its bbox, please.", "answer": [20, 10, 40, 30]},
        {"question": "Where is the square?", "answer": "[20, 10, 40, 30]"},
        {"question": "Locate the square.", "answer": [20, 10, 40, 30]},
    ],
)
def test_rows_of_ones_own_ask_for_boxes(tmp_path: Path, row: dict[str, Any]) -> None:
    """Catches a box that is compared like numbers: nobody hits four of them, and no resize would move them."""
    rows_file(tmp_path)
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row | {"id": "b", "image": "small.png"}) + "\n")
    (problem,), faults = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert (problem.verifier, numbers(problem.answer), faults) == ("boxes", [20, 10, 40, 30], [])
    assert problem.meta == row.get("meta", {})
    path.write_text(json.dumps(row | {"id": "b", "image": "small.png", "answer": "[20, 10, 90, 30]"}) + "\n")
    _, (fault,) = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert "outside its picture" in fault.message


def test_numbers_that_are_no_box_stay_numbers(tmp_path: Path) -> None:
    """Catches a list of values that half of an overlap would pay."""
    rows_file(tmp_path)
    path = tmp_path / "own.jsonl"
    for question in ("Which four numbers are shown?", "List the ages."):
        path.write_text(json.dumps({"question": question, "answer": "[2, 3, 5, 7]", "image": "small.png"}) + "\n")
        (problem,), _ = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["rows"])
        assert problem.verifier == "math"


@pytest.mark.parametrize("name", ["radius", "coordinates", "iou"])
def test_what_a_place_is_measured_by_is_part_of_its_row(tmp_path: Path, name: str) -> None:
    """Catches a run that goes on, and a pass rate that stays, though the same gold now means something else."""
    before, after = (
        {"radius": 3, "coordinates": "pixels", "iou": 0.5},
        {"radius": 9, "coordinates": "0-1000", "iou": 0.9},
    )
    path = rows_file(tmp_path, {"answer": "(5, 5)", "meta": before}, {"answer": "(5, 5)", "meta": {**before, name: after[name]}})  # fmt: skip
    one, two = read_problems(path, ImageStore(), VERIFIERS, strict=True)[0]
    same = replace(two, id=one.id, messages=one.messages)
    assert row_hash(same) != row_hash(one) == row_hash(replace(one, domain="x"))
